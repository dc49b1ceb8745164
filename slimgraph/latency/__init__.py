"""Latency: what operators take in onnxruntime, what a model will take, and budgets of time."""

from slimgraph.latency.alternating import Timed, in_turns
from slimgraph.latency.budget import InTime, TimeBudget, choose_in_time
from slimgraph.latency.build import latency_model
from slimgraph.latency.kernels import Kernel, Profile, profile
from slimgraph.latency.model import LatencyModel
from slimgraph.latency.table import Table

__all__ = [
    "InTime",
    "Kernel",
    "LatencyModel",
    "Profile",
    "Table",
    "TimeBudget",
    "Timed",
    "choose_in_time",
    "in_turns",
    "latency_model",
    "profile",
]
