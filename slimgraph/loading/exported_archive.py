"""The zip `torch.export.save` writes: JSON documents, and weights as raw bytes."""

import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgraph.container import extent
from slimgraph.files import FilePath
from slimgraph.serialize.errors import MalformedError

_JSON_LIMIT = 2**28  # bytes
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: the lengths of name and extra field
# The numbers torch.export's schema gives to dtypes.
_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    34: "uint32",
    35: "uint64",
}


class PickledPartError(Exception):
    """A part of an archive can only be read by running it."""


def dtype_name(number: Any) -> str:
    """Return torch's name of a dtype of the schema."""
    if type(number) is not int or number not in _DTYPES:
        raise MalformedError(f"{number!r} is no dtype")
    return _DTYPES[number]


class Archive:
    """Reads the parts of an archive that are data.

    Args:
        path: The archive.
        archive: The same, opened as a zip.
    """

    def __init__(self, path: FilePath, archive: zipfile.ZipFile) -> None:
        self._path = Path(path)
        self._archive = archive
        self._mapped: Any = None
        marker = next((n for n in archive.namelist() if n.endswith("/archive_format")), None)
        if marker is None:
            raise PickledPartError("it has the format of torch 2.7 and before")
        self._root = marker.removesuffix("archive_format")

    def model_name(self) -> str:
        """Return the name of the archive's only program, or of the one called `model`."""
        prefix = f"{self._root}models/"
        names = [
            name.removeprefix(prefix).removesuffix(".json")
            for name in self._archive.namelist()
            if name.startswith(prefix) and name.endswith(".json")
        ]
        if not names:
            raise MalformedError("it holds compiled code and no graph")
        return "model" if "model" in names else names[0]

    def document(self, name: str) -> Any:
        """Parse one of the JSON documents."""
        member = self._member(name)
        if member.file_size > _JSON_LIMIT:
            raise MalformedError(f"`{name}` has {member.file_size} bytes")
        return json.loads(self._archive.read(member))

    def tensors(self, folder: str, config: str) -> "PayloadTensors":
        """Return the tensors one of the payload configurations lists."""
        entries = self.document(config).get("config")
        if not isinstance(entries, dict):
            raise MalformedError(f"`{config}` lists nothing")
        return PayloadTensors(self, folder, entries)

    def storage(self, name: str) -> tuple[torch.UntypedStorage, int, int]:
        """Map the archive; return it, and the offset and the length of a member, in bytes."""
        member = self._member(name)
        if member.compress_type != zipfile.ZIP_STORED:
            raise MalformedError(f"`{name}` is compressed")
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            file.seek(member.header_offset)
            lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = member.header_offset + _LOCAL_HEADER.size + sum(lengths)
        if start + member.file_size > size:
            raise MalformedError(f"`{name}` reaches beyond the end of the file")
        if self._mapped is None:
            mapped: Any = torch.UntypedStorage.from_file(str(self._path), shared=False, nbytes=size)
            self._mapped = mapped
        return self._mapped, start, member.file_size

    def _member(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._archive.getinfo(f"{self._root}{name}")
        except KeyError as error:
            raise MalformedError(f"`{name}` is missing") from error


class PayloadTensors(Mapping[str, Tensor]):
    """Weights or constants of an archive by name, mapped into memory when asked for."""

    def __init__(self, archive: Archive, folder: str, entries: dict[str, Any]) -> None:
        self._archive = archive
        self._folder = folder
        self._entries = entries

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order of the file."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._entries)

    def place(self, name: str) -> str:
        """Return what two names have in common exactly if they name the same tensor."""
        return json.dumps(self._entries[name], sort_keys=True)

    def requires_grad(self, name: str) -> bool:
        """Tell whether a tensor is trained."""
        return (self._entries[name].get("tensor_meta") or {}).get("requires_grad") is True

    def __getitem__(self, name: str) -> Tensor:
        """Map one tensor; changing it does not change the file."""
        entry = self._entries[name]
        meta = entry.get("tensor_meta")
        if entry.get("use_pickle") is not False or not isinstance(meta, dict):
            raise PickledPartError(f"`{name}` is pickled")
        dtype = getattr(torch, dtype_name(meta["dtype"]))
        sizes = [_plain(number) for number in meta["sizes"]]
        strides = [_plain(number) for number in meta["strides"]]
        offset = _plain(meta["storage_offset"])
        reach = offset + extent(torch.empty_strided(sizes, strides, device="meta"))
        mapped, start, length = self._archive.storage(f"{self._folder}/{entry['path_name']}")
        if reach * dtype.itemsize > length:
            raise MalformedError(f"`{name}` says it has shape {sizes}, but only {length} bytes")
        if start % dtype.itemsize:
            mapped, start = mapped[start : start + length].clone(), 0
        tensor = torch.empty(0, dtype=dtype)
        tensor.set_(mapped, start // dtype.itemsize + offset, sizes, strides)
        return tensor


def _plain(number: Any) -> int:
    value = number.get("as_int") if isinstance(number, dict) else None
    if type(value) is not int or not 0 <= value < 2**40:
        raise MalformedError(f"{number!r} is no size")
    return value
