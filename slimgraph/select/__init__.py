"""Selection: scores and a budget in, a mask and a trace of the decisions out."""

from slimgraph.select.budget import Budget, select
from slimgraph.select.candidates import Limits
from slimgraph.select.rules import Greedy, Percentile, Uniform
from slimgraph.select.searches import Evolution, Sensitivity, Stepwise
from slimgraph.select.strategy import Choice, Measure, Strategy, Trace

STRATEGIES: dict[str, type[Strategy]] = {
    each.name: each for each in (Greedy, Percentile, Uniform, Sensitivity, Stepwise, Evolution)
}

__all__ = [
    "STRATEGIES",
    "Budget",
    "Choice",
    "Evolution",
    "Greedy",
    "Limits",
    "Measure",
    "Percentile",
    "Sensitivity",
    "Stepwise",
    "Strategy",
    "Trace",
    "Uniform",
    "select",
]
