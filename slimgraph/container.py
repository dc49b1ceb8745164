"""The one file format: a safetensors file whose metadata says, as JSON, what the tensors mean.

Any safetensors reader can open such a file. Nothing in it is code, and tensors are mapped into
memory when they are asked for, so a file may be larger than memory.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slimgraph.errors import FileError
from slimgraph.files import FilePath, draft_of
from slimgraph.filetype import FileType, identify

Kind = Literal["model", "plan", "mask"]
FORMAT = 1
_KEY = "slimgraph"
_DAMAGED = "the file is damaged or incomplete; write or download it again"
_USES = {
    "model": "load a model with `slimgraph.load`, or give it to `slimgraph-export` as MODEL",
    "plan": "load a plan with `slimgraph.Plan.load`, then apply it with `plan.apply(model)`",
    "mask": "load a mask with `slimgraph.Mask.load`, or give it to `slimgraph-export --mask`",
}


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of a file by name; each is mapped into memory when it is asked for."""

    def __init__(self, path: FilePath) -> None:
        file: Any = safe_open(os.fspath(path), framework="pt")
        self._file = file
        self._names = frozenset(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        """Map one tensor; changing it does not change the file."""
        if name not in self._names:
            raise KeyError(name)
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise FileError(f"the tensor `{name}` cannot be read: {error}") from error
        return tensor

    def __contains__(self, name: object) -> bool:
        """Tell whether the file has a tensor of this name, without mapping it."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Yield the names in alphabetical order."""
        return iter(sorted(self._names))

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._names)

    def metadata(self) -> dict[str, str]:
        """Return the file's text metadata."""
        found: dict[str, str] | None = self._file.metadata()
        return found or {}


def write(
    path: FilePath, kind: Kind, payload: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file, wholly or not at all.

    Args:
        path: Where to; an existing file is replaced once the new one is complete.
        kind: What the file holds.
        payload: Anything JSON can say.
        tensors: By name; contiguous tensors on the CPU are written without a copy.

    Raises:
        FileError: The folder is missing or read-only, or the disk is full.
    """
    document = {"kind": kind, "format": FORMAT, "payload": payload}
    metadata = {_KEY: json.dumps(document, allow_nan=False, ensure_ascii=False)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    names = list(plain)
    for group in overlapping(list(plain.values())):  # the format has no shared memory
        for number in group[1:]:
            plain[names[number]] = plain[names[number]].clone()
    with draft_of(path) as draft:
        draft.touch()
        mode = draft.stat().st_mode  # what the user's umask says; safetensors makes files private
        try:
            save_file(plain, draft, metadata)
        except SafetensorError as error:
            raise FileError(
                f"`{path}` cannot be written: {error}", hint="check the free space"
            ) from error
        draft.chmod(mode)


def overlapping(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Group tensors whose spans of memory meet.

    Args:
        tensors: Any dense tensors.

    Returns:
        The positions of the tensors of each group, ascending; groups by their first member.
    """
    groups: list[list[int]] = []
    spans = []
    for number, tensor in enumerate(tensors):
        start = tensor.data_ptr()
        end = start + extent(tensor) * tensor.element_size()
        if start == end:
            groups.append([number])
        else:
            spans.append((str(tensor.device), start, end, number))
    device_before, reach = "", 0
    for device, start, end, number in sorted(spans):
        if device == device_before and start < reach:
            groups[-1].append(number)
        else:
            groups.append([number])
            reach = end
        device_before, reach = device, max(reach, end)
    return sorted(sorted(group) for group in groups)


def extent(tensor: Tensor) -> int:
    """Count the elements of memory from the first to the last element of a tensor."""
    if tensor.numel() == 0:
        return 0
    dims = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in dims)


def read(path: FilePath, kind: Kind) -> tuple[dict[str, Any], LazyTensors]:
    """Open a file that `write` made.

    Args:
        path: The file.
        kind: What it must hold.

    Returns:
        The payload, and the tensors, which stay in the file until they are asked for.

    Raises:
        FileError: The file is missing, damaged, too new, or of another kind.
    """
    tensors = open_safetensors(path)
    document = _document(path, tensors.metadata())
    if document is None:
        raise FileError(
            f"`{path}` is a plain safetensors file, not a slimgraph {kind}",
            hint="bare weights need their model class: `slimgraph-export FILE "
            "--arch package.module:factory`",
        )
    if document["kind"] != kind:
        found = document["kind"]
        raise FileError(
            f"`{path}` is a slimgraph {found}, not a slimgraph {kind}", hint=_USES[found]
        )
    return document["payload"], tensors


def kind_of(path: FilePath) -> Kind | None:
    """Tell what a safetensors file holds; `None` if slimgraph did not write it."""
    document = _document(path, open_safetensors(path).metadata())
    kind: Kind | None = document["kind"] if document else None
    return kind


def open_safetensors(path: FilePath) -> LazyTensors:
    """Open any safetensors file.

    Raises:
        FileError: The file is missing, damaged or something else.
    """
    found = identify(path)
    if found is FileType.CUT_SAFETENSORS:
        raise FileError(f"`{path}` is {found}", hint=_DAMAGED)
    if found is not FileType.SAFETENSORS:
        raise FileError(
            f"`{path}` is {found}, not a file of slimgraph",
            hint="slimgraph reads here what `slimgraph.save`, `Plan.save` and `Mask.save` wrote",
        )
    try:
        return LazyTensors(path)
    except (SafetensorError, OSError) as error:
        message = f"`{path}` is a damaged safetensors file: {error}"
        raise FileError(message, hint=_DAMAGED) from error


def _document(path: FilePath, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    if _KEY not in metadata:
        return None
    try:
        document = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"`{path}` has a damaged slimgraph header: {error}", hint=_DAMAGED
        ) from error
    fields = document if isinstance(document, dict) else {}
    version = fields.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FileError(f"`{path}` has a slimgraph header without a format number", hint=_DAMAGED)
    if version > FORMAT:
        raise FileError(
            f"`{path}` was written by a newer slimgraph: it has format {version}, "
            f"and this version reads up to {FORMAT}",
            hint="upgrade with `pip install --upgrade slimgraph`",
        )
    kind = fields.get("kind")
    if (
        not isinstance(kind, str)
        or kind not in _USES
        or not isinstance(fields.get("payload"), dict)
    ):
        raise FileError(f"`{path}` has a slimgraph header of unknown kind: {kind!r}", hint=_DAMAGED)
    return fields
