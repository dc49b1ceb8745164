"""What the laws say: how to run a model, how to make a mask legal, and what removal must equal."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_flatten, tree_map

import slimgraph as sg
from slimgraph.select.blocks import Legality

TOLERANCE = 1e-9


def double(inputs: Any) -> Any:
    """Convert every floating-point tensor to double precision."""
    return tree_map(
        lambda leaf: (
            leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
        ),
        inputs,
    )


def run(model: nn.Module, inputs: Any) -> Any:
    """Call a model without gradients the way its example inputs say."""
    with torch.no_grad():
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def difference(reference: Any, candidate: Any) -> float:
    """Return the largest difference of two outputs, relative to the reference's largest value."""
    expected, shape = tree_flatten(reference)
    got, other = tree_flatten(candidate)
    assert shape == other, f"{shape} became {other}"
    worst = 0.0
    for one, two in zip(expected, got, strict=True):
        if not isinstance(one, Tensor):
            assert one == two
            continue
        assert one.shape == two.shape, f"{tuple(one.shape)} became {tuple(two.shape)}"
        assert bool(torch.isfinite(one).all()), "the reference is not finite"
        scale = float(one.abs().max()) or 1.0
        worst = max(worst, float((one - two).abs().max()) / scale)
    return worst


def assert_same_output(reference: nn.Module, candidate: nn.Module, inputs: Any) -> None:
    """Check that two models agree to rounding in double precision."""
    found = difference(run(reference, inputs), run(candidate, inputs))
    assert found <= TOLERANCE, f"off by {found:.2g}"


def legal(graph: sg.DependencyGraph, remove: Tensor, seed: int = 0) -> Tensor:
    """Bring back as many channels as a smaller model needs; which, the seed decides.

    Blocks first lose as many channels each as one of them was to lose, or hardly any could.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(len(graph.frozen), generator=generator, dtype=torch.float64)
    legality, remove = Legality(graph, scores), remove.clone()
    for channels, _ in legality.blocks:
        rows = channels.flatten(0, -2).unique(dim=0)
        count = int(remove[rows[0]].sum())
        ranked = rows.gather(1, scores[rows].argsort(1))
        remove[ranked[:, :count]], remove[ranked[:, count:]] = True, False
    return legality.repair(~remove)


def random_mask(graph: sg.DependencyGraph, seed: int, share: float = 0.5) -> sg.Mask:
    """Draw a legal mask that removes about this share of what can leave."""
    generator = torch.Generator().manual_seed(seed)
    remove = torch.rand(len(graph.frozen), generator=generator) < share
    return sg.Mask.of_channels(graph, legal(graph, remove, seed))


def reading_dims(model: nn.Module, name: str, reads: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Tell along which dims a parameter reads channels: by its module, or as the example says."""
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, nn.RNNBase | nn.RNNCellBase):
        return (1,) if "weight" in name else ()
    if name.endswith("weight"):
        if isinstance(owner, nn.modules.conv._ConvTransposeNd):
            return (0,)
        if isinstance(owner, nn.modules.conv._ConvNd | nn.Linear):
            return (1,)
    return reads.get(name, ())


def _removed(tensor: Tensor, entries: Any, dim: int) -> Tensor:
    """Mark what a plan removes along one dim; of a grouped weight within the groups it keeps."""
    kept = entries[dim]
    gone = torch.ones(tensor.shape, dtype=torch.bool)
    if kept.ndim == 1:
        return gone.index_fill(dim, kept, value=False)
    outputs = torch.arange(tensor.shape[0]) if entries[0] is None else entries[0]
    rows = outputs.reshape(len(kept), -1)
    gone[:] = False
    for own, positions in zip(rows, kept, strict=True):
        gone[own] = True
        gone[own[:, None], positions] = False
    return gone


def _zeroed(result: nn.Module, plan: sg.Plan, wanted: Callable[[str, int], bool]) -> nn.Module:
    for module in result.modules():
        if prune.is_pruned(module) and "weight" in vars(module):
            prune.remove(module, "weight")
    stored = dict(result.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, entries in plan.kept.items():
            for dim, positions in enumerate(entries):
                if name in stored and positions is not None and wanted(name, dim):
                    tensor = stored[name]
                    tensor[_removed(tensor, entries, dim)] = 0
    return result


def without_readers(
    model: nn.Module, plan: sg.Plan, reads: dict[str, tuple[int, ...]]
) -> nn.Module:
    """Zero every weight that reads a removed channel, in place."""
    return _zeroed(model, plan, lambda name, dim: dim in reading_dims(model, name, reads))


def without_makers(model: nn.Module, plan: sg.Plan, reads: dict[str, tuple[int, ...]]) -> nn.Module:
    """Zero every weight, bias, scale and shift that makes a removed channel, in place."""
    return _zeroed(model, plan, lambda name, dim: dim not in reading_dims(model, name, reads))


def assert_independent(one: fx.GraphModule, other: nn.Module) -> None:
    """Check that two models share no memory."""
    held = {tensor.data_ptr() for tensor in other.state_dict().values() if tensor.numel()}
    shared = [n for n, t in one.state_dict().items() if t.numel() and t.data_ptr() in held]
    assert not shared, f"shared: {shared}"
