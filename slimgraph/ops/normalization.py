"""Normalisation over batch, instance, layer and groups of channels."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from slimgraph.labels import Value, varying
from slimgraph.ops import over_kept
from slimgraph.ops.grids import hold_together
from slimgraph.ops.resizing import scaled
from slimgraph.remedies import SHARED
from slimgraph.rules import Call, ModuleForm, Rule, Site, values_in

_STATISTICS = ("running_mean", "running_var")


def per_channel(
    site: Site,
    input: Value,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    *rest: Any,
    **options: Any,
) -> Value:
    """Scale and shift each channel of dim 1 by its own numbers."""
    input = site.carried(input)
    labels = site.vector(input, 1)
    if labels is not None:
        site.bind(weight, 0, labels, "scale")
        site.bind(bias, 0, labels, "shift")
        site.bind(running_mean, 0, labels, "statistic")
        site.bind(running_var, 0, labels, "statistic")
    else:
        for value in (weight, bias, running_mean, running_var):
            site.freeze(value, "scales channels that stay")
    return site.value(*input.layers)


def batch_norm(
    site: Site, input: Value, running_mean: Value | None = None, *rest: Any, **options: Any
) -> Value:
    """Scale and shift channels; without running statistics, those of all other dims are read."""
    input = site.carried(input)
    others = tuple(layer for layer in input.layers if 1 not in varying(layer))
    if running_mean is None and others:
        site.read(Value(input.shape, others, node=input.node))
    return per_channel(site, input, running_mean, *rest, **options)


def instance_norm(site: Site, input: Value, *rest: Any, **options: Any) -> Value:
    """Scale and shift channels after statistics over space."""
    input = site.carried(input)
    layers = site.without(input, range(2, input.ndim), "is normalised over this dim")
    return per_channel(site, Value(input.shape, layers, node=input.node), *rest, **options)


def per_channel_aten(
    site: Site,
    input: Value,
    weight: Value | None = None,
    bias: Value | None = None,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    *rest: Any,
) -> Value:
    """Do the same in the argument order of `torch.ops.aten`."""
    return per_channel(site, input, running_mean, running_var, weight, bias)


def group_norm(
    site: Site,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    *rest: Any,
    **options: Any,
) -> Value:
    """Normalise blocks of channels; blocks must keep equal numbers of them.

    Statistics are those of the kept channels, so a channel that is ignored does not count.
    """
    input = site.carried(input)
    labels = site.vector(input, 1)
    if labels is not None:
        site.ledger.block(labels.reshape(num_groups, -1), site.node)
        site.bind(weight, 0, labels, "scale")
        site.bind(bias, 0, labels, "shift")
        site.read(input, dim=1)
    own = tuple(layer for layer in input.layers if 1 in varying(layer))
    others = tuple(layer for layer in input.layers if 1 not in varying(layer))
    pixels = Value(input.shape, others, node=input.node)
    left = site.without(pixels, range(2, input.ndim), "is normalised over this dim")
    return site.value(*own, *left)


def layer_norm(
    site: Site,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    *rest: Any,
    **options: Any,
) -> Value:
    """Normalise the last dims; statistics are those of the kept channels."""
    input = site.carried(input)
    first = input.ndim - len(normalized_shape)
    over = [layer for layer in input.layers if max(varying(layer)) >= first]
    site.read(Value(input.shape, tuple(over), node=input.node))
    for dim in range(first, input.ndim):
        layer = input.layer(dim)
        if weight is not None and layer is not None and hold_together(site, layer, dim):
            for value in values_in(weight, bias):
                site.ledger.keep(value, dim - first, site.node, SHARED)
            continue
        labels = None if weight is None else site.vector(input, dim)
        if labels is not None:
            site.bind(weight, dim - first, labels, "scale")
            site.bind(bias if isinstance(bias, Value) else None, dim - first, labels, "shift")
    return site.value(*input.layers)


def _resize_layer_norm(call: Call) -> None:
    old, new = tuple(call.input.meta["val"].shape), call.kept.shape(call.input)
    sizes = call.get(1, "normalized_shape")
    first = len(old) - len(sizes)
    if old[first:] != new[first:]:
        call.set(1, "normalized_shape", tuple(scaled(call, sizes, old[first:], new[first:])))


def _resize_features(call: Call) -> None:
    """Mend the size of a module without parameters, which nothing else would tell."""
    if "num_features" in call.kwargs:
        call.kwargs["num_features"] = call.kept.shape(call.input)[1]


def _resize_group_norm(call: Call) -> None:
    positions = call.kept.positions(call.input, 1)
    if positions is not None:
        width = call.input.meta["val"].shape[1] // call.get(1, "num_groups")
        call.set(1, "num_groups", int((positions // width).unique().numel()))


def _features(module: Any) -> None:
    stored = module.weight if module.weight is not None else module.running_mean
    if stored is not None:
        module.num_features = stored.shape[0]


def _channels(module: Any) -> None:
    if module.weight is not None:
        module.num_channels = module.weight.shape[0]


def _layer_sizes(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


_BATCH = ModuleForm(
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    ("running_mean", "running_var", "weight", "bias"),
    sizes=_features,
)
_INSTANCE = ModuleForm(
    (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    ("running_mean", "running_var", "weight", "bias"),
    ("num_features",),
    sizes=_features,
)
_GROUP = ModuleForm((nn.GroupNorm,), ("weight", "bias"), ("num_groups", "eps"), _channels)
_LAYER = ModuleForm((nn.LayerNorm,), ("weight", "bias"), ("normalized_shape", "eps"), _layer_sizes)
_RMS = ModuleForm((nn.RMSNorm,), ("weight",), ("normalized_shape", "eps"), _layer_sizes)


def weight_norm(site: Site, v: Value, g: Value, dim: int = 0) -> Value:
    """Scale the slices of a weight to given norms; what leaves a slice adds nothing to its norm."""
    if dim < 0:
        site.freeze([v, g], "is scaled as a whole")
        return site.value()
    labels = site.open(v, dim, "out")
    site.bind(g, dim, labels, "scale")
    weight = site.carried(v)
    inside = tuple(layer for layer in weight.layers if dim not in varying(layer))
    site.read(Value(v.shape, inside, node=v.node))
    return site.value(*weight.layers)


def core_batch_norm(
    site: Site, input: Value, weight: Value | None, bias: Value | None, mean: Value, *rest: Any
) -> tuple[Value, None, None]:
    """Scale and shift channels: what decomposed `torch.export` programs call in eval mode."""
    return per_channel(site, input, mean, rest[0], weight, bias), None, None


RULES = (
    Rule(("_native_batch_norm_legit_no_training",), "norm", core_batch_norm),
    Rule(("_weight_norm",), "norm", weight_norm),
    Rule(("batch_norm",), "norm", batch_norm, (_BATCH,), None, over_kept.batch_norm),
    Rule(("instance_norm",), "norm", instance_norm, (_INSTANCE,), _resize_features),
    Rule(("aten.batch_norm", "aten.instance_norm"), "norm", per_channel_aten),
    Rule(("group_norm",), "norm", group_norm, (_GROUP,), _resize_group_norm, over_kept.group_norm),
    Rule(("layer_norm",), "norm", layer_norm, (_LAYER,), _resize_layer_norm, over_kept.layer_norm),
    Rule(("rms_norm",), "norm", layer_norm, (_RMS,), _resize_layer_norm, over_kept.rms_norm),
)
