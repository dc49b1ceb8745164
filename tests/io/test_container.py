"""The file format: written wholly or not at all, and read only when it is what it says."""

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from slimgraph.container import kind_of, open_safetensors, overlapping, read, write
from slimgraph.errors import FileError
from tests.io.forge import write_container

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False])}


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let no file grow beyond 100 kB, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    payload = {
        "text": "größe \u2028 \ud83c\udf88".encode("utf-16", "surrogatepass").decode("utf-16")
    }
    write(tmp_path / "x", "mask", {**payload, "n": [1, 2.5, None]}, TENSORS)
    found, tensors = read(tmp_path / "x", "mask")
    assert found == {**payload, "n": [1, 2.5, None]}
    assert list(tensors) == ["a", "b"]
    assert len(tensors) == 2
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert kind_of(tmp_path / "x") == "mask"


def test_any_safetensors_reader_opens_the_file(tmp_path: Path) -> None:
    write(tmp_path / "x", "plan", {}, TENSORS)
    tensors = open_safetensors(tmp_path / "x")
    assert json.loads(tensors.metadata()["slimgraph"]) == {
        "kind": "plan",
        "format": 1,
        "payload": {},
    }


def test_an_absent_tensor_is_a_key_error(tmp_path: Path) -> None:
    write(tmp_path / "x", "mask", {}, TENSORS)
    _, tensors = read(tmp_path / "x", "mask")
    assert "c" not in tensors
    with pytest.raises(KeyError, match="c"):
        tensors["c"]


def test_changing_a_loaded_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    write(tmp_path / "x", "mask", {}, TENSORS)
    _, tensors = read(tmp_path / "x", "mask")
    tensors["a"].zero_()
    assert torch.equal(read(tmp_path / "x", "mask")[1]["a"], TENSORS["a"])


def test_tensors_that_share_memory_are_written(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    write(tmp_path / "x", "mask", {}, {"all": base, "same": base, "part": base[2:5]})
    _, tensors = read(tmp_path / "x", "mask")
    assert tensors["same"].tolist() == base.tolist()
    assert tensors["part"].tolist() == [2, 3, 4]


def test_overlapping_finds_chains_and_leaves_neighbours_apart() -> None:
    base = torch.arange(100.0)
    spans = [base[0:10], base[50:60], base[9:20], base[20:30], base[:0], base[18:19]]
    assert overlapping(spans) == [[0, 2, 5], [1], [3], [4]]


def test_a_file_is_readable_by_those_the_umask_allows(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(tmp_path / "x", "mask", {}, TENSORS)
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "x")
    write(tmp_path / "link", "mask", {}, TENSORS)
    assert (tmp_path / "link").is_symlink()
    assert kind_of(tmp_path / "real" / "x") == "mask"


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "x", "mask", {"old": True}, TENSORS)
    with pytest.raises(FileError, match="cannot be written"):
        write(tmp_path / "x", "mask", {}, {"big": torch.zeros(100_000)})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert read(tmp_path / "x", "mask")[0] == {"old": True}


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr("slimgraph.container.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", "mask", {}, TENSORS)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no folder `.*nowhere`") as caught:
        write(tmp_path / "nowhere" / "x", "mask", {}, TENSORS)
    assert caught.value.hint == "create the folder, or choose another one"


def test_a_read_only_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(tmp_path, os.W_OK):  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda *_: False)
    try:
        with pytest.raises(FileError, match="is read-only"):
            write(tmp_path / "x", "mask", {}, TENSORS)
    finally:
        tmp_path.chmod(stat.S_IRWXU)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        write(tmp_path, "mask", {}, TENSORS)


def test_another_kind_is_named_with_its_use(tmp_path: Path) -> None:
    write(tmp_path / "x", "mask", {}, TENSORS)
    with pytest.raises(FileError, match="is a slimgraph mask, not a slimgraph model") as caught:
        read(tmp_path / "x", "model")
    assert "--mask" in str(caught.value.hint)


def test_a_plain_safetensors_file_is_told_apart(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x")
    assert kind_of(tmp_path / "x") is None
    with pytest.raises(FileError, match="is a plain safetensors file") as caught:
        read(tmp_path / "x", "plan")
    assert "--arch" in str(caught.value.hint)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    write_container(tmp_path / "x", {"kind": "mask", "format": 7, "payload": {}}, TENSORS)
    with pytest.raises(FileError, match="format 7, and this version reads up to 1") as caught:
        read(tmp_path / "x", "mask")
    assert "pip install --upgrade slimgraph" in str(caught.value.hint)


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "[" * 100_000,
        "[1]",
        {"kind": "mask", "payload": {}},
        {"kind": "mask", "format": True, "payload": {}},
        {"kind": "mask", "format": -1, "payload": {}},
        {"kind": "mask", "format": "1", "payload": {}},
        {"kind": ["mask"], "format": 1, "payload": {}},
        {"kind": "face", "format": 1, "payload": {}},
        {"kind": "mask", "format": 1, "payload": [1]},
    ],
    ids=lambda document: str(document)[:40],
)
def test_a_bad_header_is_an_error(tmp_path: Path, document: object) -> None:
    write_container(tmp_path / "x", document, TENSORS)
    with pytest.raises(FileError, match="slimgraph header"):
        read(tmp_path / "x", "mask")


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x", "mask", {"text": "word " * 20}, TENSORS)
    content = (tmp_path / "x").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(FileError):
            read(tmp_path / "cut", "mask")


def test_every_flipped_byte_of_the_header_is_an_error_or_harmless(tmp_path: Path) -> None:
    write(tmp_path / "x", "mask", {}, TENSORS)
    content = (tmp_path / "x").read_bytes()
    length = int.from_bytes(content[:8], "little") + 8
    for position in range(length):
        changed = bytearray(content)
        changed[position] ^= 0x15
        (tmp_path / "bad").write_bytes(changed)
        with suppress(FileError):
            _, tensors = read(tmp_path / "bad", "mask")
            assert sum(tensor.numel() for tensor in tensors.values()) <= len(content)


def test_a_tensor_declared_larger_than_the_file_is_an_error(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [800_000_000], "data_offsets": [0, 3_200_000_000]}}
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 64)
    with pytest.raises(FileError, match="damaged safetensors"):
        open_safetensors(tmp_path / "x")
