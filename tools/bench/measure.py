"""One measurement, in a process that is ready for it; `tools.bench.compile` makes many of them.

    python -m tools.bench.measure slimgraph resnet50       # prints one line of JSON

The process first runs the tool on small networks, so that imports and lazily made tables do not
count; nor does the garbage collector look again and again, at times of its own choosing, at what
the imports made.
"""

import ctypes
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves
from torchvision.models import VisionTransformer

import slimgraph as sg
from slimgraph.graph import DependencyGraph
from slimgraph.mask import Mask
from slimgraph.select.blocks import Legality
from slimgraph.shapes import shallow
from tools.bench.networks import build, classes, example

Record = dict[str, Any]
Array = np.ndarray[Any, Any]
MEGABYTE = 1e6
WARM_UP = ("resnet18", "mobilenet_v3_small")


class Watch:
    """Wall and processor time of named phases, in seconds."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.phases[name] = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - processor,
        }


def slimgraph(model: nn.Module, inputs: Tensor, watch: Watch) -> Callable[[], nn.Module]:
    """Trace, analyse, choose the better half of every group by its l2 norm, compress."""
    with watch.phase("trace"):
        traced = sg.trace(model, inputs)
    with watch.phase("analyze"):
        graph = sg.analyze(traced)
    with watch.phase("choose"):
        mask = Mask.of_channels(graph, better_half(graph, sg.score(graph, "l2")))
    with watch.phase("compress"):
        slim = sg.compress(graph, mask)
    return lambda: slim


def better_half(graph: DependencyGraph, scores: Tensor) -> Tensor:
    """Keep the better half of every group; of blocks that stay equally long, as much of each.

    Args:
        graph: The groups.
        scores: Higher = keep. Shape: (channels,).

    Returns:
        Bool tensor that `compress` accepts. Shape: (channels,).
    """
    legality = Legality(graph, scores)
    atoms = legality.atoms  # channels of one number leave together
    sizes = torch.bincount(atoms, minlength=len(atoms))
    worth = (torch.bincount(atoms, scores, minlength=len(atoms)) / sizes.clamp(min=1))[atoms]
    group = graph.group_index
    order = torch.from_numpy(_by_group(group.numpy(), worth.numpy(), atoms.numpy()))
    sets, lengths = atoms[order].unique_consecutive(return_counts=True)
    ends = lengths.cumsum(0)
    firsts = torch.searchsorted(group[order], group[sets])  # where each group begins
    halves = torch.bincount(group.clamp(min=0), group >= 0)[group[sets].clamp(min=0)] // 2
    gone = (ends - firsts <= halves) & (group[sets] >= 0)
    leaves = torch.zeros(len(atoms), dtype=torch.bool)
    leaves[sets[gone]] = True
    keep = ~leaves[atoms] | graph.frozen | scores.isinf()
    return legality.repair(keep) if legality.blocks else keep


def _by_group(group: Array, worth: Array, atoms: Array) -> Array:
    """Order channels by group, then by worth, so that those of an atom stay together."""
    if (atoms != np.arange(len(atoms))).any() or group.max() >= 1 << 15:
        return np.lexsort((atoms, worth, group))
    order = np.argsort(worth)
    return order[np.argsort(group[order].astype(np.int16), kind="stable")]  # a radix sort


def torch_pruning(model: nn.Module, inputs: Tensor, watch: Watch) -> Callable[[], nn.Module]:
    """Do as its README does: build the graph, score and choose by the l2 norm, prune in place."""
    import torch_pruning as tp

    last = [m for m in model.modules() if _makes(m) == classes(model)]
    with watch.phase("build"):
        pruner = tp.pruner.BasePruner(
            model,
            inputs,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=last,
        )
    with watch.phase("step"):
        pruner.step()
        if isinstance(model, VisionTransformer):  # it must be told of sizes the model remembers
            model.hidden_dim = model.conv_proj.out_channels
    return lambda: model


def _makes(module: nn.Module) -> int | None:
    """Return how many channels a layer makes, if it could be a classifier."""
    return getattr(module, "out_features", getattr(module, "out_channels", None))


def limit(model: nn.Module, inputs: Tensor, watch: Watch) -> Callable[[], nn.Module]:
    """Do only what cannot be left out: trace, one pass on meta tensors, copy what is kept."""
    slim = slimgraph(model, inputs, Watch())()
    kept = [tensor.detach() for tensor in slim.state_dict().values()]
    shapes = fx.symbolic_trace(build_on_meta(model))
    with watch.phase("trace"):
        fx.symbolic_trace(model)
    with watch.phase("meta pass"), torch.no_grad():
        fx.Interpreter(shapes).run(inputs.to("meta"))
    with watch.phase("copy"):
        copies = [tensor.clone() for tensor in kept]
    assert len(copies) == len(kept)
    return lambda: slim


def build_on_meta(model: nn.Module) -> nn.Module:
    """Copy a model without its numbers."""
    return shallow(model, lambda tensor: tensor.to("meta"))


TOOLS = {"slimgraph": slimgraph, "torch-pruning": torch_pruning, "limit": limit}


def resident() -> float:
    """Return the memory this process holds now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return float(pages * resource.getpagesize())


def peak() -> float:
    """Return the most memory this process has held, in bytes."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def forget_peak() -> None:
    """Let the peak start anew from what is held now; Linux 4.0 and later."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def warm_up(tools: Iterable[str] = ("slimgraph", "torch-pruning", "limit")) -> None:
    """Run tools on small networks, on one thread."""
    torch.set_num_threads(1)
    for tool in tools:
        for network in WARM_UP:
            TOOLS[tool](build(network), example(network), Watch())


def measure(tool: str, network: str, *, trimmed: bool = False) -> Record:
    """Run a tool on a network once, timed, after a warm-up.

    Args:
        tool: One of `TOOLS`.
        network: Its name.
        trimmed: Give free memory back first, so that none is used again that nobody counts.
    """
    warm_up([tool])  # a fork gets pages of its own so
    model, inputs = prepared(network)
    watch = Watch()
    before = parameters(model)
    gc.collect()
    gc.freeze()
    if trimmed:
        ctypes.CDLL(None).malloc_trim(0)
    forget_peak()
    start = resident()
    result = TOOLS[tool](model, inputs, watch)
    top = peak()
    slim = result()
    with torch.no_grad():
        made = tree_leaves(slim(inputs))[0]  # what it made must run
    if made.shape[1] != classes(model):
        raise RuntimeError(f"{tool} left {made.shape[1]} classes of {classes(model)}")
    return {
        "phases": watch.phases,
        "wall": sum(phase["wall"] for phase in watch.phases.values()),
        "cpu": sum(phase["cpu"] for phase in watch.phases.values()),
        "resident_before_mb": start / MEGABYTE,
        "extra_peak_mb": (top - start) / MEGABYTE,
        "parameters": [before, parameters(slim)],
        "slim_mb": sum(t.nbytes for t in slim.state_dict().values()) / MEGABYTE,
    }


def prepared(network: str) -> tuple[nn.Module, Tensor]:
    """Build a network, always with the same weights, and an example for it."""
    torch.manual_seed(0)
    return build(network), example(network)


def parameters(model: nn.Module) -> int:
    """Count the numbers in a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    warm_up(sys.argv[1:2])
    sys.stdout.write(json.dumps(measure(*sys.argv[1:3])) + "\n")
