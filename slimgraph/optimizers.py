"""Optimizers: their state follows the parameters into the smaller model, and training goes on."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from slimgraph.errors import PlanError
from slimgraph.slicing import Kept, slice_tensor

_HINT = "make a new optimizer from the smaller model's parameters"


def follow(
    optimizer: Optimizer,
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    kept: Mapping[str, Kept],
) -> Callable[[], None]:
    """Slice an optimizer's state for the parameters of a smaller model.

    State of a parameter's shape (momentum, moments) is sliced as the parameter is; single numbers
    (steps) stay. Parameter groups keep their settings and their order, and whatever belongs to
    another model stays as it is.

    Args:
        optimizer: Holds parameters of the model before, in any number of groups; maybe not all.
        old: Every parameter of the model before, by name.
        new: Those of the smaller model; what is not named stays.
        kept: What is kept of each.

    Returns:
        A function that makes the change; until it is called, nothing changes.

    Raises:
        PlanError: The optimizer is of another model, or keeps state that cannot be sliced.
    """
    names = {id(getattr(tensor, PRUNED_FROM, tensor)): name for name, tensor in old.items()}
    held = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    own = {tensor: names[id(tensor)] for tensor in held if id(tensor) in names}
    if not own:
        raise PlanError(
            "the optimizer holds no parameter of this model",
            hint="give the one that trains it; a copied or loaded model has new parameters",
        )
    twins = {tensor: new.get(name, tensor) for tensor, name in own.items()}
    states = {
        twins[tensor]: _sliced(optimizer.state[tensor], name, tensor, kept.get(name, ()))
        for tensor, name in own.items()
        if tensor in optimizer.state
    }

    def change() -> None:
        for group in optimizer.param_groups:
            group["params"][:] = [twins.get(tensor, tensor) for tensor in group["params"]]
        for tensor in own:
            optimizer.state.pop(tensor, None)
        optimizer.state.update(states)

    return change


def take_in(optimizer: Optimizer, added: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Let an optimizer train parameters that only the smaller model has.

    Args:
        optimizer: Of the smaller model.
        added: Each of them with a weight whose group it joins; where the optimizer does not train
            that one, it leaves the new one alone, too.
    """
    for tensor, beside in added:
        for group in optimizer.param_groups:
            if any(held is beside for held in group["params"]):
                group["params"].append(tensor)


# The attribute of a parameter with a pruning mask applied that holds the one it is made from.
PRUNED_FROM = "pruned_from"


def _sliced(state: Any, name: str, parameter: Tensor, kept: Kept) -> Any:
    """Slice the tensors in one parameter's state; along dims of size 1 they are sums or means."""

    def slice_one(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.numel() == 1:
            return value
        pairs = list(zip(value.shape, parameter.shape, strict=False))
        if value.ndim != parameter.ndim or any(size not in (1, full) for size, full in pairs):
            raise PlanError(
                f"the optimizer keeps a state of shape {tuple(value.shape)} for `{name}` of shape "
                f"{tuple(parameter.shape)}, which nobody knows how to slice",
                hint=_HINT,
            )
        given = kept or (None,) * value.ndim
        own = tuple(
            None if size < full else k for k, (size, full) in zip(given, pairs, strict=True)
        )
        return value if all(k is None for k in own) else slice_tensor(value, own)

    return tree_map(slice_one, state)
