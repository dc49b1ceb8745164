"""Traced models as files: the graph as JSON, the tensors as safetensors, and never a pickle."""

from slimgraph.serialize.model_file import load, save

__all__ = ["load", "save"]
