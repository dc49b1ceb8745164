"""What ops that mix positions make of constants: each rule keeps what the op cannot change.

A rule gets the constants of its input (NaN = unknown) in the input's own shape, with stride 0 along
dims without channels, and returns those of its result; a channel that would differ from position to
position is unknown.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from slimgraph.labels import compact, varying
from slimgraph.op_names import canonical
from slimgraph.ops.selection import picked_by
from slimgraph.shapes import attribute


@dataclass(frozen=True)
class Settings:
    """The numbers an op is called with, whether a module holds them or the call names them."""

    node: fx.Node
    module: nn.Module | None = None

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument by its name in torch.nn, or by its position in the function."""
        if self.module is not None:
            return getattr(self.module, name, default)
        if len(self.node.args) > position:
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(self.node.meta["val"].shape)


def batch_norm_tensors(node: fx.Node, name: str, model: fx.GraphModule) -> Any:
    """Return mean, variance, scale, shift and epsilon of a norm; `None` if one is not stored."""
    if node.op == "call_module":
        module: Any = model.get_submodule(str(node.target))
        found = [module.running_mean, module.running_var, module.weight, module.bias]
        eps = module.eps
    else:
        given = [a for a in node.args[1:5] if isinstance(a, fx.Node) and a.op == "get_attr"]
        if len(given) != 4:
            return None
        found = [attribute(model, str(a.target)) for a in given]
        if name.startswith("aten."):
            found = [*found[2:], *found[:2]]
        eps = float(node.kwargs.get("eps", node.args[7] if len(node.args) > 7 else 1e-5))  # type: ignore[arg-type]
    if found[0] is None or found[1] is None:
        return None
    doubles = [None if t is None else t.detach().double().cpu() for t in found]
    return (*doubles, eps)


def trains(node: fx.Node) -> bool:
    """Return whether a functional batch norm uses the statistics of the batch."""
    training = node.args[5] if len(node.args) > 5 else node.kwargs.get("training", False)
    training = training.meta["val"] if isinstance(training, fx.Node) else training
    return node.op != "call_module" and training is not False


def normalized(known: Tensor, module: Any, blocks: int) -> Tensor:
    """Normalise one constant per channel with the statistics of its block, as they are.

    Args:
        known: Constants; a block that holds an unknown one becomes unknown. Shape: (channels,).
        module: Holds `eps`, scale and shift.
        blocks: Number of equal blocks; one per channel for instance norms.
    """
    rows = known.reshape(blocks, -1)
    centred = rows - rows.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    result: Tensor = (centred / (variance + module.eps).sqrt()).flatten()
    if module.weight is None:
        return result
    weight = module.weight.detach().double().cpu()
    shift = 0.0 if module.bias is None else module.bias.detach().double().cpu()
    return torch.where(weight == 0, 0.0, result * weight) + shift


