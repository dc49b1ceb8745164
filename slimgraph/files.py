"""Writing files: wholly or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slimgraph.errors import FileError

FilePath = str | os.PathLike[str]


def check_target(path: FilePath) -> None:
    """Refuse a path that cannot be written, before any work is done.

    Raises:
        FileError: It is a folder, or its folder is missing or read-only.
    """
    target = Path(path)
    if target.is_dir():
        raise FileError(f"`{path}` is a folder", hint="give the name of a file inside it")
    folder = target.parent
    if not folder.is_dir():
        raise FileError(
            f"`{path}` cannot be written: there is no folder `{folder}`",
            hint="create the folder, or choose another one",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(
            f"`{path}` cannot be written: the folder `{folder}` is read-only",
            hint="choose a folder you may write to",
        )


@contextmanager
def draft_of(path: FilePath) -> Iterator[Path]:
    """Give a path to write to, and move it to its place if all goes well.

    Raises:
        FileError: The folder is missing or read-only, or the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link stays a link to the new content
    check_target(target)
    draft = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield draft
        draft.replace(target)
    except OSError as error:
        raise FileError(
            f"`{path}` cannot be written: {error}", hint="check the free space and the permissions"
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_text(path: FilePath, text: str) -> None:
    """Write a text file, wholly or not at all.

    Raises:
        FileError: As for `draft_of`.
    """
    with draft_of(path) as draft:
        draft.write_text(text, encoding="utf-8")
