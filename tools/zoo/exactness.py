"""Trace, analyse, halve, compress, and compare with the masked model in double precision."""

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

import slimgraph as sg
from slimgraph.op_names import canonical
from slimgraph.parity import compare
from tools.zoo.catalog import Inputs, Subject
from tools.zoo.halving import halve, kept_share
from tools.zoo.judge import TOLERANCE
from tools.zoo.measure import Diary, Record, example, parameters, prepare
from tools.zoo.weights import call, double

BATCHES = (2, 3)  # a batch of one would make sizes of 1 look fixed
OUTPUT = "reaches the model's output"
TOP = 6


GAINS = (1.0, 0.5, 0.25)
ROUNDING = 1e-15


def run(subject: Subject, diary: Diary) -> None:
    """Measure one model, with gentler weights if rounding alone changes what it computes."""
    torch.set_default_dtype(torch.double)  # models make tensors of their own in their forward
    for gain in GAINS:
        diary.say(gain=gain)
        if _measure(subject, gain, diary) < TOLERANCE:
            break


def _measure(subject: Subject, gain: float, diary: Diary) -> float:
    """Measure at weights of one strength; return how far rounding alone moves the output."""
    with diary.stage("build"):
        model, size = prepare(subject, gain)
    diary.say(params=parameters(model), size=size)
    graph = _analysed(model, double(example(subject, BATCHES[0], size)), diary)
    with diary.stage("choose"):
        mask, asked = halve(graph)
    diary.say(asked=asked, channels_left=round(kept_share(graph, mask), 4))
    with diary.stage("compress"):
        slim = sg.compress(graph, mask)
    diary.say(params_left=round(parameters(slim) / max(parameters(model), 1), 4))
    with diary.stage("mask"):
        reference = sg.masked(graph, mask)
    with diary.stage("compare"):
        return _compare(subject, size, model, graph, reference, slim, diary)


def _analysed(model: nn.Module, inputs: Inputs, diary: Diary) -> sg.DependencyGraph:
    with diary.stage("trace"):
        traced = sg.trace(model, inputs)
    meta: dict[str, Any] = getattr(traced, "meta", {})
    diary.say(
        rung=meta.get("rung", "symbolic"),
        leaves=[str(leaf) for leaf in meta.get("leaves", ())],
        nodes=len(traced.graph.nodes),
    )
    with diary.stage("analyze"):
        graph = sg.analyze(traced)
        diary.say(**_groups(graph))
    return graph


def _groups(graph: sg.DependencyGraph) -> Record:
    """Describe the groups, and what freezes channels."""
    sizes = [group.size for group in graph.groups]
    frozen = [int(group.frozen.sum()) for group in graph.groups]
    names = Counter(
        canonical(node.target) if node.op != "call_module" else _module(graph, node.target)
        for node, kind in graph.kinds.items()
        if kind == "unknown"
    )
    return {
        "groups": len(sizes),
        "prunable_groups": sum(group.prunable for group in graph.groups),
        "channels": sum(sizes),
        "frozen_share": round(sum(frozen) / max(sum(sizes), 1), 4),
        "frozen_by_output": round(_by_output(graph) / max(sum(sizes), 1), 4),
        "unknown_ops": dict(names.most_common(TOP)),
        "single": _computes_in_single(graph),
        "reasons": _reasons(graph),
    }


def _computes_in_single(graph: sg.DependencyGraph) -> bool:
    """Find models in double precision whose own code converts to single precision."""
    values = (node.meta.get("val") for node in graph.traced.graph.nodes)
    return any(isinstance(v, torch.Tensor) and v.dtype == torch.float32 for v in values)


def _module(graph: sg.DependencyGraph, target: Any) -> str:
    return type(graph.traced.get_submodule(str(target))).__name__


def _by_output(graph: sg.DependencyGraph) -> int:
    """Count the channels that are an output's own: nothing could free them."""
    own = [f.labels for f in graph.ledger.frozen if f.message == OUTPUT]
    return len(graph.component[torch.cat(own)].unique()) if own else 0


