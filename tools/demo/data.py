"""Scikit-learn's bundled digits: 1797 real scans of 8 x 8 pixels, split once and for all."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn.functional import interpolate

SIDE = 16


@dataclass(frozen=True)
class Digits:
    """The scans, enlarged and scaled to [0, 1].

    Attributes:
        train_images: Shape: (1347, 1, 16, 16).
        train_labels: Shape: (1347,).
        test_images: Shape: (450, 1, 16, 16).
        test_labels: Shape: (450,).
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load(seed: int = 0) -> Digits:
    """Return the digits, a quarter of each class set aside for testing.

    Args:
        seed: Which quarter.
    """
    scans = load_digits()
    small = torch.tensor(scans.images, dtype=torch.float32).unsqueeze(1) / 16
    images = interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    labels = torch.tensor(scans.target)
    train, test = train_test_split(
        range(len(labels)), test_size=0.25, random_state=seed, stratify=scans.target
    )
    return Digits(images[train], labels[train], images[test], labels[test])
