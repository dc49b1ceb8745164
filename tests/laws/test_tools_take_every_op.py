"""What is not a compression but walks over the same ops: scores, dead channels, costs, files."""

from pathlib import Path

import pytest

import slimgraph as sg
from tests.assertions import difference, random_mask, run
from tests.laws.strategies import case
from tests.models import EXAMPLES
from tests.nets import lookups, recurrent, reductions, sampling

NAMES = [n for family in (lookups, recurrent, reductions, sampling) for n in family.EXAMPLES]
CUSTOM = {"deformable", "regions"}  # a saved model may not call ops of other libraries


@pytest.mark.parametrize("name", NAMES)
def test_slim_scores_costs_and_finds_dead_channels(name: str) -> None:
    found = case(name, EXAMPLES[name].batches[0])
    assert sg.slim(found.traced).report["groups"] is not None
    if EXAMPLES[name].groups:
        assert sg.slim(found.traced, channels=0.7, criterion="l1").plan.kept


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CUSTOM])
def test_a_saved_model_computes_the_same(name: str, tmp_path: Path) -> None:
    found = case(name, EXAMPLES[name].batches[0])
    slim = sg.compress(found.traced, random_mask(found.graph, 0))
    sg.save(slim, tmp_path / "model.safetensors")
    inputs = found.inputs(EXAMPLES[name].batches[0])
    loaded = sg.load(tmp_path / "model.safetensors")
    assert difference(run(slim, inputs), run(loaded, inputs)) == 0
