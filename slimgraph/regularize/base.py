"""What all regularisers share: a penalty with a gradient, and the same as a step."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from slimgraph.errors import SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.slices import Slices, total


class Steps(Protocol):
    """An optimizer, or what wraps one."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any:
        """Follow the gradients."""
        ...


class Regularizer(ABC):
    """Pulls channels toward zero while a model trains.

    Either add it to the loss, `loss = task + regularizer()`, or call `regularizer.step(optimizer)`
    instead of `optimizer.step()`: the same gradient, or a proximal step, without another graph
    for autograd. It sees weights alone, so it is the same on every rank of a distributed run.
    Parameters that belong to no group that can shrink are left alone.

    Args:
        graph: The groups; the parameters are those of the model that was traced.
        strength: Weight of the penalty. Never negative.

    Raises:
        SlimgraphError: No channel can leave, or the strength is negative.
    """

    def __init__(self, graph: DependencyGraph, strength: float) -> None:
        """Remember what can leave."""
        if not strength >= 0:
            raise SlimgraphError(
                f"the strength {strength} is not zero or more", hint="use 1e-4, for example"
            )
        self.graph = graph
        self.strength = strength
        self.prunable = torch.zeros(len(graph.frozen), dtype=torch.bool)
        for group in graph.groups:
            self.prunable[group.components[~group.frozen]] = True
        if not bool(self.prunable.any()):
            raise SlimgraphError(
                "no channel of this model can leave", hint="`graph.explain(name)` says why"
            )

    @abstractmethod
    def __call__(self) -> Tensor:
        """Return the penalty, a scalar with a gradient."""

    @abstractmethod
    def add_gradients(self) -> None:
        """Add the penalty's gradient to that of the parameters."""

    def step(self, optimizer: Steps) -> None:
        """Step the optimizer on the gradients of the task and of the penalty.

        Args:
            optimizer: Holds the gradients of the task.
        """
        self.add_gradients()
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what changes while it runs; empty for most."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        if state:
            raise SlimgraphError(
                f"a `{type(self).__name__}` has no state", hint="the state is another one's"
            )


class GroupRegularizer(Regularizer):
    """A penalty on the norms `||g_c||` of all slices that belong to a channel c.

    Its gradient is `a_c w` for every weight w of the channel: subclasses say what `a_c` is.
    """

    def __init__(self, graph: DependencyGraph, strength: float, slices: tuple[Slices, ...]) -> None:
        """Keep the slices that hold a channel that can leave."""
        super().__init__(graph, strength)
        self.slices = tuple(s for s in slices if bool(self.prunable[s.channels].any()))

    def squares(self) -> Tensor:
        """Return `||g_c||^2` of every channel, zero for those that stay. Shape: (channels,)."""
        sums = total(self.slices, 2, len(self.prunable))
        return torch.where(self.prunable.to(sums.device), sums, 0.0)

    @abstractmethod
    def penalty(self, squares: Tensor) -> Tensor:
        """Return the penalty from the squared norms."""

    @abstractmethod
    def pull(self, squares: Tensor) -> Tensor:
        """Return `a_c`. Shape: (channels,)."""

    def __call__(self) -> Tensor:
        """Return the penalty, a scalar with a gradient."""
        return self.penalty(self.squares())

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add `a_c w` to the gradient of every weight w of channel c."""
        pull = torch.where(self.prunable.to((s := self.squares()).device), self.pull(s), 0.0)
        for each in self.slices:
            tensor = each.tensor
            if tensor.requires_grad:
                push(tensor, tensor * each.spread(pull))


def push(tensor: Tensor, gradient: Tensor) -> None:
    """Add to a parameter's gradient."""
    if tensor.grad is None:
        tensor.grad = gradient
    else:
        tensor.grad.add_(gradient)
