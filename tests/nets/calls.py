"""Ways to call, to return, to share and to hide."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from tests.nets.base import Example, Net, bare, conv


class TwoInputs(Net):
    def parts(self) -> dict[str, Any]:
        return {"a": conv(3, 8), "b": nn.Linear(4, 8), "head": conv(8, 2)}

    def forward(self, image: Tensor, label: Tensor, scale: float = 2.0) -> Tensor:
        return self.head(F.relu(self.a(image)) * scale + self.b(label)[:, :, None, None])


class Optional(TwoInputs):
    """Called by keyword, with an argument between that is left out."""

    def forward(self, image: Tensor, scale: float = 2.0, *, input: Tensor | None = None) -> Tensor:
        x = F.relu(self.a(image)) * scale
        return self.head(x if input is None else x + self.b(input)[:, :, None, None])


class Outputs(Net):
    """Tensors in a dict in a tuple; what reaches an output stays."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "a": conv(6, 2), "b": conv(6, 4)}

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.mid(F.relu(self.stem(x))))
        return {"a": self.a(x), "more": (self.b(x).mean((2, 3)), [x.shape[0], None])}


@torch.library.custom_op("slimgraph_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    """Mix channels in a way nobody knows of."""
    return x + x.flip(1) * 0.5


@mystery.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


mystery.register_autograd(lambda context, grad: grad + grad.flip(1) * 0.5)


class Unknown(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "after": conv(6, 4), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = mystery(F.relu(self.mid(F.relu(self.stem(x)))))
        return self.head(F.relu(self.after(x)))


class Tied(Net):
    """The embedding's table is the head's weight."""

    def parts(self) -> dict[str, Any]:
        return {
            "embed": nn.Embedding(10, 8),
            "mid": nn.Linear(8, 8),
            "head": nn.Linear(8, 10, bias=False),
        }

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(self.embed(x).mean(1))))


class TiedConvolutions(Net):
    """Two modules, one weight and one bias."""

    def parts(self) -> dict[str, Any]:
        return {
            "a": conv(3, 8),
            "b": conv(3, 8),
            "c": conv(8, 6),
            "d": conv(8, 6),
            "head": conv(12, 2),
        }

    def __init__(self) -> None:
        super().__init__()
        self.d.weight = self.c.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.cat([self.c(self.a(x)), self.d(self.b(x))], 1)))


class AutoEncoder(Net):
    """The decoder uses the encoder's weight, transposed."""

    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 8), "weight": bare(6, 8), "head": nn.Linear(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.head(F.relu(F.linear(F.linear(x, self.weight), self.weight.t())))


class Hooked(Net):
    """A forward hook changes what a convolution returns."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "head": conv(6, 2)}

    def __init__(self) -> None:
        super().__init__()
        self.mid.register_forward_hook(lambda module, args, result: result * 2 + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(F.relu(self.stem(x)))))


class Watched(Hooked):
    """A forward hook on a container only looks."""

    def __init__(self) -> None:
        Net.__init__(self)
        self.shapes: list[Any] = []
        self.register_forward_hook(lambda module, args, result: self.shapes.append(result.shape))


class Pruned(Hooked):
    """Masked by torch.nn.utils.prune: the weight is computed before every call."""

    def __init__(self) -> None:
        Net.__init__(self)
        prune.random_structured(self.mid, "weight", amount=2, dim=0)
        prune.l1_unstructured(self.stem, "weight", amount=0.3)


class WeightNorm(Hooked):
    """The weight is a parametrisation of another one."""

    def __init__(self) -> None:
        Net.__init__(self)
        parametrizations.weight_norm(self.mid)


class LearnedQuery(Net):
    """A linear layer reads a bare parameter, which is also added to the features."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Linear(5, 8), "query": bare(1, 8), "mid": nn.Linear(8, 6),
            "head": nn.Linear(6, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)) + self.query
        return self.head(self.mid(self.query) + self.mid(x))


