"""Values with channels in several dims: blocks of channels, of which a dense tensor must be left.

Each block may keep other positions than the next as long as blocks stay what they are. An op that
picks positions within blocks, or turns blocks and positions round, needs the same ones in all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.labels import Value, along, compact, varying
from slimgraph.rules import Site

Run = Callable[[Tensor], Any]


def settle(site: Site, layer: Tensor, run: Run) -> None:
    """Couple the channels of different blocks that an op can only keep together.

    Args:
        site: The op.
        layer: What goes in.
        run: The op itself, on a tensor of the layer's shape.
    """
    dims = varying(layer)
    if len(dims) < 2:
        return
    probes = [_probe(layer, dim, run) for dim in dims]
    for dim, probe in zip(dims[1:], probes[1:], strict=True):
        if compact(probe).unique().numel() < layer.shape[dim]:
            tie(site, layer, dim)
    places = [varying(probe)[0] for probe in probes if varying(probe)]
    if places != sorted(places):
        tie(site, layer, max(dims, key=lambda dim: layer.shape[dim]))


def _probe(layer: Tensor, dim: int, run: Run) -> Tensor:
    result = run(along(torch.arange(layer.shape[dim]), dim, tuple(layer.shape)))
    first: Tensor = result if isinstance(result, Tensor) else result[0]
    return first


def tie(site: Site, layer: Tensor, dim: int) -> None:
    """Let the positions along a dim leave from all blocks at once, or blocks as wholes."""
    if hold_together(site, layer, dim):
        return
    first = layer
    for other in varying(layer):
        if other != dim:
            first = first.narrow(other, 0, 1)
    site.ledger.couple(layer, first.expand(layer.shape), site.node)


def hold_together(site: Site, layer: Tensor, dim: int) -> bool:
    """Let every block leave as a whole where all blocks share something, if that is asked.

    Args:
        site: The op: each block meets the same positions of a table or a scale.
        layer: Labels of the blocks.
        dim: Along which the positions lie.

    Returns:
        Whether it is asked, and there are blocks; the positions they share stay then.
    """
    if site.ledger.heads == "dims" or varying(layer)[:1] in ((), (dim,)):
        return False
    site.ledger.couple(layer, layer.narrow(dim, 0, 1).expand(layer.shape), site.node)
    return True


def carried(site: Site, shape: Sequence[int], layers: Sequence[Tensor]) -> Value:
    """Make a result: several dims form blocks, a position taken out by itself has to stay.

    Where channels meet others in every combination along a dim, the first ones may leave.
    """
    for layer in layers:
        if not varying(layer):
            site.ledger.freeze(layer, site.node, "is read by itself")
        elif len(varying(layer)) > 1:
            site.ledger.block(compact(layer).squeeze(), site.node)
    left: list[Tensor] = []
    taken: set[int] = set()
    for layer in layers:
        dims = set(varying(layer))
        if taken & dims:
            site.ledger.freeze(layer, site.node, "meets other channels in every combination")
        elif dims:
            left.append(layer)
            taken |= dims
    return Value(tuple(shape), tuple(left), node=site.node)
