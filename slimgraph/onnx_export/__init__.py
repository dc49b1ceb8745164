"""Export: a graph module in, an ONNX file out that is checked before it exists."""

from slimgraph.onnx_export.export import export_onnx
from slimgraph.onnx_export.report import ExportReport

__all__ = ["ExportReport", "export_onnx"]