class Constant(Net):
    """Adds a tensor made in the forward, one number per channel."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + torch.arange(8.0).view(8, 1, 1)
        x = self.mid(F.relu(x))
        return self.head(x + torch.zeros(x.shape[0], 6, 1, 1) + torch.zeros_like(x))


class InPlaceView(Net):
    """Writes into a slice of a value, and reads the whole of it."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "other": conv(3, 4), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y[:, :4].add_(self.other(x)).mul_(2)
        return self.head(F.relu(y))


class Overwritten(Net):
    """Replaces rows and columns of a value: every channel of them, by those of another value."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "other": conv(3, 8), "mid": conv(8, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y[:, :, 0] = self.other(x)[:, :, -1]
        y[..., 1:3] = 0
        y += 1
        return self.head(F.relu(self.mid(F.relu(y))))


class PartlyWritten(Overwritten):
    """Writes channels at positions of their own; those stay."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y[:, 2:6] = self.other(x)[:, :4]
        return self.head(F.relu(self.mid(F.relu(y))))


class Nested(Net):
    """Modules in lists, dicts and sequences; a part that is never called."""

    def parts(self) -> dict[str, Any]:
        return {
            "items": nn.ModuleList(
                [conv(3, 8), nn.ModuleDict({"x": conv(8, 8), "y": nn.Identity()})]
            ),
            "stale": conv(5, 7), "head": nn.Sequential(nn.ReLU(), nn.Sequential(conv(8, 2))),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.items[0](x)
        for part in self.items[1].values():
            x = part(x)
        return self.head(x)


class NothingToRemove(Net):
    def parts(self) -> dict[str, Any]:
        return {"head": conv(3, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def _pair(batch: int, size: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 3, size, size), torch.randn(batch, 4)


def _named(batch: int, size: int) -> dict[str, Tensor]:
    return dict(zip(("image", "input"), _pair(batch, size), strict=True))


def _words(batch: int, size: int) -> Tensor:
    return torch.arange(batch * size).view(batch, size) % 10


_rows: Callable[[int, int], Tensor] = lambda batch, _: torch.randn(batch, 5)  # noqa: E731
EXAMPLES = {
    "two inputs": Example(TwoInputs, {"a": 8}, _pair),
    "inputs by name": Example(Optional, {"a": 8}, _named),
    "nested outputs": Example(Outputs, {"stem": 8, "mid": 6}),
    "unknown op": Example(Unknown, {"stem": 8, "after": 4}),
    "tied embedding": Example(Tied, {"embed": 8}, _words),
    "tied convolutions": Example(TiedConvolutions, {"a": 8, "c": 6}),
    "tied and transposed": Example(
        AutoEncoder,
        {"first": 8, "weight": 6},
        _rows,
        other=None,
        keeps_zero=False,
        reads={"weight": (0, 1)},
    ),
    "forward hook": Example(Hooked, {"stem": 8, "mid": 6}, keeps_zero=False),
    "watching hook": Example(Watched, {"stem": 8, "mid": 6}),
    "torch.nn.utils.prune": Example(Pruned, {"stem": 8, "mid": 6}),
    "weight norm": Example(
        WeightNorm,
        {"stem": 8, "mid.parametrizations.weight.original1": 6},
        keeps_zero=False,
        reads={"mid.parametrizations.weight.original1": (1,)},
    ),
    "learned query": Example(LearnedQuery, {"stem": 8, "mid": 6}, _rows, other=None),
    "constants": Example(Constant, {"stem": 8, "mid": 6}, keeps_zero=False),
    "written in place": Example(InPlaceView, {"stem": 8}),
    "overwritten": Example(Overwritten, {"stem": 8, "mid": 6}, keeps_zero=False),
    "partly overwritten": Example(PartlyWritten, {"other": 4, "mid": 6}, keeps_zero=False),
    "nested modules": Example(Nested, {"items.0": 8, "items.1.x": 8}),
    "nothing to remove": Example(NothingToRemove, {}),
}
