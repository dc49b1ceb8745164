"""The passes: one rewrite of a graph module per file, under the contract of `pass_manager`."""

from slimgraph.pass_manager import Pass
from slimgraph.passes.eliminate_dead_nodes import EliminateDeadNodes
from slimgraph.passes.eliminate_identity import EliminateIdentity
from slimgraph.passes.fold_batch_norm import FoldBatchNorm
from slimgraph.passes.fold_constants import FoldConstants
from slimgraph.passes.reorder_channels import ReorderChannels
from slimgraph.passes.resize_literals import ResizeLiterals
from slimgraph.passes.select_channels import SelectChannels
from slimgraph.passes.slice_parameters import SliceParameters

ALL: tuple[type[Pass], ...] = (
    SelectChannels,
    ResizeLiterals,
    SliceParameters,
    FoldConstants,
    ReorderChannels,
    EliminateIdentity,
    FoldBatchNorm,
    EliminateDeadNodes,
)
BY_NAME: dict[str, type[Pass]] = {kind.name: kind for kind in ALL}

__all__ = [
    "ALL",
    "BY_NAME",
    "EliminateDeadNodes",
    "EliminateIdentity",
    "FoldBatchNorm",
    "FoldConstants",
    "ReorderChannels",
    "ResizeLiterals",
    "SelectChannels",
    "SliceParameters",
]
