"""The one exception of the decoders; `load` turns it into a FileError that names the file."""

import re
import unicodedata

from slimgraph.errors import SlimgraphError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MalformedError(ValueError):
    """A file says something that no file of slimgraph says."""


def reason(error: Exception) -> str:
    """Say in one line why decoding failed."""
    if isinstance(error, MalformedError):
        return str(error)
    if isinstance(error, SlimgraphError):
        return error.message
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}"


def is_identifier(name: object) -> bool:
    """Tell whether a name may stand in generated code: an ASCII identifier."""
    return isinstance(name, str) and _IDENTIFIER.fullmatch(name) is not None


def is_path_part(name: object) -> bool:
    r"""Tell whether a name may be one part of a module path, between two dots.

    torch.fx writes such a part into the code it generates, either bare or between double quotes,
    so it must not end that string, and Python must not read it as another name.
    """
    return (
        isinstance(name, str)
        and name != ""
        and name.isprintable()
        and not set(name) & set('."\\')
        and unicodedata.normalize("NFKC", name) == name
    )
