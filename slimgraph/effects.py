"""Effects: what the consumers of a channel that leaves still get of it if it was a constant.

A consumer that adds up its input channels gets a sum over the constants. Behind a linear layer, or
a convolution without zero padding, it is the same at every position and goes into a bias. Elsewhere
the borders differ, and it goes into a *carrier*: one channel of ones, convolved by a kernel of its
own, `sum_c k_c * w[:, c]`, and added to the result. So it is exact at every input size.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx

from slimgraph.constancy import end_of_constancy
from slimgraph.constants import Constants
from slimgraph.contractions import CONTRACTIONS, by_group, is_uniform, op_of, options_of
from slimgraph.errors import VaryingChannelError
from slimgraph.graph import DependencyGraph
from slimgraph.kept import KeptChannels
from slimgraph.labels import Read, compact, varying
from slimgraph.shapes import attribute, modules_of, place

Form = Literal["bias", "addend", "carrier", "sum"]


@dataclass(frozen=True, eq=False)
class Effect:
    """What one consumer gets of the constants that leave.

    Attributes:
        form: A number per output for a "bias" that serves this call only, or as an "addend" behind
            it; the kernel of a "carrier"; one number behind a "sum" or mean.
        node: The consumer.
        tensor: The numbers, for the outputs that stay, in double precision.
        bias: Name of the bias.
        options: How the kernel of a carrier slides.
        dims: Dims of the input without channels that a sum runs over, so that their sizes count.
    """

    form: Form
    node: fx.Node
    tensor: Tensor
    bias: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    dims: tuple[int, ...] = ()


def takes_constants(graph: DependencyGraph, read: Read) -> bool:
    """Return whether a consumer can be given constants in another way than as channels."""
    name = op_of(graph, read.node)
    return name in ("sum", "mean") or (read.weight is not None and name in CONTRACTIONS)


def find_effects(
    kept: KeptChannels, constants: Constants, *, proven: bool = False
) -> tuple[Effect, ...]:
    """Find what every consumer has to be given for the channels that leave.

    Args:
        kept: What stays.
        constants: What is known of the values while nothing has left.
        proven: No output can tell the channels that leave but are not constant.

    Raises:
        VaryingChannelError: A channel that leaves is not a constant, or meets a consumer that
            cannot do without it.
    """
    finder = _Finder(kept, constants, proven)
    reads = (read for read in kept.graph.ledger.reads if read.value.layers)
    found = [finder.effect(read) for read in reads if not kept.is_whole(read.value)]
    return tuple(effect for effect in found if effect is not None)


def find_varying(kept: KeptChannels, constants: Constants) -> Tensor:
    """Mark the channels that leave whose effect nobody can keep. Shape: (channels,).

    Args:
        kept: What stays.
        constants: What is known of the values while nothing has left.
    """
    finder = _Finder(kept, constants, proven=False, refused=set())
    for read in kept.graph.ledger.reads:
        if read.value.layers and not kept.is_whole(read.value):
            finder.effect(read)
    found = torch.zeros(len(kept.channels), dtype=torch.bool)
    found[torch.tensor(sorted(finder.refused or ()), dtype=torch.long)] = True
    return found


@dataclass(frozen=True, eq=False)
class _Finder:
    """Finds effects; with `refused`, channels without any are collected there instead of raised."""

    kept: KeptChannels
    constants: Constants
    proven: bool
    refused: set[int] | None = None

    @property
    def graph(self) -> DependencyGraph:
        return self.kept.graph

    def effect(self, read: Read) -> Effect | None:
        """Find the effect on one consumer; `None` if there is none."""
        if len(read.value.layers) > 1 and op_of(self.graph, read.node) != "group_norm":
            for layer in read.value.layers:
                labels = compact(layer)
                lost = labels[~self.kept.alive(labels)]
                self._refuse(read, lost, "it meets other channels in every combination where")
            return None
        if not takes_constants(self.graph, read):
            self._check_others(read)
            return None
        if op_of(self.graph, read.node) in ("sum", "mean"):
            return self._sum(read)
        assert read.weight is not None, "other contractions do not take constants"
        return self._contraction(read, read.weight)

    def _known(self, read: Read) -> tuple[Tensor, Tensor, Tensor]:
        """Return labels, whether they leave, and constants, each as small as it can be."""
        (layer,) = read.value.layers
        node = read.value.node
        found = None if node is None else self.constants.of(node)
        known = torch.tensor(torch.nan, dtype=torch.float64) if found is None else found
        labels = compact(layer)
        return labels, ~self.kept.alive(labels), compact(known.expand(layer.shape))

    def _contraction(self, read: Read, weight: str) -> Effect | None:
        stored = attribute(self.constants.model, weight).detach()
        channel = read.value.ndim - max(stored.ndim - 1, 1)
        labels, leaves, known = (part.movedim(channel, 0).flatten(1) for part in self._known(read))
        constant = (known == known[:, :1]).all(1) & leaves[:, 0]
        varies = ~constant & leaves[:, 0]
        values = torch.where(constant, known[:, 0], 0.0)
        blocks = by_group(stored, read)
        if bool(varies.any()) and not self.proven:
            outputs = self._outputs_left(read, weight).reshape(len(blocks), -1).to(stored.device)
            used = ((blocks != 0).any(3) & outputs[:, :, None]).any(1).flatten().cpu()
            self._refuse(read, labels[:, 0][varies & used], "it is not constant where")
        if not bool(values.any()):
            return None
        values = values.reshape(len(blocks), -1)
        kernel = torch.einsum("goik,gi->gok", blocks.double().cpu(), values).flatten(0, 1)
        positions = self.kept.positions(read.node, channel)
        kernel = kernel if positions is None else kernel[positions]
        found = bool(kernel.any())
        return self._placed(read, kernel.reshape(-1, *stored.shape[2:])) if found else None

    def _outputs_left(self, read: Read, weight: str) -> Tensor:
        labels = self.graph.ledger.axes[weight, 1 - read.dim].labels
        return self.kept.alive(labels.flatten())

    def _placed(self, read: Read, kernel: Tensor) -> Effect:
        """Decide where the effect on a contraction goes."""
        taps = tuple(kernel.shape[1:])
        if not is_uniform(self.graph, read.node, taps):
            kernel = kernel.unsqueeze(read.dim)  # the carrier's own channel
            options = tuple(options_of(self.graph, read.node).items())
            return Effect("carrier", read.node, kernel, options=options)
        total = kernel.reshape(len(kernel), -1).sum(1)
        if read.node.op == "call_module" and self._is_alone(str(read.node.target)):
            return Effect("bias", read.node, total, f"{read.node.target}.bias")
        return Effect("addend", read.node, total.reshape(-1, *[1] * len(taps)))

    def _is_alone(self, target: str) -> bool:
        """Return whether a module, and its bias if it has one, serves a single call."""
        module = self._modules[target]
        bias = module._parameters["bias"]
        return self._calls[id(module)] == 1 and (bias is None or self._owners[id(bias)] == 1)

    @cached_property
    def _modules(self) -> dict[str, Any]:
        return modules_of(self.graph.traced)

    @cached_property
    def _calls(self) -> Counter[int]:
        """How often each module is called."""
        nodes = self.graph.traced.graph.nodes
        return Counter(id(self._modules[n.target]) for n in nodes if n.op == "call_module")

    @cached_property
    def _owners(self) -> Counter[int]:
        """How many modules and nodes hold each parameter."""
        root = self.graph.traced
        held = [id(p) for m in root.modules() for p in m._parameters.values() if p is not None]
        named = (n for n in root.graph.nodes if n.op == "get_attr")
        return Counter([*held, *(id(attribute(root, str(n.target))) for n in named)])

    def _sum(self, read: Read) -> Effect | None:
        labels, leaves, known = self._known(read)
        node, shape = read.node, read.value.shape
        lost = leaves & known.isnan()
        given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        given = node.kwargs.get("axis") if given is None else given
        dims = range(len(shape)) if given is None else given
        dims = dims if isinstance(dims, list | tuple | range) else (dims,)
        dropped = {dim % len(shape) for dim in dims}
        total = torch.where(leaves, known, 0.0)
        sizes = [dim for dim in dropped if total.shape[dim] == 1 < shape[dim]]
        if not dropped.issuperset(varying(total)) or self.kept.value(node).layers:
            lost = lost | (leaves & (known != 0))
        self._refuse(read, labels.expand(lost.shape)[lost], "it is not constant where")
        if not bool(total.any()):
            return None
        if op_of(self.graph, node) == "mean":  # further dims cancel out
            return Effect("sum", node, total.mean())
        return Effect("sum", node, total.sum(), dims=tuple(sizes))

    def _check_others(self, read: Read) -> None:
        """Refuse what nobody can give a consumer in another way than as a channel."""
        blocks = [block for block in self.graph.ledger.blocks if block.node is read.node]
        if op_of(self.graph, read.node) == "group_norm" and blocks:
            for block in blocks:
                alive = self.kept.alive(block.labels)
                torn = alive.any(1, keepdim=True) & ~alive
                self._refuse(read, block.labels[torn], "it takes part in the statistics where")
            return
        labels, leaves, known = self._known(read)
        lost = leaves & (known != read.fill)
        if self.graph.kinds[read.node] == "norm":
            lost, why = leaves, "it takes part in the statistics where"
        else:
            why = "it is more than nothing where"
        self._refuse(read, labels.expand(lost.shape)[lost], why)

    def _refuse(self, read: Read, labels: Tensor, why: str) -> None:
        if not labels.numel() or self.proven:
            return
        if self.refused is not None:
            self.refused.update(self.graph.component[labels.flatten()].tolist())
            return
        index = int(self.graph.component[labels[0]])
        culprit = end_of_constancy(self.graph, self.constants, read, index)
        if culprit is not None:
            why = f"it stops being constant at {place(culprit)}, and"
        group = self.graph.groups[int(self.graph.group_index[index])]
        channel = int((group.components == index).nonzero()[0])
        raise VaryingChannelError(
            f"the effect of channel {channel} of group `{group.name}` cannot be kept: {why} "
            f"`%{read.node.name}` reads it",
            place(read.node),
            'keep this channel, or use `constants="zero"`, which drops its effect',
        )