def _reasons(graph: sg.DependencyGraph) -> list[Record]:
    """Rank the reasons that freeze channels other than the outputs' own, by channels."""
    found: dict[str, Record] = {}
    for freeze in graph.ledger.frozen:
        channels = set(graph.component[freeze.labels].unique().tolist())
        entry = found.setdefault(freeze.message, {"channels": set(), "nodes": 0, "first": ""})
        entry["channels"] |= channels
        entry["nodes"] += 1
        entry["first"] = entry["first"] or _place(freeze.node)
    rows = [
        {"reason": message, **entry, "channels": len(entry["channels"])}
        for message, entry in found.items()
        if message != OUTPUT
    ]
    return sorted(rows, key=lambda row: -int(row["channels"]))[:TOP]


def _place(node: Any) -> str:
    return f"%{node.name} ({canonical(node.target)}, {node.meta.get('source', '')})"


def _compare(
    subject: Subject,
    size: int,
    model: nn.Module,
    graph: sg.DependencyGraph,
    reference: nn.Module,
    slim: nn.Module,
    diary: Diary,
) -> float:
    """Run both at two batches and two sizes, and the masked model with rounded inputs if need be.

    Returns:
        How far rounding alone moves the masked model's output; 0 if nothing asks for it.
    """
    errors: list[Record] = []
    larger = [(size + subject.step, BATCHES[0])] if subject.step else []
    for side, batch in [*((size, batch) for batch in BATCHES), *larger]:
        inputs = double(example(subject, batch, side))
        try:
            expected = call(reference, inputs)
        except Exception as error:
            errors.append({"size": side, "batch": batch, "fixed": str(error)[:200]})
            diary.say(errors=errors)
            continue
        errors.append({"size": side, "batch": batch, **_error(expected, slim, inputs)})
        if (side, batch) == (size, BATCHES[-1]):
            errors[-1] |= _traced(model, graph.traced, expected, inputs)
        if not errors[1:]:
            diary.say(spread=_spread(expected))
        diary.say(errors=errors)
    worst = max((entry.get("error", 0.0) for entry in errors), default=0.0)
    if worst <= TOLERANCE or _computes_in_single(graph):
        return 0.0
    noise = noise_of(reference, double(example(subject, BATCHES[0], size)), ROUNDING)
    diary.say(noise=noise)
    return noise


def noise_of(model: nn.Module, inputs: Inputs, step: float) -> float:
    """Return how far the output moves, relative to its largest, if every input does by a step."""

    def nudged(leaf: Any) -> Any:
        floats = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf * (1 + step) if floats else leaf

    moved = call(model, tree_map(nudged, inputs))
    results = compare(call(model, inputs), moved)
    return max(result.max_rel for result in results)


def _error(expected: Any, slim: nn.Module, inputs: Inputs) -> Record:
    results = compare(expected, call(slim, inputs))
    worst = max(results, key=lambda result: result.max_rel)
    return {"error": worst.max_rel, **({"note": str(worst)} if worst.note else {})}


def _spread(expected: Any) -> float:
    """Return the largest spread of an output; without any, a comparison says nothing."""
    from slimgraph.parity import named_leaves

    leaves = [leaf for _, leaf in named_leaves(expected) if isinstance(leaf, torch.Tensor)]
    spreads = [float(leaf.double().std()) for leaf in leaves if leaf.numel() > 1]
    return max(spreads, default=0.0)


def _traced(model: nn.Module, traced: nn.Module, masked: Any, inputs: Inputs) -> Record:
    """Compare the traced model with the model, and tell whether removal changes the output."""
    own = call(model, inputs)
    try:
        output = call(traced, inputs)
        found = max(result.max_rel for result in compare(own, output))
        change = max(result.max_rel for result in compare(output, masked))
    except Exception as error:
        return {"traced_note": str(error)[:200]}
    return {"traced": found, "change": change}
