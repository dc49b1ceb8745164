"""Shifts: what the biases of a model get of constants that are no longer computed."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from slimgraph.errors import PlanError


def shifted(module: nn.Module, shift: Tensor) -> nn.Parameter:
    """Return the bias of a convolution or linear layer with a shift added, or a new bias.

    Args:
        module: Holds weight and bias; it is not changed.
        shift: One number per output.
    """
    weight, old = module._parameters["weight"], module._parameters["bias"]
    assert weight is not None, "convolutions and linear layers have a weight"
    if old is None:
        made = shift.to(weight.device, weight.dtype)
        return nn.Parameter(made, requires_grad=weight.requires_grad)
    total = (old.detach().double() + shift.to(old.device)).to(old.dtype)
    return nn.Parameter(total, requires_grad=old.requires_grad)


def shift_all(model: nn.Module, shifts: Mapping[str, Tensor]) -> None:
    """Give biases, named as in a state dict, their shifts."""
    for name, shift in shifts.items():
        module = model.get_submodule(name.rpartition(".")[0])
        module._parameters["bias"] = shifted(module, shift)


def check_shifts(
    model: nn.Module, shifts: Collection[str], known: Collection[str], carriers: Collection[str]
) -> None:
    """Refuse a model that cannot take the effect of constants.

    Args:
        model: An instance of the user's class.
        shifts: The biases to shift.
        known: Those and other tensors that the model has.
        carriers: Where more than a bias is needed.

    Raises:
        PlanError: There are carriers, or a bias is there or missing against expectation.
    """
    hint = "use the GraphModule that `compress` returns, which has them"
    for where in carriers:
        raise PlanError("constants that left are replaced by nodes of their own", where, hint)
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in shifts:
        stored = modules.get(name.rpartition(".")[0], model)._parameters
        if stored.get("weight") is None or (stored.get("bias") is not None) != (name in known):
            raise PlanError(
                f"the model has no `{name}` to take the effect of constants",
                hint="apply the plan to a fresh instance of the class it was made for",
            )


def shifts_of_both(
    first: Mapping[str, Tensor],
    later: Mapping[str, Tensor],
    kept: Mapping[str, tuple[Tensor | None, ...]],
) -> dict[str, Tensor]:
    """Add up the shifts of two plans, the first for the positions that the second one keeps."""
    result = dict(later)
    for name, shift in first.items():
        (positions,) = kept.get(name, (None,))
        left = shift if positions is None else shift[positions]
        result[name] = left + later[name] if name in later else left
    return result