def blocks_of(module: nn.Module, ndim: int) -> int | None:
    """Count the blocks of channels that a norm takes statistics of; `None` if it is none."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    if isinstance(module, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d):
        digit = re.search(r"(\d)d$", type(module).__name__)
        batched = digit is not None and ndim == int(digit[1]) + 2
        return module.num_features if batched else None
    return module.num_features if isinstance(module, nn.modules.batchnorm._BatchNorm) else None


def pooled(source: Tensor, name: str, settings: Settings) -> Tensor | None:
    """Pool or resize over the last dims."""
    digits = re.search(r"(\d)d$", name)
    mixed = int(digits[1]) if digits else source.ndim - 2
    if any(dim >= source.ndim - mixed for dim in varying(source)):
        return None
    small = compact(source)
    return small if _keeps_constants(name, settings) else _zeros(small)


_KEEP = (
    "maxpool", "adaptive", "interpolate", "upsampl", "reflectionpad", "replicationpad",
    "circularpad",
)  # fmt: skip


def _keeps_constants(name: str, settings: Settings) -> bool:
    """Return whether every window sees the constant and nothing else, with weights of sum one."""
    if not name.startswith("avgpool"):
        return name.startswith(_KEEP)
    padding = settings.get(3, "padding", 0)
    is_padded = any(padding) if isinstance(padding, tuple | list) else padding != 0
    counts = settings.get(5, "count_include_pad", default=True)
    return not (is_padded and counts) and settings.get(6, "divisor_override") is None


def _zeros(small: Tensor) -> Tensor:
    return torch.where(small == 0, 0.0, torch.nan).double()


def reduced(source: Tensor, name: str, given: Any, *, keepdim: bool) -> Tensor | None:
    """Reduce over dims; how many positions a dim without channels has is not known here."""
    dims = given if isinstance(given, list | tuple) else (given,)
    if not dims or not all(isinstance(dim, int) for dim in dims):
        return None
    small = compact(source)
    if name in ("mean", "amax", "amin"):
        reduce: Callable[..., Tensor] = getattr(torch, name)
        return reduce(small, tuple(dims), keepdim=keepdim)
    if name == "sum":
        whole = {dim % source.ndim for dim in dims}.issubset(varying(source))
        return (small if whole else _zeros(small)).sum(tuple(dims), keepdim=keepdim)
    return None


def joined(
    layers: Sequence[Tensor], join: Callable[..., Tensor], dim: int, shape: Sequence[int]
) -> Tensor:
    """Join constants along a dim; dims along which none of them varies stay short."""
    dim %= len(shape)
    used = {d for layer in layers for d in varying(layer)}
    used |= {dim} if join is torch.cat else set()
    short = [
        layer[tuple(slice(None) if d in used else slice(0, 1) for d in range(layer.ndim))]
        for layer in layers
    ]
    return join(short, dim).expand(tuple(shape))


def _padded(source: Tensor, settings: Settings) -> Tensor:
    """Pad: zeros around another constant would make it vary, those beside it are channels."""
    aten = canonical(settings.node.target) == "constant_pad_nd"
    value = float(settings.get(2 if aten else 3, "value") or 0.0)
    plain = aten or settings.get(2, "mode", "constant") == "constant"
    amounts = settings.get(1, "pad")
    small = compact(source)
    for k in range(len(amounts) // 2):
        pair = list(amounts[2 * k : 2 * k + 2])
        if source.ndim - 1 - k in varying(source):
            small = F.pad(small, [0, 0] * k + pair, value=value if plain else torch.nan)
        elif plain and max(pair) > 0:
            small = torch.where(small == value, small, torch.nan)
    return small.expand(settings.shape)


def _pixel_shuffled(source: Tensor, settings: Settings) -> Tensor | None:
    """Move channels into space; one that is put together from different constants varies."""
    factor = settings.get(1, "upscale_factor")
    channel = source.ndim - 3
    if any(dim != channel for dim in varying(source)):
        return None
    rows = source.movedim(channel, 0).flatten(1)[:, 0].reshape(-1, factor**2)
    same = torch.where((rows == rows[:, :1]).all(1), rows[:, 0], torch.nan)
    return same.reshape(-1, 1, 1).expand(settings.shape)


def _shuffled(source: Tensor, settings: Settings) -> Tensor | None:
    if any(dim != 1 for dim in varying(source)):
        return None
    blocks = source.movedim(1, 0).flatten(1)[:, 0].reshape(settings.get(1, "groups"), -1)
    view = (1, -1, *[1] * (source.ndim - 2))
    return blocks.t().reshape(view).expand(settings.shape)


def _picked(source: Tensor, settings: Settings) -> Tensor | None:
    found = picked_by(settings.node)
    return None if found is None else source.index_select(*found)


# By the name of the function, or of the module's class, without underscores.
MIXES: dict[str, Callable[[Tensor, Settings], Tensor | None]] = {
    "pad": _padded,
    "constantpadnd": _padded,
    "pixelshuffle": _pixel_shuffled,
    "channelshuffle": _shuffled,
    "nativechannelshuffle": _shuffled,
    "indexselect": _picked,
}
