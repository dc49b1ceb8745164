"""slimgraph: a compiler that makes neural networks physically smaller."""

__version__ = "0.1.0"

from slimgraph import compensate, regularize
from slimgraph.analysis import analyze
from slimgraph.compress import compress, masked
from slimgraph.curves import agreement, curve
from slimgraph.errors import InexactWarning, SlimgraphError, UnknownOpWarning
from slimgraph.graph import DependencyGraph
from slimgraph.groups import Group
from slimgraph.importance import score
from slimgraph.mask import Mask
from slimgraph.onnx_export import ExportReport, export_onnx
from slimgraph.passes.select_channels import with_selections
from slimgraph.plan import Plan
from slimgraph.rules import Rule, RuleTable
from slimgraph.select import Budget, select
from slimgraph.serialize import load, save
from slimgraph.slimming import SlimResult, slim
from slimgraph.tracing import trace
from slimgraph.trials import Trial

__all__ = [
    "Budget",
    "DependencyGraph",
    "ExportReport",
    "Group",
    "InexactWarning",
    "Mask",
    "Plan",
    "Rule",
    "RuleTable",
    "SlimResult",
    "SlimgraphError",
    "Trial",
    "UnknownOpWarning",
    "agreement",
    "analyze",
    "compensate",
    "compress",
    "curve",
    "export_onnx",
    "load",
    "masked",
    "regularize",
    "save",
    "score",
    "select",
    "slim",
    "trace",
    "with_selections",
]
