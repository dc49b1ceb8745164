"""Values of which consumers read some channels: by choice, or by positions of the model's own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, conv
from tests.nets.branches import Dense


class PreActivation(Net):
    """A pre-activation ResNet: every block starts with a norm of its own on the shared stream."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 6), "n1": nn.BatchNorm2d(6), "c1": conv(6, 5),
            "n2": nn.BatchNorm2d(5), "c2": conv(5, 6), "n3": nn.BatchNorm2d(6),
            "c3": conv(6, 7, stride=2), "short": nn.Conv2d(6, 8, 1, stride=2),
            "n4": nn.BatchNorm2d(7), "c4": conv(7, 8), "n5": nn.BatchNorm2d(8),
            "c5": conv(8, 4), "n6": nn.BatchNorm2d(4), "c6": conv(4, 8),
            "n7": nn.BatchNorm2d(8), "head": nn.Linear(8, 3),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.c2(F.relu(self.n2(self.c1(F.relu(self.n1(x))))))
        y = F.relu(self.n3(x))
        x = self.short(y) + self.c4(F.relu(self.n4(self.c3(y))))
        x = x + self.c6(F.relu(self.n6(self.c5(F.relu(self.n5(x))))))
        return self.head(F.relu(self.n7(x)).mean((2, 3)))


class Functional(Net):
    """The blocks start with functions, and one has a grouped convolution."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 8), "a": conv(8, 6, groups=2), "b": conv(6, 8),
            "c": conv(8, 4), "d": conv(4, 8), "head": conv(8, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(F.relu(self.a(F.relu(x))))
        x = x + self.d(F.relu(self.c(torch.relu(x))))
        return self.head(F.silu(x))


class Picked(Net):
    """Positions that a buffer holds."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": conv(3, 6), "index": torch.tensor([5, 0, 2, 3]), "left": conv(4, 5),
            "right": conv(6, 5), "head": conv(5, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        one = self.left(x.index_select(1, self.index))
        return self.head(F.relu(one + self.right(x)))


class PickedByComputing(Picked):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        one = self.left(torch.index_select(x, 1, self.index + 0))
        return self.head(F.relu(one + self.right(x)))


EXAMPLES = {
    "pre-activation": Example(
        PreActivation,
        {
            "stem": 6, "n1[in]": 6, "c1": 5, "n3[in]": 6, "c3": 7, "short": 8, "n5[in]": 8,
            "c5": 4, "n7[in]": 8,
        },
        selections=True,
    ),
    "dense block that selects": Example(
        Dense,
        {"stem": 6, "n1[in]": 6, "c1": 4, "n2[in]": 10, "c2": 4, "n3[in]": 14},
        selections=True,
    ),
    "functions that select": Example(
        Functional,
        {"stem": 8, "a[in]": 8, "a": 6, "c[in]": 8, "c": 4, "head[in]": 8},
        selections=True,
        keeps_zero=False,  # no weight makes what is selected
    ),
    "picked": Example(Picked, {"stem": 6, "left": 5}),
    "picked by computing": Example(PickedByComputing, {"left": 5}),
}  # fmt: skip
