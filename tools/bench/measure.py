"""One measurement in a process of its own: `python -m tools.bench.measure TOOL NETWORK`.

Prints one line of JSON. The process first runs the tool on resnet18, so that imports and
lazily made tables do not count; nor does the garbage collector look again and again, at times of
its own choosing, at what the imports made.
"""

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from tools.bench.networks import build, example

Record = dict[str, Any]
MEGABYTE = 1e6
WARM_UP = "resnet18"


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
    import slimgraph as sg

    with watch.phase("trace"):
        traced = sg.trace(model, inputs)
    with watch.phase("analyze"):
        graph = sg.analyze(traced)
    with watch.phase("choose"):
        scores = sg.score(graph, "l2")
        mask = {
            group.name: _better_half(scores[group.components])
            for group in graph.groups
            if group.prunable
        }
    with watch.phase("compress"):
        slim = sg.compress(graph, mask)
    return lambda: slim


def _better_half(scores: Tensor) -> Tensor:
    keep = torch.zeros(len(scores), dtype=torch.bool)
    keep[scores.argsort(descending=True)[: len(scores) - len(scores) // 2]] = True
    return keep


def torch_pruning(model: nn.Module, inputs: Tensor, watch: Watch) -> Callable[[], nn.Module]:
    """Build the dependency graph, score and choose by the l2 norm, prune in place."""
    import torch_pruning as tp

    with watch.phase("build"):
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        pruner = tp.pruner.MetaPruner(
            model,
            inputs,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[last],
        )
    with watch.phase("step"):
        pruner.step()
    return lambda: model


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
    from slimgraph.shapes import shallow

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


def measure(tool: str, network: str) -> Record:
    """Run a tool on a network once, timed, after a warm-up."""
    torch.set_num_threads(1)
    TOOLS[tool](build(WARM_UP), example(WARM_UP), Watch())
    torch.manual_seed(0)
    model, inputs, watch = build(network), example(network), Watch()
    before = parameters(model)
    gc.collect()
    gc.freeze()
    forget_peak()
    start = resident()
    result = TOOLS[tool](model, inputs, watch)
    top = peak()
    slim = result()
    with torch.no_grad():
        slim(inputs)  # what it made must run
    return {
        "phases": watch.phases,
        "wall": sum(phase["wall"] for phase in watch.phases.values()),
        "cpu": sum(phase["cpu"] for phase in watch.phases.values()),
        "resident_before_mb": start / MEGABYTE,
        "extra_peak_mb": (top - start) / MEGABYTE,
        "parameters": [before, parameters(slim)],
        "slim_mb": sum(t.nbytes for t in slim.state_dict().values()) / MEGABYTE,
    }


def parameters(model: nn.Module) -> int:
    """Count the numbers in a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*sys.argv[1:3])) + "\n")
