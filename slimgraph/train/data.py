"""Data sets behind one option: training, held-out and test images with labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset

from slimgraph.errors import SlimgraphError
from slimgraph.train.sources import SOURCES, Given

Examples = Subset[tuple[Tensor, int]]


@dataclass(frozen=True, eq=False)
class Data:
    """A data set as training needs it.

    Attributes:
        train: What is trained on, augmented if the source can be.
        calibration: The same images as they are, for repair without labels.
        held_out: Part of the training images, not trained on: what choices are measured on.
        test: What is reported, and never looked at for a choice.
        shape: Of one image: (C, H, W).
        classes: How many.
    """

    train: Examples
    calibration: Examples
    held_out: Examples
    test: Examples
    shape: tuple[int, ...]
    classes: int


def load_data(
    name: str,
    root: str | Path | None = None,
    *,
    augment: bool = True,
    download: bool = False,
    held_out: float = 0.1,
) -> Data:
    """Open a data set.

    Args:
        name: One of `SOURCES`.
        root: Where its files are; digits need none, fashion-mnist looks where Debian's package
            puts them.
        augment: Whether training images are flipped and shifted; digits never are.
        download: Let torchvision fetch what is missing.
        held_out: Share of the training images to measure choices on, the same ones every time.

    Raises:
        SlimgraphError: An unknown name, or the files are missing; says how to get them.
    """
    if name not in SOURCES:
        raise SlimgraphError(f"unknown data set `{name}`", hint=f"use one of {', '.join(SOURCES)}")
    if not 0 < held_out < 1:
        raise SlimgraphError(f"the held-out share {held_out} does not lie in (0, 1)")
    parts = SOURCES[name](Given(None if root is None else Path(root), augment, download))
    order = torch.randperm(len(parts.plain), generator=torch.Generator().manual_seed(0)).tolist()
    count = max(round(held_out * len(order)), 1)
    measured, trained = sorted(order[:count]), sorted(order[count:])
    return Data(
        train=Subset(parts.augmented, trained),
        calibration=Subset(parts.plain, trained),
        held_out=Subset(parts.plain, measured),
        test=Subset(parts.test, range(len(parts.test))),
        shape=tuple(parts.test[0][0].shape),
        classes=parts.classes,
    )
