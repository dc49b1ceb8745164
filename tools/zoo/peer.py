"""What Torch-Pruning leaves of the same model at ratio 0.5, where it works."""

import importlib
from typing import Any

from torch import nn

import slimgraph as sg
from tools.zoo.catalog import Inputs, Subject
from tools.zoo.exactness import OUTPUT
from tools.zoo.measure import Diary, example, parameters, prepare
from tools.zoo.weights import call, tensors

BATCH = 2


def run(subject: Subject, diary: Diary) -> None:
    """Prune a model in place, run it, and count."""
    with diary.stage("build"):
        model, size = prepare(subject)
        inputs = example(subject, BATCH, size)
    outputs = [tuple(tensor.shape) for tensor in tensors(call(model, inputs))]
    before = parameters(model)
    with diary.stage("last layers"):
        last = _last_layers(model, inputs)
    tp = importlib.import_module("torch_pruning")
    with diary.stage("graph"):
        pruner = tp.pruner.MetaPruner(
            model,
            inputs,
            importance=tp.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.5,
            ignored_layers=last,
        )
    with diary.stage("prune"):
        pruner.step()
    with diary.stage("run"):
        found = [tuple(tensor.shape) for tensor in tensors(call(model, inputs))]
    if found != outputs:
        raise RuntimeError(f"the outputs were {outputs}, now they are {found}")
    diary.say(params_left=round(parameters(model) / before, 4))


def _last_layers(model: nn.Module, inputs: Inputs) -> list[Any]:
    """Find the layers whose channels are the model's outputs: it must be told to keep them."""
    try:
        graph = sg.analyze(sg.trace(model, inputs))
    except Exception:
        return [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    names = [
        name
        for group in graph.groups
        if any(reason.message == OUTPUT for reason in group.reasons)
        for name in group.modules
    ]
    known = dict(model.named_modules())
    return [known[name] for name in names if name in known]
