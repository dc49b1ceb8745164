"""Files are told apart by what is in them."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from safetensors.torch import save_file
from torch import nn

from slimgraph.errors import FileError
from slimgraph.filetype import FileType, identify


def onnx_bytes() -> bytes:
    """Return a tiny ONNX model."""
    node = helper.make_node("Relu", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    return helper.make_model(graph).SerializeToString()


def numpy_bytes() -> bytes:
    """Return an array as NumPy saves it."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(100), FileType.IMAGE),
        (b"\xff\xd8\xff\xe0" + bytes(100), FileType.IMAGE),
        (b"RIFF\x10\0\0\0WEBPVP8 ", FileType.IMAGE),
        (b"\x1f\x8b\x08" + bytes(9), FileType.COMPRESSED),
        (b"\x89HDF\r\n\x1a\n", FileType.HDF5),
        (b"\x7fELF\x02", FileType.PROGRAM),
        (b"import torch\n", FileType.TEXT),
        ("größe\n".encode() * 200, FileType.TEXT),
        (b'{"a": 1}', FileType.TEXT),
        (b"PK\x03\x04 cut", FileType.CUT_ZIP),
        (b"PK", FileType.CUT_ZIP),
        (b"\0" * 40, FileType.UNKNOWN),
        (b"\x80", FileType.UNKNOWN),
        (b"\xff" * 8 + b"{", FileType.UNKNOWN),
        ((90).to_bytes(8, "little") + b'{"a":', FileType.CUT_SAFETENSORS),
        (pickle.dumps({"a": 1}), FileType.PICKLE),
        (onnx_bytes(), FileType.ONNX),
        (numpy_bytes(), FileType.NUMPY),
    ],
    ids=lambda value: value.name if isinstance(value, FileType) else repr(value[:8]),
)
def test_content_tells_the_type(tmp_path: Path, content: bytes, kind: FileType) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert identify(tmp_path / "model.pt") is kind


@pytest.mark.parametrize("start", [b"PK", b"MZ", b"\x1f\x8b", b"BZh"])
def test_the_length_of_a_header_is_no_signature(tmp_path: Path, start: bytes) -> None:
    """Seed 2549 of `tools.laws`: a header of 19,280 bytes begins as a zip archive does."""
    length = int.from_bytes(start, "little")
    path = tmp_path / "model.slim"
    path.write_bytes(length.to_bytes(8, "little") + b"{}".ljust(length))
    assert identify(path) is FileType.SAFETENSORS


def test_what_torch_writes_is_told_apart(tmp_path: Path) -> None:
    weights = nn.Linear(2, 2).state_dict()
    torch.save(weights, tmp_path / "new")
    torch.save(weights, tmp_path / "old", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "tensors")
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    with (tmp_path / "program").open("wb") as file:
        torch.export.save(program, file)
    found = {path.name: identify(path) for path in tmp_path.iterdir()}
    assert found == {
        "new": FileType.TORCH,
        "old": FileType.TORCH_LEGACY,
        "tensors": FileType.SAFETENSORS,
        "program": FileType.EXPORT,
    }


def test_any_other_zip_is_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert identify(tmp_path / "x") is FileType.ZIP


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.pt", "no such file"), (".", "is a folder"), ("a\0b", "cannot be read")],
)
def test_what_cannot_be_read_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        identify(tmp_path / name)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(FileError, match="is empty"):
        identify(tmp_path / "x")
