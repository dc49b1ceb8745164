"""Where images come from: scikit-learn, idx files, torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimgraph.errors import SlimgraphError
from slimgraph.train.idx import read_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Means and deviations of the channels, of the training images.
_FASHION = (0.2860, 0.3530)
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_SVHN = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Given(NamedTuple):
    """What a source is told: the folder, whether to augment, whether to download."""

    root: Path | None = None
    augment: bool = True
    download: bool = False


class Parts(NamedTuple):
    """What a source gives: the training images augmented, the same as they are, the test images."""

    augmented: Any
    plain: Any
    test: Any
    classes: int


class Images(Dataset[tuple[Tensor, int]]):
    """Images in memory.

    Args:
        images: Shape: (N, C, H, W).
        labels: Shape: (N,).
        change: Applied to each image when it is asked for.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, change: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.images, self.labels, self.change = images, labels, change

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image and its label."""
        image = self.images[index]
        return image if self.change is None else self.change(image), int(self.labels[index])


def _digits(given: Given) -> Parts:
    """Scikit-learn's 1,797 scans of 8 x 8 pixels, of which 450 are for testing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SlimgraphError(
            "the digits are part of scikit-learn", hint="pip install scikit-learn"
        ) from error
    if given.root is not None:
        raise SlimgraphError("the digits are in no folder", hint="leave `root` out")
    scans = load_digits()
    images = torch.tensor(scans.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(scans.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:450], order[450:]
    whole = Images(images[train], labels[train])
    return Parts(whole, whole, Images(images[test], labels[test]), 10)


def _fashion(given: Given) -> Parts:
    """Fashion-MNIST: 60,000 and 10,000 images of 28 x 28 pixels, from idx files."""
    folder = given.root or DEBIAN
    if not list(folder.glob("train-images-idx3-ubyte*")):
        raise SlimgraphError(
            f"there are no idx files of Fashion-MNIST in `{folder}`",
            hint="`apt-get install dataset-fashion-mnist` on Debian, or give the folder of its "
            "four files as `root`",
        )

    def part(kind: str) -> tuple[Tensor, Tensor]:
        images = read_idx(folder / f"{kind}-images-idx3-ubyte").unsqueeze(1).float() / 255
        mean, deviation = _FASHION
        labels = read_idx(folder / f"{kind}-labels-idx1-ubyte").long()
        return (images - mean) / deviation, labels

    train = part("train")
    shaken = Images(*train, _shaken if given.augment else None)
    return Parts(shaken, Images(*train), Images(*part("t10k")), 10)


def _shaken(image: Tensor) -> Tensor:
    """Shift an image by up to two pixels and flip every second one."""
    up, left, flip = (int(n) for n in torch.randint(0, 20, (3,)))
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2), value=float(image.min()))
    height, width = image.shape[-2:]
    cut = padded[..., up % 5 : up % 5 + height, left % 5 : left % 5 + width]
    return cut.flip(-1) if flip % 2 else cut


def _torchvision(make: Callable[[Given, Any, Any], Parts]) -> Callable[[Given], Parts]:
    """Let errors of torchvision say what to do."""

    def source(given: Given) -> Parts:
        try:
            from torchvision import datasets, transforms
        except ImportError as error:
            raise SlimgraphError(
                "this data set is read by torchvision", hint="pip install torchvision"
            ) from error
        if given.root is None:
            raise SlimgraphError("this data set needs a folder", hint="give it as `root`")
        try:
            return make(given, datasets, transforms)
        except (RuntimeError, OSError) as error:
            raise SlimgraphError(
                f"the data set in `{given.root}` cannot be read: {error}",
                hint="check `root`; `download` fetches CIFAR and SVHN",
            ) from error

    return source


def _cifar(kind: str) -> Callable[[Given], Parts]:
    """CIFAR, flipped and shifted by up to four pixels."""

    def make(given: Given, sets: Any, t: Any) -> Parts:
        plain = [t.ToTensor(), t.Normalize(*_CIFAR)]
        moves = [t.RandomCrop(32, padding=4), t.RandomHorizontalFlip()] if given.augment else []

        def part(steps: list[Any], *, train: bool) -> Any:
            change = t.Compose(steps)
            folder, fetch = given.root, given.download
            return getattr(sets, kind)(folder, train=train, download=fetch, transform=change)

        test = part(plain, train=False)
        whole = part(plain, train=True)
        return Parts(part([*moves, *plain], train=True), whole, test, len(test.classes))

    return _torchvision(make)


def _svhn(given: Given, sets: Any, t: Any) -> Parts:
    """House numbers, which are never flipped."""
    plain = t.Compose([t.ToTensor(), t.Normalize(*_SVHN)])
    train, test = (
        sets.SVHN(given.root, split=split, download=given.download, transform=plain)
        for split in ("train", "test")
    )
    return Parts(train, train, test, 10)


def _imagenet(given: Given, sets: Any, t: Any) -> Parts:
    """ImageNet's folders `train` and `val`, each with one folder of photos per class."""
    assert given.root is not None
    ending = [t.ToTensor(), t.Normalize(*_IMAGENET)]
    plain = t.Compose([t.Resize(256), t.CenterCrop(224), *ending])
    shaken = t.Compose([t.RandomResizedCrop(224), t.RandomHorizontalFlip(), *ending])
    train = sets.ImageFolder(given.root / "train", shaken if given.augment else plain)
    whole, test = (sets.ImageFolder(given.root / part, plain) for part in ("train", "val"))
    return Parts(train, whole, test, len(test.classes))


SOURCES: dict[str, Callable[[Given], Parts]] = {
    "digits": _digits,
    "fashion-mnist": _fashion,
    "cifar10": _cifar("CIFAR10"),
    "cifar100": _cifar("CIFAR100"),
    "svhn": _torchvision(_svhn),
    "imagenet": _torchvision(_imagenet),
}
