"""The op families; each file ends in `RULES`."""

from slimgraph.ops import (
    contraction,
    convolution,
    creation,
    elementwise,
    embedding,
    indexing,
    linear,
    movement,
    normalization,
    overwriting,
    pooling,
    recurrent,
    reduction,
    sampling,
    selection,
)
from slimgraph.rules import Rule, RuleTable

FAMILIES = (
    convolution,
    linear,
    contraction,
    normalization,
    elementwise,
    pooling,
    reduction,
    movement,
    indexing,
    creation,
    embedding,
    sampling,
    recurrent,
    overwriting,
    selection,
)


def default_rules() -> tuple[Rule, ...]:
    """Return every rule slimgraph knows."""
    return tuple(rule for family in FAMILIES for rule in family.RULES)


DEFAULT_TABLE = RuleTable(default_rules(), pointwise=elementwise.POINTWISE)
