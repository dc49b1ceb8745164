"""Repair: what makes up for the channels that left, from unlabelled data, without training."""

from slimgraph.compensate.batch_norm import recalibrate
from slimgraph.compensate.in_turn import Pruned, prune_in_turn
from slimgraph.compensate.least_squares import Repaired, reconstruct
from slimgraph.compensate.means import shift_means
from slimgraph.compensate.projection import project

__all__ = [
    "Pruned",
    "Repaired",
    "project",
    "prune_in_turn",
    "recalibrate",
    "reconstruct",
    "shift_means",
]
