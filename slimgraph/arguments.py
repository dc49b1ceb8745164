"""What a function is called with, one value at a time."""

import inspect
from typing import Any


def flat_arguments(bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
    """Name what a function is called with, `*args` and `**kwargs` one by one."""
    found: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found += [(f"{name}_{i}", item) for i, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            found += value.items()
        else:
            found.append((name, value))
    return found


def put_arguments(bound: inspect.BoundArguments, values: list[Any]) -> None:
    """Replace what a function is called with, in the order of `flat_arguments`."""
    rest = iter(values)
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(next(rest) for _ in value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: next(rest) for key in value}
        else:
            bound.arguments[name] = next(rest)
