"""Names and patterns: which channels the user means who writes `layer4` or `head.*`."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, fx

from slimgraph.errors import UnknownGroupError
from slimgraph.graph import DependencyGraph


def named_channels(
    graph: DependencyGraph, patterns: Sequence[str], option: str
) -> Iterator[tuple[Tensor, fx.Node]]:
    """Find what each pattern means: channels, and a node that makes them.

    Args:
        graph: The groups.
        patterns: Names of groups or modules, which mean the channels these make, or of parameters,
            which mean those of all their dims. A module's name stands for all inside it, too;
            `*` matches any part of a name.
        option: What the caller's user calls the patterns.

    Raises:
        UnknownGroupError: A pattern matches nothing; names the nearest that would.
    """
    names = graph.names()
    stored = {axis.parameter: None for axis in graph.ledger.axes.values()}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        chosen = [name for name in names if _matches(name, pattern)]
        tensors = [name for name in stored if _matches(name, pattern)]
        if not chosen and not tensors:
            near = get_close_matches(pattern, [*names, *stored], n=1, cutoff=0.3)
            raise UnknownGroupError(
                f"`{option}` names `{pattern}`, which has no channels",
                hint=f"did you mean `{near[0]}`?" if near else "see `graph.names()`",
            )
        for name in chosen:
            group, axis = graph.find(name)
            yield graph.components(name), (axis or graph.ledger.axes[group.members[0]]).node
        for axis in graph.ledger.axes.values() if not chosen else ():
            if axis.parameter in tensors:
                yield graph.component[axis.labels.flatten()], axis.node


def frozen_labels(
    graph: DependencyGraph, patterns: Sequence[str]
) -> Iterator[tuple[Tensor, fx.Node]]:
    """Find the labels of all channels that `freeze=` means, with a node that makes them."""
    for channels, node in named_channels(graph, patterns, "freeze"):
        yield torch.isin(graph.component, channels).nonzero().flatten(), node


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
