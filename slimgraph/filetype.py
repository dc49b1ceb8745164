"""Telling what a file is by its content; its name says nothing reliable."""

import os
import zipfile
from enum import StrEnum
from pathlib import Path

from slimgraph.errors import FileError
from slimgraph.files import FilePath

_HEADER_LIMIT = 100_000_000  # safetensors' own limit
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number


class FileType(StrEnum):
    """What a file is; the value completes the sentence "this is ..."."""

    SAFETENSORS = "a safetensors file"
    CUT_SAFETENSORS = "a truncated safetensors file"
    TORCH = "a `torch.save` archive"
    TORCH_LEGACY = "a `torch.save` file of the format before torch 1.6"
    TORCHSCRIPT = "a TorchScript archive"
    EXPORT = "a `torch.export` archive"
    PICKLE = "a Python pickle"
    CUT_ZIP = "a truncated or damaged zip archive"
    ZIP = "a zip archive"
    ONNX = "an ONNX model"
    TFLITE = "a TensorFlow Lite model"
    GGUF = "a GGUF model"
    NUMPY = "a NumPy array"
    HDF5 = "an HDF5 file"
    IMAGE = "an image"
    PDF = "a PDF document"
    COMPRESSED = "a compressed file"
    PROGRAM = "an executable"
    TEXT = "a text file"
    UNKNOWN = "a file of no kind slimgraph knows"


_SIGNATURES: tuple[tuple[int, bytes, FileType], ...] = (
    (0, _LEGACY_TORCH, FileType.TORCH_LEGACY),
    (0, b"\x89PNG", FileType.IMAGE),
    (0, b"\xff\xd8\xff", FileType.IMAGE),
    (0, b"GIF8", FileType.IMAGE),
    (8, b"WEBP", FileType.IMAGE),
    (0, b"%PDF", FileType.PDF),
    (0, b"\x89HDF", FileType.HDF5),
    (0, b"\x93NUMPY", FileType.NUMPY),
    (0, b"\x1f\x8b", FileType.COMPRESSED),
    (0, b"BZh", FileType.COMPRESSED),
    (0, b"\xfd7zXZ", FileType.COMPRESSED),
    (0, b"7z\xbc\xaf", FileType.COMPRESSED),
    (0, b"\x7fELF", FileType.PROGRAM),
    (0, b"MZ", FileType.PROGRAM),
    (0, b"GGUF", FileType.GGUF),
    (4, b"TFL3", FileType.TFLITE),
)

_ONNX_FIELDS = (b"\x12", b"\x1a", b"\x2a", b"\x3a", b"\x42")  # the tags that may come second


def identify(path: FilePath) -> FileType:
    """Tell what a file is.

    Args:
        path: The file; only a few bytes (of a zip archive: its list of members) are read.

    Raises:
        FileError: The file is missing, a folder, empty or unreadable.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise FileError(f"`{path}` is a folder, not a file", hint="give a file inside it")
        with path.open("rb") as file:
            head = file.read(512)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise FileError(f"no such file: `{path}`", hint="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise FileError(f"`{path}` cannot be read: {error}") from error
    if not head:
        raise FileError(f"`{path}` is empty", hint="write or download it again")
    return _from_head(path, head, size)


def _from_head(path: Path, head: bytes, size: int) -> FileType:
    length = int.from_bytes(head[:8], "little")  # of a safetensors header; any bytes may come of it
    if head[8:9] == b"{" and length <= _HEADER_LIMIT:
        return FileType.SAFETENSORS if 8 + length <= size else FileType.CUT_SAFETENSORS
    if head.startswith(b"PK"):
        return _zip_content(path)
    for offset, signature, kind in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    if _is_onnx(head):
        return FileType.ONNX
    if head[0] == 0x80 and b"\x00" < head[1:2] <= b"\x05":
        return FileType.PICKLE
    return FileType.TEXT if _is_text(head) else FileType.UNKNOWN


def _zip_content(path: Path) -> FileType:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
            roots = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return FileType.CUT_ZIP
    if "archive_format" in names or "serialized_exported_program.json" in roots:
        return FileType.EXPORT
    if "constants.pkl" in names:
        return FileType.TORCHSCRIPT
    return FileType.TORCH if "data.pkl" in names else FileType.ZIP


def _is_onnx(head: bytes) -> bool:
    """Check for a protobuf whose field 1 is the IR version, before a field a ModelProto has."""
    version, following = head[:2], head[2:3]
    return version[:1] == b"\x08" and version[1:] < b"\x40" and following in _ONNX_FIELDS


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-4].decode() if len(head) == 512 else head.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
