"""What the laws draw from: every example, traced once, and legal masks."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx, nn

import slimgraph as sg
from tests.assertions import double, legal
from tests.models import EXAMPLES, Example, build


@dataclass(frozen=True)
class Case:
    """An example traced at one batch size."""

    example: Example
    model: nn.Module
    traced: fx.GraphModule
    graph: sg.DependencyGraph

    def inputs(self, batch: int, size: int | None = None, seed: int = 0) -> Any:
        """Make inputs in double precision."""
        torch.manual_seed(seed)
        return double(self.example.inputs(batch, size or self.example.size))

    def all_inputs(self) -> list[Any]:
        """Make inputs of every batch size, and of another spatial size where there is one."""
        batches = self.example.batches
        others = [] if self.example.other is None else [(batches[0], self.example.other)]
        pairs = [*((batch, self.example.size) for batch in batches), *others]
        return [self.inputs(batch, size, seed) for seed, (batch, size) in enumerate(pairs)]


@cache
def case(name: str, batch: int) -> Case:
    """Trace an example at a batch size."""
    example = EXAMPLES[name]
    model = build(example)
    inputs = double(example.inputs(batch, example.size))
    traced = sg.trace(model, inputs)
    traced = sg.with_selections(traced) if example.selections else traced
    return Case(example, model, traced, sg.analyze(traced))


def traced_batches(name: str) -> st.SearchStrategy[int]:
    """Draw the batch size an example is traced at."""
    return st.sampled_from(EXAMPLES[name].batches[:2])


@st.composite
def legal_masks(draw: st.DrawFn, graph: sg.DependencyGraph) -> sg.Mask:
    """Draw which channels leave, and bring back what has to stay."""
    count = len(graph.frozen)
    remove = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    return sg.Mask.of_channels(graph, legal(graph, remove, draw(st.integers(0, 2**16))))
