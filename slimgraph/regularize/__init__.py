"""Regularisers: what makes channels small while a model trains, so that they can leave."""

from slimgraph.regularize.base import Regularizer
from slimgraph.regularize.feature_flow import FeatureFlow
from slimgraph.regularize.growing import GroupPull, GrowingRegularizer, SeparatingRegularizer
from slimgraph.regularize.lasso import L1, OICSR, GroupLasso
from slimgraph.regularize.slimming import NetworkSlimming

__all__ = [
    "L1",
    "OICSR",
    "FeatureFlow",
    "GroupLasso",
    "GroupPull",
    "GrowingRegularizer",
    "NetworkSlimming",
    "Regularizer",
    "SeparatingRegularizer",
]
