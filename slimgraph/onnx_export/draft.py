"""The draft of an ONNX file: captured by torch.export, translated by torch.onnx, checked."""

import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from slimgraph.errors import FileError, OnnxExportError
from slimgraph.onnx_export.examples import Examples
from slimgraph.parity import named_leaves
from slimgraph.shapes import place

# torch.onnx translates to this opset; older ones are reached by conversion.
OLDEST_NATIVE_OPSET = 18
# What the oldest converters and runtimes still in use know.
OLDEST_OPSET = 7
_HIDDEN = "."


@dataclass(frozen=True)
class Draft:
    """How a file is to be written.

    Attributes:
        path: Where; weights in a file of their own lie beside it.
        opset: Version of the operator set; `None` leaves it to torch.
        optimize: Whether torch.onnx shall simplify the graph.
        external_data_above: Size of the weights, in bytes, above which they get their own file.
    """

    path: Path
    opset: int | None
    optimize: bool
    external_data_above: int

    def write(
        self, model: GraphModule, example: Examples, outputs: tuple[str, ...], *, free: bool
    ) -> None:
        """Capture, translate and save a model.

        Args:
            model: The model in eval mode.
            example: Its inputs.
            outputs: Names of its output tensors.
            free: Whether the batch size shall be free; the example's must then be 2 or more,
                since torch.export takes 1 for a constant.

        Raises:
            OnnxExportError: torch refuses the model.
            FileError: The disk does.
        """
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # graphs, at length
                captured = _capture(model, example, free=free)
                program = self._translate(captured, example, outputs)
            if free:
                index = [example.shares_batch(tensor) for tensor in example.tensors].index(True)
                program.rename_axes({program.model.graph.inputs[index].shape[0]: "batch"})
            _list_constants(program.model.graph)
            weights = program.model.graph.initializers.values()
            size = sum(weight.const_value.nbytes for weight in weights)
            program.save(self.path, external_data=size > self.external_data_above)
        except OSError as error:
            raise FileError(f"cannot write the ONNX file: {error.strerror}") from error
        except Exception as error:
            raise OnnxExportError(
                f"torch.onnx refuses the model: {first_line(_root_cause(error))}",
                _culprit(str(error), model),
                _remedy(model),
            ) from error

    def _translate(self, captured: Any, example: Examples, outputs: tuple[str, ...]) -> Any:
        return torch.onnx.export(
            captured,
            (),
            dynamo=True,
            verbose=False,
            input_names=example.names,
            output_names=outputs,
            opset_version=self.opset and max(self.opset, OLDEST_NATIVE_OPSET),
            optimize=self.optimize,
        )

    def check(self) -> None:
        """Bring the file to its opset and let ONNX check it.

        Raises:
            OnnxExportError: ONNX refuses it, or it cannot have that opset.
        """
        import onnx

        if self.opset is not None and self.opset < OLDEST_NATIVE_OPSET:
            _lower_opset(self.path, self.opset)
        if self.opset is not None:
            _, opset = facts(self.path)
            if opset != self.opset:  # torch.onnx only logs that it could not convert
                raise OnnxExportError(
                    f"torch.onnx cannot write this model in opset {self.opset}",
                    hint=f"use `opset={opset}` or leave it to torch",
                )
        try:
            onnx.checker.check_model(str(self.path), full_check=True)
        except Exception as error:
            raise OnnxExportError(
                f"the ONNX checker refuses the file: {first_line(error)}"
            ) from error


class _TensorsOnly(nn.Module):
    """A model that takes and returns tensors in one flat tuple, under its weights' old names."""

    def __init__(self, model: GraphModule, example: Examples) -> None:
        super().__init__()
        for store in ("_parameters", "_buffers", "_modules"):
            vars(self)[store] = vars(model)[store]
        # Past `__setattr__`, which would register the model and so rename its weights; and under a
        # name that no submodule of the model can have.
        vars(self)[_HIDDEN] = (model, example)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the model."""
        model, example = vars(self)[_HIDDEN]
        outputs = model(*example.fill(tensors))
        return tuple(leaf for _, leaf in named_leaves(outputs) if isinstance(leaf, Tensor))


def _list_constants(graph: Any) -> None:
    """List the constants that torch's simplifier made and forgot, of several with one name."""
    given = {id(value) for value in graph.inputs}
    for node in graph.all_nodes():
        for value in node.inputs:
            lone = value is not None and value.producer() is None and id(value) not in given
            if lone and value.const_value is not None and value.name not in graph.initializers:
                graph.register_initializer(value)


def _capture(model: GraphModule, example: Examples, *, free: bool) -> Any:
    shapes = None
    if free:
        batch = torch.export.Dim("batch")
        dims = ({0: batch} if example.shares_batch(tensor) else None for tensor in example.tensors)
        shapes = (tuple(dims),)
    module = _TensorsOnly(model, example).eval()
    return torch.export.export(module, example.tensors, dynamic_shapes=shapes, strict=False)


def _lower_opset(path: Path, opset: int) -> None:
    """Convert a file to an older operator set."""
    import onnx
    from onnx import helper, version_converter

    try:
        model = onnx.load(path)
        del model.graph.value_info[:]  # shapes in the newer set's terms mislead the converter
        for node in model.graph.node:  # and it leaves this attribute behind; 0 is its default
            for attribute in [a for a in node.attribute if a.name == "noop_with_empty_axes"]:
                if attribute.i == 0:
                    node.attribute.remove(attribute)
        model = version_converter.convert_version(model, opset)
        model.ir_version = helper.find_min_ir_version_for(model.opset_import)
        data = path.with_name(f"{path.name}.data")
        apart = data.exists()
        data.unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=apart, location=data.name, size_threshold=0)
    except Exception as error:
        reason = first_line(error).rpartition(" failed: ")[2]  # behind a place in ONNX's own code
        raise OnnxExportError(
            f"opset {opset} cannot express the model: {reason}",
            hint=f"use `opset={OLDEST_NATIVE_OPSET}` or newer",
        ) from error


def facts(path: Path) -> tuple[int, int]:
    """Return the number of nodes and the opset of a file."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return len(model.graph.node), opset


def check_opset(opset: int | None) -> None:
    """Raise for an opset that does not exist, before any work is done."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise OnnxExportError(
            f"there is no opset {opset}", hint=f"use one from {OLDEST_OPSET} to {newest}"
        )


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line without torch's advice to its developers."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.partition(" For more information")[0].strip()


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _remedy(model: GraphModule) -> str | None:
    """Say what can be done about parts that run as Python."""
    for name, reason in model.meta.get("leaves", {}).items():
        part = f"`{name}`" if name else "the model's forward"
        return (
            f"{part} stays Python ({reason}), and no ONNX file holds that: rewrite it with tensor "
            "code such as `torch.where`, or export the parts around it"
        )
    return None


def _culprit(text: str, model: GraphModule) -> str | None:
    """Return the place of the node that torch.export was running when it failed."""
    found = re.search(r"While executing %(\w+)", text)
    named = {node.name: node for node in model.graph.nodes}
    return place(named[found[1]]) if found and found[1] in named else None
