"""Importance: one score per channel, over all that is tied to it; higher = keep."""

from slimgraph.calibrate.sampling import Sampling
from slimgraph.importance.feature_maps import chip, hrank
from slimgraph.importance.gradients import taylor
from slimgraph.importance.magnitude import check_finite
from slimgraph.importance.scoring import CRITERIA, DATA_CRITERIA, Criterion, DataCriterion, score
from slimgraph.importance.subsets import subset_scores

__all__ = [
    "CRITERIA",
    "DATA_CRITERIA",
    "Criterion",
    "DataCriterion",
    "Sampling",
    "check_finite",
    "chip",
    "hrank",
    "score",
    "subset_scores",
    "taylor",
]
