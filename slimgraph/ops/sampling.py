"""Sampling at positions that the data tells: grids, regions, deformed kernels, patches."""

from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.labels import Value, along, varying
from slimgraph.ops.convolution import convolution
from slimgraph.ops.creation import fixed
from slimgraph.rules import Call, ModuleForm, Rule, Site


def sample(site: Site, input: Value, *others: Any, **kwargs: Any) -> Any:
    """Read each channel of dim 1 at the same positions; what gives the positions stays."""
    for other in (*others, *kwargs.values()):
        site.freeze(other, "says where to sample")
    return _made(site, site.vector(_mapped(site, input), 1))


def _made(site: Site, labels: Tensor | None) -> Any:
    """Make a result with channels on dim 1; some ops say besides where each maximum was."""
    result = site.value() if labels is None else site.value(along(labels, 1, site.shape))
    value = site.node.meta["val"]
    return tuple(result for _ in value) if isinstance(value, tuple) else result


def _mapped(site: Site, input: Value) -> Value:
    """Freeze what does not lie on dim 1: positions are mixed."""
    input = site.carried(input)
    inside = tuple(x for x in input.layers if 1 in varying(x))
    site.without(input, [d for d in range(input.ndim) if d != 1], "is sampled")
    return Value(input.shape, inside, node=input.node)


def blocks(site: Site, input: Value, *others: Any, **kwargs: Any) -> Any:
    """Take each channel of the result from a block of channels, which leaves as a whole."""
    for other in (*others, *kwargs.values()):
        site.freeze(other, "says where to sample")
    labels = site.vector(_mapped(site, input), 1)
    if labels is None:
        return _made(site, None)
    rows = labels.reshape(site.shape[1], -1)
    site.ledger.couple(rows[:, :1], rows, site.node)
    return _made(site, rows[:, 0])


def unfold(site: Site, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Lay the patches of each channel out along dim 1; as a method, slide along one dim."""
    if site.node.op == "call_method" or site.node.target is torch.ops.aten.unfold.default:
        return _slide(site, input, *args, **kwargs)
    labels = site.vector(_mapped(site, input), 1)
    if labels is None:
        return site.value()
    each = site.shape[1] // len(labels)
    return site.value(along(labels.repeat_interleave(each), 1, site.shape))


def _slide(site: Site, input: Value, dimension: int, size: int, step: int) -> Value:
    dim = dimension % input.ndim
    value = site.carried(input)
    layers = site.without(value, [dim], "is cut into windows")
    small = (layer.narrow(dim, 0, 1).unsqueeze(-1) for layer in layers)
    return site.value(*(layer.expand(site.shape) for layer in small))


def deformed(
    site: Site,
    input: Value,
    weight: Value,
    offset: Value,
    mask: Value | None = None,
    bias: Value | None = None,
    *rest: Any,
) -> Value:
    """Convolve at positions moved by offsets, which belong to no channel."""
    site.freeze(offset, "moves the positions of a kernel")
    site.freeze(mask, "scales the positions of a kernel")
    return convolution(site, input, weight, bias, groups=rest[6])


def _resize_deformed(call: Call) -> None:
    left = call.groups_left()
    if left is not None:
        call.set(11, "groups", left)


_UNFOLD = ModuleForm((nn.Unfold,))
_FOLD = ModuleForm((nn.Fold,))
RULES = (
    Rule(("grid_sample", "roi_align", "torchvision.roi_align", "roi_pool", "torchvision.roi_pool"),
         "sampling", sample),
    Rule(("affine_grid",), "sampling", fixed),
    Rule(("ps_roi_align", "torchvision.ps_roi_align", "ps_roi_pool", "torchvision.ps_roi_pool"),
         "sampling", blocks),
    Rule(("fold", "col2im"), "movement", blocks, (_FOLD,)),
    Rule(("unfold", "im2col"), "movement", unfold, (_UNFOLD,)),
    Rule(("deform_conv2d", "torchvision.deform_conv2d"), "sampling", deformed, (),
         _resize_deformed),
)  # fmt: skip
