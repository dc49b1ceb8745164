"""Selection: scores and a budget in, a mask out."""

from slimgraph.select.budget import Budget, select

__all__ = ["Budget", "select"]
