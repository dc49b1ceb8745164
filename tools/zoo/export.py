"""Write the halved model as ONNX and ask onnxruntime whether it computes the same."""

import tempfile
from pathlib import Path

import torch
from torch import nn

import slimgraph as sg
from tools.zoo.catalog import Inputs, Subject
from tools.zoo.exactness import GAINS, noise_of
from tools.zoo.halving import halve
from tools.zoo.measure import Diary, Record, crash, example, prepare

TOLERANCE = 1e-3  # deep nets round in single precision; the number found is reported
BATCH = 2
ROUNDING = 1e-6  # what single precision and another order of sums make of an input


def run(subject: Subject, diary: Diary) -> None:
    """Measure one model, with gentler weights if rounding alone changes what it computes."""
    for gain in GAINS:
        with diary.stage("build"):
            model, size = prepare(subject, gain)
            inputs = example(subject, BATCH, size)
        with diary.stage("compress"):
            graph = sg.analyze(sg.trace(model, inputs))
            slim = sg.compress(graph, halve(graph)[0])
        with diary.stage("export"):
            result = _export(slim, inputs)
            diary.say(gain=gain, **result)
        if result["exported"] or noise_of(slim, inputs, ROUNDING) <= TOLERANCE:
            break
    if not result["exported"]:
        with diary.stage("export dense"):
            diary.say(dense=_export_dense(model, inputs))


def _export(slim: torch.fx.GraphModule, inputs: Inputs) -> Record:
    tensors = {n.target for n in slim.graph.nodes if n.op == "placeholder"}
    given = {k: v for k, v in inputs.items() if k in tensors} if isinstance(inputs, dict) else None
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = sg.export_onnx(
                slim, Path(folder) / "slim.onnx", example_inputs=given, tolerance=TOLERANCE
            )
        except Exception as error:
            return {"exported": False, "failure": crash(error, "export")}
    return {
        "exported": True,
        "failure": None,
        "error": max((parity.max_rel for parity in report.parity), default=None),
        "opset": report.opset,
        "onnx_nodes": report.nodes,
        "dynamic_batch": report.dynamic_batch,
        "notes": list(report.notes),
    }


def _export_dense(model: nn.Module, inputs: Inputs) -> Record:
    """Tell whether torch.onnx can export the model as it was."""
    positional = () if isinstance(inputs, dict) else inputs
    named = inputs if isinstance(inputs, dict) else {}
    try:
        torch.onnx.export(model, positional, kwargs=named, dynamo=True, verbose=False)
    except Exception as error:
        return {"exported": False, "failure": crash(error, "export dense")}
    return {"exported": True}
