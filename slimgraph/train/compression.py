"""The stage between training and fine-tuning: score, choose, compress, repair."""

import json
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.data import DataLoader, Subset

from slimgraph.analysis import analyze
from slimgraph.compensate import recalibrate, reconstruct
from slimgraph.curves import curve
from slimgraph.files import write_text
from slimgraph.graph import DependencyGraph
from slimgraph.importance import DATA_CRITERIA, score
from slimgraph.passes.select_channels import with_selections
from slimgraph.report import histogram, render
from slimgraph.select import Budget
from slimgraph.serialize import save
from slimgraph.slimming import slim
from slimgraph.train.epochs import accuracy_held_out
from slimgraph.train.recipe import Stage, budget_of, strategy_of
from slimgraph.train.run import Run, broadcast
from slimgraph.train.state import State
from slimgraph.trials import Trial

_BATCH = 64


def compress_stage(run: Run, state: State, stage: Stage) -> dict[str, Any]:
    """Make the model smaller; its optimizer follows."""
    recipe, dense = run.recipe, state.model.eval()
    if stage.number == 1 and run.first:
        save(dense, run.folder / "dense.slim")
    graph = analyze(dense, heads=recipe.heads)
    scores = score(
        graph,
        recipe.criterion,
        normalize=recipe.normalize,
        seed=recipe.seed,
        data=_calibration(run) if recipe.criterion in DATA_CRITERIA else None,
        progress=_silent,
    )
    trial = Trial(
        graph, lambda small: accuracy_held_out(run, small), lambda *pair: _repair(run, *pair)
    )

    def measure(keep: Tensor) -> float:
        """Measure; all processes go by what the first one finds."""
        found = torch.tensor([trial(keep)], dtype=torch.float64, device=run.accelerator.device)
        broadcast([found])
        return float(found)

    strategy = strategy_of(recipe, _budget(run, graph, stage))
    choice = strategy.choose(graph, scores, measure)
    result = slim(dense, mask=choice, optimizer=state.optimizer, heads=recipe.heads)
    errors = {"dense": dense, "compressed": result.model}
    found = {step: 1 - accuracy_held_out(run, each.eval()) for step, each in errors.items()}
    _repair(run, dense, result.model)
    if recipe.repair != "none":
        found["repaired"] = 1 - accuracy_held_out(run, result.model.eval())
    more = recipe.selections and stage.number < recipe.passes  # the last ones stay gathers
    state.model = with_selections(result.model) if more else result.model
    broadcast([*state.model.parameters(), *state.model.buffers()])
    points = _curve(run, graph, scores) if recipe.curve else None  # repairs sum over all processes
    if run.first:
        report = {**result.report, "settings": result.report["settings"] | _settings(run, stage)}
        report["histograms"] = [histogram(graph, recipe.criterion, scores, choice.keep)]
        steps = [{"step": step, "error": error} for step, error in found.items()]
        report["errors"] = {"measure": "error", "on": "held-out images", "steps": steps}
        report["curve"] = points
        write_report(run, stage.number, report)
    return {}


def write_report(run: Run, number: int, report: dict[str, Any]) -> None:
    """Write the report of a pass, for programs and for people."""
    for kind in ("json", "html"):
        write_text(run.folder / f"pass-{number}.{kind}", render(report, kind))


def report_tuned(run: Run, model: fx.GraphModule, number: int) -> None:
    """Add the error after fine-tuning to the report of a pass; doing it twice changes nothing."""
    path = run.folder / f"pass-{number}.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    steps = [each for each in report["errors"]["steps"] if each["step"] != "fine-tuned"]
    error = 1 - accuracy_held_out(run, model.eval())
    report["errors"]["steps"] = [*steps, {"step": "fine-tuned", "error": error}]
    write_report(run, number, report)


def _curve(run: Run, graph: DependencyGraph, scores: Tensor) -> dict[str, Any]:
    repair = None if run.recipe.repair == "none" else lambda *pair: _repair(run, *pair)

    def evaluate(model: fx.GraphModule) -> float:
        return accuracy_held_out(run, model)

    return curve(graph, scores, evaluate, measure="held-out accuracy", repair=repair)


_TOLD = ("criterion", "strategy", "penalty", "strength", "passes", "seed")


def _settings(run: Run, stage: Stage) -> dict[str, Any]:
    recipe, budget = run.recipe.to_dict(), run.recipe.budget
    told = {name: recipe[name] for name in _TOLD} | {"pass": stage.number, "recipe": recipe}
    return told | {"budget": {} if budget is None else {budget.unit: budget.amount}}


def _budget(run: Run, graph: DependencyGraph, stage: Stage) -> Budget | None:
    """Return what may remain of the model as it is.

    Groups of the dense model that have shrunk to one channel are not counted any more, so these
    channels are taken off.
    """
    found = budget_of(run.recipe, stage.number, run.facts["costs"])
    if found is None or found.unit != "channels":
        return found
    names = set(run.facts["groups"])
    alone = sum(g.size for g in graph.groups if g.name in names and not g.prunable)
    return Budget("channels", max(int(found.amount) - alone, 1))


def _repair(run: Run, dense: fx.GraphModule, small: fx.GraphModule) -> None:
    """Repair without labels, on training images as they are."""
    if run.recipe.repair == "none":
        return
    batches = _calibration(run)
    if run.recipe.repair == "reconstruct":
        reconstruct(dense, small, batches, progress=_silent)
    recalibrate(small, batches, progress=_silent)


def _calibration(run: Run) -> list[Any]:
    """Return batches of training images as they are, the same ones in all processes."""
    images = run.data.calibration
    count = min(run.recipe.calibration, len(images))
    return list(DataLoader(Subset(images, range(count)), min(_BATCH, count), drop_last=True))


def _silent(_: str) -> None:
    """Say nothing: strategies repair dozens of models, and every process does."""
