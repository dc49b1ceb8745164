"""What `torch.save` wrote: state dicts freely, anything else only when the user trusts it."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from slimgraph.errors import FileError, UnsafeFileError
from slimgraph.files import FilePath
from slimgraph.filetype import FileType
from slimgraph.loading.architecture import importable_here

_NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "ema")
_UNSAFE = re.compile(r"(?:GLOBAL|global|class)\s+[`']?([A-Za-z_][\w.]*\.[\w.]+)")
_INFLATION_LIMIT = 2**30  # bytes; torch.save does not compress at all
_SAFE_WAYS = (
    "there are two safe ways: where the model's code is, write the traced model with "
    "`slimgraph.save(slimgraph.trace(model, example_inputs), 'model.slim')`, or write its weights "
    "with `torch.save(model.state_dict(), 'weights.pt')` and give them together with "
    "`--arch package.module:factory`; if you trust whoever made the file, add `--trust-pickle`"
)


def read_checkpoint(path: FilePath, found: FileType, *, trust_pickle: bool) -> Any:
    """Read a checkpoint; without trust, only tensors and containers of them.

    Args:
        path: The file.
        found: `TORCH`, `TORCH_LEGACY` or `PICKLE`.
        trust_pickle: Run the code the file consists of, if it is more than tensors.

    Raises:
        UnsafeFileError: It is more than tensors, and is not trusted.
        FileError: It is damaged.
    """
    if found is FileType.PICKLE:
        return _read_bare_pickle(path, trust_pickle=trust_pickle)
    if found is FileType.TORCH:
        _check_inflation(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=found is FileType.TORCH)
    except Exception as error:  # damaged files make torch raise almost anything
        names = _unsafe_names(path, found, error)
        if not names:
            raise _damaged(path, found, error) from error
        if not trust_pickle:
            raise _unsafe(path, names) from error
    with importable_here():
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            raise _unpickling_failed(path, error) from error


def _read_bare_pickle(path: FilePath, *, trust_pickle: bool) -> Any:
    if not trust_pickle:
        raise _unsafe(path, [])
    with importable_here(), Path(path).open("rb") as file:
        try:
            return pickle.load(file)  # noqa: S301 - the user has said they trust it
        except Exception as error:
            raise _unpickling_failed(path, error) from error


def _check_inflation(path: FilePath) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > max(_INFLATION_LIMIT, 2 * Path(path).stat().st_size):
        raise FileError(
            f"`{path}` would unpack to {size / 2**30:.1f} GiB",
            hint="`torch.save` does not compress; download the file again from where it is honest",
        )


def _unsafe_names(path: FilePath, found: FileType, error: Exception) -> list[str]:
    """List what a checkpoint would import; found without running any of it."""
    if found is FileType.TORCH:
        try:
            return sorted(get_unsafe_globals_in_checkpoint(path))
        except Exception:  # then it is damaged, which the caller reports
            return []
    if isinstance(error, pickle.UnpicklingError):
        return _UNSAFE.findall(str(error))[:1]
    return []


def _damaged(path: FilePath, found: FileType, error: Exception) -> FileError:
    first_line = next(iter(str(error).splitlines()), "")
    if isinstance(error, pickle.UnpicklingError):
        first_line = str(error).rsplit("\n", 1)[-1]
    return FileError(
        f"`{path}` looks like {found} but cannot be read: {type(error).__name__}: {first_line}",
        hint="the file is damaged or incomplete; save or download it again",
    )


def _unsafe(path: FilePath, names: list[str]) -> UnsafeFileError:
    which = f": {', '.join(f'`{name}`' for name in names[:3])}" if names else ""
    return UnsafeFileError(
        f"`{path}` is a pickle that runs code when it is loaded{which}", hint=_SAFE_WAYS
    )


def _unpickling_failed(path: FilePath, error: Exception) -> FileError:
    return FileError(
        f"`{path}` cannot be unpickled: {type(error).__name__}: {error}",
        hint="run slimgraph from the folder the model's own module is in, with the versions of "
        "its packages the model was saved with",
    )


def state_dict_in(path: FilePath, content: Any) -> Mapping[str, Tensor] | nn.Module:
    """Find the weights in what a checkpoint holds.

    Args:
        path: The file, for the message.
        content: A state dict, or a dict with one under a customary key.

    Raises:
        FileError: There are no weights in it.
    """
    if isinstance(content, nn.Module):
        return content
    if isinstance(content, Mapping):
        for key in _NESTED:
            inner = content.get(key)
            if isinstance(inner, nn.Module) or _is_state_dict(inner):
                return state_dict_in(path, inner)
        if _is_state_dict(content):
            return content
        keys = ", ".join(f"`{key}`" for key in list(content)[:8])
        found = f"a dict without weights (its keys: {keys})" if keys else "an empty dict"
    else:
        found = f"a `{type(content).__name__}`"
    raise FileError(
        f"`{path}` holds {found}, not the weights of a model",
        hint="save them with `torch.save(model.state_dict(), path)`",
    )


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and all(isinstance(key, str) for key in content)
        and any(isinstance(value, Tensor) for value in content.values())
    )
