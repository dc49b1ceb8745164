"""Where a run is, on disk: each state is written whole, in a folder that appears at once."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from slimgraph.errors import FileError, SlimgraphError
from slimgraph.files import write_text
from slimgraph.serialize import load, save
from slimgraph.train.recipe import Recipe, optimizer_of

_NAME = "state-{:06d}"


@dataclass(eq=False)
class State:
    """Where a run is; mutable because training is what changes it.

    Attributes:
        model: As it is now.
        optimizer: Of this model.
        done: How many stages are over.
        rows: What each of them came to, for the log.
    """

    model: fx.GraphModule
    optimizer: Optimizer
    done: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def save_state(folder: Path, state: State) -> None:
    """Write a state, whole or not at all, and drop those before it.

    Raises:
        SlimgraphError: The model is none that a file can hold, or the disk is full.
    """
    draft = folder / "state.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    save(state.model, draft / "model.slim")
    held = state.optimizer.state
    named = {name: held[p] for name, p in state.model.named_parameters() if p in held}
    try:
        torch.save(named, draft / "optimizer.pt")
    except (OSError, RuntimeError) as error:
        raise FileError(f"`{draft}` cannot be written: {error}", hint="free some space") from error
    progress = {"done": state.done, "rows": state.rows, "modules": _modules(state.model)}
    write_text(draft / "progress.json", json.dumps(progress))
    target = folder / _NAME.format(state.done)
    draft.rename(target)
    for other in _states(folder):
        if other != target:
            shutil.rmtree(other)


def load_state(folder: Path, recipe: Recipe, device: torch.device) -> State | None:
    """Read the last state of a run, if there is one.

    Raises:
        FileError: It is damaged.
    """
    found = _states(folder)
    if not found:
        return None
    try:
        progress = json.loads((found[-1] / "progress.json").read_text(encoding="utf-8"))
        named = torch.load(found[-1] / "optimizer.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileError(
            f"`{found[-1]}` is damaged: {error}", hint="start anew in another folder"
        ) from error
    model = load(found[-1] / "model.slim").to(device)
    optimizer = optimizer_of(recipe, model)
    parameters = dict(model.named_parameters())
    for name, own in named.items():  # counters of steps stay on the CPU, as torch has them
        optimizer.state[parameters[name]] = {
            key: value.to(device) if isinstance(value, Tensor) and value.ndim else value
            for key, value in own.items()
        }
    for node in model.graph.nodes:
        if (name := progress["modules"].get(node.name)) is not None:
            node.meta["nn_module_stack"] = {name: (name, nn.Module)}
    return State(model, optimizer, progress["done"], progress["rows"])


def _modules(model: fx.GraphModule) -> dict[str, str]:
    """Name the module in whose code each node stands: reports say it, model files do not."""
    stacks = {node.name: node.meta.get("nn_module_stack") for node in model.graph.nodes}
    return {name: str(next(reversed(stack))) for name, stack in stacks.items() if stack}


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob(_NAME.format(0)[:-6] + "*"))


def check_same_run(folder: Path, facts: dict[str, Any]) -> None:
    """Write down what a run is about, or compare with what stands there already.

    Args:
        folder: Of the run.
        facts: JSON data.

    Raises:
        SlimgraphError: The folder holds another run; names what differs.
        FileError: What stands there is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        write_text(path, json.dumps(facts, indent=2) + "\n")
        return
    try:
        there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(f"`{path}` is damaged: {error}", hint="use another folder") from error
    own = _leaves(json.loads(json.dumps(facts)))
    other = _leaves(there)
    changed = [name for name in own | other if own.get(name) != other.get(name)]
    if changed:
        raise SlimgraphError(
            f"`{folder}` holds another run, which differs in {', '.join(changed[:5])}",
            hint="use another folder, or the same options to go on with that run",
        )


def _leaves(facts: dict[str, Any]) -> dict[str, Any]:
    """Name the entries of dicts in a dict."""
    found: dict[str, Any] = {}
    for part, value in facts.items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{part}.{name}".rstrip("."): each for name, each in inner.items()}
    return found
