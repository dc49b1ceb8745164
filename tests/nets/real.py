"""Nets that spell things the way real models do, as the zoo found them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.base import Example, Net, bare, conv, rows


class CutTable(Net):
    """Reads as much of a table of positions as the image is wide."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "table": bare(1, 8, 12), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.table[:, :, : x.shape[3]].unsqueeze(2))


class SizesAdded(Net):
    """Restores the leading sizes by adding tuples of sizes, as transformers' Conv1D does."""

    def parts(self) -> dict[str, Any]:
        return {"weight": bare(5, 8), "bias": bare(8), "head": nn.Linear(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1).repeat(1, 3, 1)
        size = x.size()[:-1] + (8,)  # noqa: RUF005 - as in transformers
        x = (x.view(-1, x.size(-1)) @ self.weight + self.bias).view(size)
        return self.head(F.relu(x))


class Grid(Net):
    """Adds the coordinates of every pixel, made as a mesh of as many rows and columns."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 2), "head": conv(2, 2)}

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (torch.arange(size) for size in x.shape[2:])
        mesh = torch.meshgrid(rows, columns, indexing="ij")
        return self.head(self.mid(F.relu(self.stem(x))) + torch.stack(mesh).to(x))


EXAMPLES = {
    "mesh of coordinates": Example(Grid, {"stem": 8}),
    "table cut to size": Example(CutTable, {"stem": 8}),
    "sizes added": Example(SizesAdded, {"weight": 8}, rows(5), other=None, reads={"weight": (0,)}),
}
