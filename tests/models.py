"""Every tiny net by name; each shows one way in which channels depend on each other."""

from tests.nets import (
    attention,
    branches,
    calls,
    convolutions,
    found,
    lookups,
    norms,
    real,
    recurrent,
    reductions,
    sampling,
    selections,
    shapes,
)
from tests.nets.base import Example, build

__all__ = ["EXAMPLES", "Example", "build"]

FAMILIES = (
    attention,
    branches,
    convolutions,
    shapes,
    norms,
    calls,
    recurrent,
    reductions,
    real,
    lookups,
    sampling,
    selections,
    found,
)
EXAMPLES: dict[str, Example] = {
    name: example for family in FAMILIES for name, example in family.EXAMPLES.items()
}
assert len(EXAMPLES) == sum(len(family.EXAMPLES) for family in FAMILIES), "two nets, one name"
