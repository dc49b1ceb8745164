"""The loop: a list of stages, a state written after each, on Hugging Face accelerate.

Everything random in a stage follows from the seed and the stage's number, and everything else from
the state before it. So a run that was killed goes on from its last state to the same result.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

import slimgraph
from slimgraph.analysis import analyze
from slimgraph.cost import CostModel
from slimgraph.passes.select_channels import with_selections
from slimgraph.serialize import save
from slimgraph.tracing import trace
from slimgraph.train.compression import compress_stage, report_tuned
from slimgraph.train.data import Data
from slimgraph.train.epochs import accuracy, train_epoch
from slimgraph.train.logs import Board, line, write_csv
from slimgraph.train.recipe import Recipe, Stage, optimizer_of, stages
from slimgraph.train.run import Run, Say, broadcast
from slimgraph.train.state import State, check_same_run, load_state, save_state


@dataclass(frozen=True, eq=False)
class Result:
    """What `train` returns.

    Attributes:
        model: The small model, trained.
        rows: One per stage; `log.csv` holds the same.
        folder: Holds `model.slim`, `dense.slim`, and per pass `pass-N.slim` and its report.
    """

    model: fx.GraphModule
    rows: list[dict[str, Any]]
    folder: Path


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    folder: str | Path,
    *,
    workers: int = 0,
    tensorboard: bool = False,
    say: Say = lambda _: None,
) -> Result:
    """Train, compress and fine-tune a model, in one process or as `accelerate launch` says.

    A folder that holds part of the same run is where it goes on; a finished one gives its result.

    Args:
        model: Any classifier that can be traced and saved. Up to the first compression, its own
            weights are what is trained.
        data: See `load_data`.
        recipe: How.
        folder: For states and results; made if there is none. All machines have to share it.
        workers: Processes that read images, per process.
        tensorboard: Whether to write to `folder/tensorboard`, too.
        say: Called with one line per stage, and with what goes on, by the first process.

    Raises:
        SlimgraphError: Training diverges, the model cannot be saved, or the folder holds another
            run. See also `trace`, `score` and `slimgraph.select`.
    """
    run = Run(data, recipe, Path(folder), workers, say)
    state = _start(run, model)
    board = Board(run.folder / "tensorboard", state.done) if tensorboard and run.first else None
    plan = list(stages(recipe))
    for index, stage in enumerate(plan[state.done :], start=state.done + 1):
        run.speak(f"{stage} ({index} of {len(plan)})")
        row = _stage(run, state, stage)
        over = index == len(plan) or plan[index].number > stage.number
        _write(run, state, f"pass-{stage.number}" if over else None)
        if board is not None:
            board.add(row)
        run.speak(line(row))
    if board is not None:
        board.close()
    if run.first:
        save(state.model, run.folder / "model.slim")
    run.accelerator.wait_for_everyone()
    return Result(state.model.eval(), state.rows, run.folder)


def _start(run: Run, model: nn.Module) -> State:
    """Go on from the last state, or make the first."""
    device = run.accelerator.device
    traced = trace(model, torch.zeros(1, *run.data.shape)).to(device)
    traced = with_selections(traced) if run.recipe.selections else traced
    run.folder.mkdir(parents=True, exist_ok=True)
    if run.first:
        check_same_run(run.folder, _facts(run, traced))
    run.accelerator.wait_for_everyone()
    there = load_state(run.folder, run.recipe, device)
    run.accelerator.wait_for_everyone()
    state = there or State(traced, optimizer_of(run.recipe, traced))
    broadcast([*state.model.parameters(), *state.model.buffers()])
    if there is None:
        _write(run, state, None)
    return state


def _facts(run: Run, traced: fx.GraphModule) -> dict[str, Any]:
    """Return what tells this run from others, and what the dense model costs."""
    graph, data = analyze(traced), run.data
    return {
        "slimgraph": slimgraph.__version__,
        "recipe": run.recipe.to_dict(),
        "data": {
            "images": [len(part) for part in (data.train, data.held_out, data.test)],
            "shape": list(data.shape),
        },
        "model": {name: list(p.shape) for name, p in traced.named_parameters()},
        "costs": _costs(run, traced),
        "groups": [group.name for group in graph.groups if group.prunable],
    }


def _costs(run: Run, model: fx.GraphModule) -> dict[str, int]:
    """Count channels, parameters and MACs; with selections, those of every reader count."""
    graph = analyze(with_selections(model) if run.recipe.selections else model)
    return CostModel(graph).totals(torch.ones_like(graph.frozen))._asdict()


def _stage(run: Run, state: State, stage: Stage) -> dict[str, Any]:
    """Do one stage and return what it came to."""
    from accelerate.utils import set_seed

    set_seed(run.recipe.seed_at(state.done), device_specific=stage.kind != "compress")
    work = compress_stage if stage.kind == "compress" else train_epoch
    found = work(run, state, stage)
    state.done += 1
    row = {"stage": state.done, "pass": stage.number, "kind": stage.kind, "epoch": stage.epoch}
    row |= found | {"accuracy": accuracy(run, state.model)} | _costs(run, state.model)
    run.accelerator.free_memory()
    state.rows.append(row)
    return row


def _write(run: Run, state: State, name: str | None) -> None:
    """Write the log, the model of a pass that is over, and then the state."""
    if run.first:
        write_csv(run.folder / "log.csv", state.rows)
        if name is not None:
            save(state.model, run.folder / f"{name}.slim")
            if run.recipe.tune_epochs:
                report_tuned(run, state.model, state.rows[-1]["pass"])
        save_state(run.folder, state)
    run.accelerator.wait_for_everyone()
