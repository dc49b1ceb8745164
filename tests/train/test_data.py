"""Every data set behind its option, read from tiny trees of the real form."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets

from slimgraph.errors import FileError, SlimgraphError
from slimgraph.train import Data, load_data
from slimgraph.train.idx import read_idx
from slimgraph.train.sources import DEBIAN

CHANCE = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def fashion(root: Path) -> None:
    for kind, count in (("train", 20), ("t10k", 7)):
        images = idx(CHANCE.integers(0, 256, (count, 28, 28)))
        labels = idx(CHANCE.integers(0, 10, count))
        (root / f"{kind}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (root / f"{kind}-labels-idx1-ubyte").write_bytes(labels)


def cifar(root: Path, kind: Any, label: str, names: str) -> None:
    folder = root / kind.base_folder
    folder.mkdir()
    for name, _ in [*kind.train_list, *kind.test_list]:
        pixels = CHANCE.integers(0, 256, (12, 3072), dtype=np.uint8)
        entry = {"data": pixels, label: [n % 10 for n in range(12)]}
        (folder / name).write_bytes(pickle.dumps(entry))
    classes = [str(n) for n in range(100 if label == "fine_labels" else 10)]
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({names: classes}))


def svhn(root: Path) -> None:
    for part in ("train", "test"):
        pixels = CHANCE.integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
        labels = np.arange(1, 13).reshape(-1, 1) % 10 + 1  # 10 stands for 0
        scipy.io.savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": labels})


def imagenet(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("n01440764", "n01443537", "n01484850"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = CHANCE.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG")


SETS: dict[str, tuple[Any, tuple[int, ...], int, int]] = {
    "fashion-mnist": (fashion, (1, 28, 28), 10, 20),
    "cifar10": (
        lambda root: cifar(root, datasets.CIFAR10, "labels", "label_names"), (3, 32, 32), 10, 60,
    ),
    "cifar100": (
        lambda root: cifar(root, datasets.CIFAR100, "fine_labels", "fine_label_names"),
        (3, 32, 32), 100, 12,
    ),
    "svhn": (svhn, (3, 32, 32), 10, 12),
    "imagenet": (imagenet, (3, 224, 224), 3, 12),
}  # fmt: skip


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated files have other sums than the real ones."""
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(datasets.svhn, "check_integrity", lambda *_: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda _: True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", SETS)
def test_a_tiny_tree_of_every_set_is_read(tmp_path: Path, name: str) -> None:
    write, shape, classes, count = SETS[name]
    write(tmp_path)
    data = load_data(name, tmp_path, held_out=0.25)
    assert (data.shape, data.classes) == (shape, classes)
    assert len(data.train) + len(data.held_out) == count
    assert len(data.held_out) == count // 4
    for part in (data.train, data.calibration, data.held_out, data.test):
        images, labels = next(iter(DataLoader(part, batch_size=3)))
        assert images.shape == (3, *shape)
        assert images.dtype == torch.float32
        assert labels.min() >= 0
        assert labels.max() < classes


def assert_apart(data: Data) -> None:
    trained = {tuple(image.flatten().tolist()) for image, _ in data.calibration}
    held = {tuple(image.flatten().tolist()) for image, _ in data.held_out}
    assert not trained & held


@pytest.mark.usefixtures("unchecked")
def test_what_is_measured_on_is_never_trained_on(tmp_path: Path) -> None:
    svhn(tmp_path)
    assert_apart(load_data("svhn", tmp_path, held_out=0.5))
    fashion(tmp_path)
    one = load_data("fashion-mnist", tmp_path, held_out=0.3)
    assert_apart(one)
    two = load_data("fashion-mnist", tmp_path, held_out=0.3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one.held_out, two.held_out, strict=True))


def test_augmentation_is_for_training_alone(tmp_path: Path) -> None:
    fashion(tmp_path)
    data = load_data("fashion-mnist", tmp_path)
    still = load_data("fashion-mnist", tmp_path, augment=False)
    first = [data.train[0][0] for _ in range(8)]
    assert any(not torch.equal(first[0], other) for other in first[1:])
    for part in ("calibration", "held_out", "test"):
        (one, label), (two, other) = getattr(data, part)[1], getattr(still, part)[1]
        assert torch.equal(one, two)
        assert label == other
    assert torch.equal(still.train[0][0], still.calibration[0][0])
    assert data.train[0][1] == data.calibration[0][1]


def test_digits_come_with_scikit_learn() -> None:
    data = load_data("digits")
    assert [len(part) for part in (data.train, data.held_out, data.test)] == [1212, 135, 450]
    assert data.shape == (1, 8, 8)
    assert {label for _, label in data.test} == set(range(10))


def test_fashion_mnist_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SlimgraphError) as caught:
        load_data("fashion-mnist", tmp_path)
    assert "apt-get install dataset-fashion-mnist" in str(caught.value)
    assert DEBIAN.parts[1:3] == ("usr", "share")


@pytest.mark.parametrize("name", ["cifar10", "svhn", "imagenet"])
def test_what_is_not_there_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(SlimgraphError) as caught:
        load_data(name, tmp_path)
    assert "cannot be read" in str(caught.value)
    with pytest.raises(SlimgraphError) as caught:
        load_data(name)
    assert "give it as `root`" in str(caught.value)


def test_unknown_names_and_shares_are_refused() -> None:
    with pytest.raises(SlimgraphError) as caught:
        load_data("mnist3d")
    assert "use one of digits, fashion-mnist" in str(caught.value)
    with pytest.raises(SlimgraphError):
        load_data("digits", held_out=1.0)
    with pytest.raises(SlimgraphError):
        load_data("digits", "somewhere")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08\x01\0\0\0\x05ab", b"\0\0\x0d\x01\0\0\0\0", b"\x1f\x8bno", b"\0\0\x08\x03\0"],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(FileError) as caught:
        read_idx(tmp_path / "labels")
    assert "unpack it again" in str(caught.value)


def test_idx_files_keep_their_numbers(tmp_path: Path) -> None:
    wanted = CHANCE.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    (tmp_path / "one").write_bytes(idx(wanted))
    (tmp_path / "two.gz").write_bytes(gzip.compress(idx(wanted)))
    for name in ("one", "two"):
        assert np.array_equal(read_idx(tmp_path / name).numpy(), wanted)
