"""Selection: scores and a budget in, a mask and a trace of the decisions out."""

from slimgraph.select.budget import Budget, select
from slimgraph.select.candidates import Limits
from slimgraph.select.conditional import Conditional, Learning, Policy, train_policy
from slimgraph.select.rules import Greedy, Percentile, Uniform
from slimgraph.select.searches import Evolution, Sensitivity, Stepwise
from slimgraph.select.strategy import Choice, Measure, Strategy, Trace

STRATEGIES: dict[str, type[Strategy]] = {
    each.name: each
    for each in (Greedy, Percentile, Uniform, Sensitivity, Stepwise, Evolution, Conditional)
}

__all__ = [
    "STRATEGIES",
    "Budget",
    "Choice",
    "Conditional",
    "Evolution",
    "Greedy",
    "Learning",
    "Limits",
    "Measure",
    "Percentile",
    "Policy",
    "Sensitivity",
    "Stepwise",
    "Strategy",
    "Trace",
    "Uniform",
    "select",
    "train_policy",
]
