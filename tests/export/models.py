"""Small models, each with one thing an exporter may stumble over."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Convolutions(nn.Module):
    """Convolution, norm, dropout and a linear layer; free batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3)))


class InPlace(Convolutions):
    """In-place operations, on the input too, and a bare weight."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        y = functional.conv2d(x, self.conv.weight, padding=1)
        y += 1
        y.relu_()
        return y


class Nested(Convolutions):
    """Several outputs, nested, one of them the input itself, one of them not a tensor."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.norm(self.conv(x))
        return {"logits": self.head(y.mean((2, 3))), "maps": (y, [y.relu()]), "x": x, "n": 3}


class Wraps(nn.Module):
    """Its submodules have names that a wrapper would use itself."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Conv2d(3, 6, 3)
        self.example = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.example(self.model(x).mean((2, 3)))


class Bounded(nn.Module):
    """Several clamps of one value, whose bounds are buffers of the same number."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        for name in ("low", "low2"):
            self.register_buffer(name, torch.tensor(-float("inf")))
        for name in ("high", "high2"):
            self.register_buffer(name, torch.tensor(float("inf")))

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        one = self.one(torch.clamp(x, self.low, self.high))
        return one * self.two(torch.clamp(x, self.low2, self.high2))


@dataclass(frozen=True)
class Found:
    """An output of a user's own type."""

    scores: Tensor
    size: int


class OwnType(Convolutions):
    """Returns a dataclass."""

    def forward(self, x: Tensor) -> Found:
        return Found(super().forward(x), 3)


class Words(nn.Module):
    """Integer inputs, a mask, an input with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, words: Tensor, mask: Tensor, scale: float = 2.0) -> tuple[Tensor, Tensor]:
        pooled = (self.embed(words) * mask.unsqueeze(-1)).sum(1) * scale
        scores = self.head(pooled)
        return scores, scores.argmax(1)


class FixedBatch(nn.Module):
    """The batch size is written into the code."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(self.batch, 12))


class Squeezes(Convolutions):
    """At a batch of 1 the batch dim itself is squeezed away."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3), keepdim=True).squeeze())


class Fails(nn.Module):
    """No input will do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) @ torch.ones(7, 7)
