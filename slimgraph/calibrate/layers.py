"""Convolutions and linear layers as one thing: rows of inputs times a matrix, group by group."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from slimgraph.op_names import canonical
from slimgraph.shapes import attribute

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of a convolution or linear layer.

    Attributes:
        name: Of the node.
        weight: Shape: (out, in / groups, *kernel), or (out, in).
        bias: Shape: (out,), or `None`.
        key: Qualified name of the weight.
        groups: Of a convolution, else 1.
        stride: Per spatial dim.
        padding: Per spatial dim, before and after.
        dilation: Per spatial dim.
        mode: Of the padding, for `F.pad`.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    key: str
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    mode: str = "constant"

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's sizes; empty for a linear layer."""
        return tuple(self.weight.shape[2:])

    @property
    def gram_bytes(self) -> int:
        """What Gram matrices of its inputs take."""
        groups, _, columns = self.matrix().shape
        return 8 * groups * columns**2

    def rows(self, x: Tensor, y: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Pair inputs and outputs at some places.

        Args:
            x: The layer's input. Shape: (batch, in, *space), or (*, in).
            y: A tensor of the shape of its output.
            places: Positions in the flattened space. Shape: (places,).

        Returns:
            Inputs, shape (rows, groups, in / groups * kernel), and outputs, (rows, groups, out /
            groups); rows are batch x places.
        """
        if not self.stride:
            flat = x.reshape(-1, x.shape[-1])[places], y.reshape(-1, y.shape[-1])[places]
            return flat[0][:, None], flat[1][:, None]
        x = self._padded(x)
        for dim, (size, step, gap) in enumerate(
            zip(self.kernel, self.stride, self.dilation, strict=True), start=2
        ):
            x = x.unfold(dim, (size - 1) * gap + 1, step)[..., ::gap]
        space = tuple(y.shape[2:])
        where: list[Any] = [slice(None), slice(None), *torch.unravel_index(places, space)]
        patches = x[tuple(where)]  # (batch, in, places, *kernel)
        inputs = patches.transpose(1, 2).flatten(0, 1).unflatten(1, (self.groups, -1)).flatten(2)
        outputs = y.flatten(2)[:, :, places].transpose(1, 2).flatten(0, 1)
        return inputs, outputs.unflatten(1, (self.groups, -1))

    def number_of_places(self, y: Tensor) -> int:
        """Count the positions among which `rows` may choose."""
        return y[0, 0].numel() if self.stride else y.numel() // y.shape[-1]

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """Do what the layer does, with another weight and without its bias."""
        if not self.stride:
            return F.linear(x, weight)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.stride) - 1]
        result: Tensor = convolve(
            self._padded(x), weight, None, self.stride, 0, self.dilation, self.groups
        )
        return result

    def _padded(self, x: Tensor) -> Tensor:
        pads = [size for pair in reversed(self.padding) for size in pair]
        return F.pad(x, pads, self.mode) if any(pads) else x

    def draw(self, y: Tensor, points: int, images: int, chance: torch.Generator) -> Tensor:
        """Choose positions for `rows`.

        Args:
            y: The layer's output.
            points: How many per image, at most.
            images: Size of the batch, which the positions of a linear layer run over, too.
            chance: Draws them.
        """
        number = points if self.stride else points * images
        return torch.randperm(self.number_of_places(y), generator=chance)[:number].to(y.device)

    def matrix(self) -> Tensor:
        """Return the weight as it multiplies the rows. Shape: (groups, out / groups, columns)."""
        flat: Tensor = self.weight.detach().flatten(1).unflatten(0, (self.groups, -1))
        return flat


def layers_of(model: fx.GraphModule) -> Iterator[Layer]:
    """List the convolutions and linear layers whose weights serve a single call, in order."""
    uses: dict[int, int] = {}
    found = []
    for node in model.graph.nodes:
        layer = _layer(model, node)
        if layer is not None:
            uses[id(layer.weight)] = uses.get(id(layer.weight), 0) + 1
            found.append(layer)
    yield from (layer for layer in found if uses[id(layer.weight)] == 1)


def _layer(model: fx.GraphModule, node: fx.Node) -> Layer | None:
    if node.op == "call_module":
        module: Any = model.get_submodule(str(node.target))
        if type(module) not in (nn.Linear, *_CONVOLUTIONS):
            return None
        given = {name: getattr(module, name, None) for name in _SETTINGS}
        given["mode"] = getattr(module, "padding_mode", "zeros")
        return _made(node.name, module.weight, module.bias, f"{node.target}.weight", given)
    name = canonical(node.target) if node.op == "call_function" else ""
    if name not in _FUNCTIONS:
        return None
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "mode": "zeros"}
    given = defaults | dict(zip(_FUNCTIONS[name], node.args, strict=False)) | node.kwargs
    key, bias = _stored(given.pop("weight", None)), _stored(given.pop("bias", None))
    given.pop("input", None)
    if key is None or bias is None or any(isinstance(v, fx.Node) for v in given.values()):
        return None
    shift = attribute(model, bias) if bias else None
    return _made(node.name, attribute(model, key), shift, key, given)


def _stored(argument: Any) -> str | None:
    """Name the parameter an argument is: empty if there is no argument, `None` if computed."""
    if argument is None:
        return ""
    return str(argument.target) if argument.op == "get_attr" else None


_SETTINGS = ("stride", "padding", "dilation", "groups")
_FUNCTIONS = {
    "linear": ("input", "weight", "bias"),
    **{f"conv{n}d": ("input", "weight", "bias", *_SETTINGS) for n in (1, 2, 3)},
}


def _made(name: str, weight: Tensor, bias: Tensor | None, key: str, given: dict[str, Any]) -> Layer:
    kernel = tuple(weight.shape[2:])
    if not kernel:
        return Layer(name, weight, bias, key)
    rank = len(kernel)
    stride, gap = (_per_dim(given[what], rank) for what in ("stride", "dilation"))
    if given["padding"] == "same":
        totals = [step * (size - 1) for step, size in zip(gap, kernel, strict=True)]
        pads = tuple((total // 2, total - total // 2) for total in totals)
    else:
        own = 0 if given["padding"] == "valid" else given["padding"]
        pads = tuple((size, size) for size in _per_dim(own, rank))
    mode = "constant" if given["mode"] == "zeros" else given["mode"]
    return Layer(name, weight, bias, key, given["groups"], stride, pads, gap, mode)


def _per_dim(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * rank
