"""THE law: the smaller model computes what the masked one computes, at every size it can run at."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slimgraph as sg
from tests.assertions import (
    assert_independent,
    assert_same_output,
    without_makers,
    without_readers,
)
from tests.laws.strategies import case, legal_masks, traced_batches
from tests.models import EXAMPLES, build

# One example has an op that nobody knows: frozen with a warning, and exact.
pytestmark = pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")
SHRINKING = [name for name, example in EXAMPLES.items() if example.groups]
READ_BY_WEIGHTS = [name for name in SHRINKING if not EXAMPLES[name].rest]
KEEPING_ZERO = [name for name in SHRINKING if EXAMPLES[name].keeps_zero]


@pytest.mark.parametrize("name", EXAMPLES)
def test_tracing_and_an_empty_mask_change_nothing(name: str) -> None:
    found = case(name, EXAMPLES[name].batches[0])
    for made in (found.traced, sg.compress(found.traced, {}), sg.masked(found.traced, {})):
        for inputs in found.all_inputs():
            assert_same_output(found.model, made, inputs)


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_group_is_frozen_without_need(name: str) -> None:
    graph = case(name, EXAMPLES[name].batches[0]).graph
    found = {g.name: int((~g.frozen).sum()) for g in graph.groups if g.prunable}
    assert found == EXAMPLES[name].groups


@pytest.mark.parametrize("name", SHRINKING)
@settings(max_examples=6)
@given(data=st.data())
def test_compress_equals_masked(name: str, data: st.DataObject) -> None:
    found = case(name, data.draw(traced_batches(name)))
    mask = data.draw(legal_masks(found.graph))
    slim, masked = sg.compress(found.traced, mask), sg.masked(found.traced, mask)
    keys = found.traced.state_dict().keys()
    assert slim.state_dict().keys() == keys
    assert keys <= found.model.state_dict().keys() or name == "torch.nn.utils.prune"
    assert_independent(slim, found.model)
    for inputs in found.all_inputs():
        assert_same_output(masked, slim, inputs)


@pytest.mark.parametrize("name", SHRINKING)
@settings(max_examples=3)
@given(data=st.data())
def test_compress_equals_masked_where_heads_leave_as_wholes(name: str, data: st.DataObject) -> None:
    found = case(name, data.draw(traced_batches(name)))
    graph = sg.analyze(found.traced, heads="whole")
    mask = data.draw(legal_masks(graph))
    slim, masked = sg.compress(graph, mask), sg.masked(graph, mask)
    for inputs in found.all_inputs():
        assert_same_output(masked, slim, inputs)


@pytest.mark.parametrize("name", READ_BY_WEIGHTS)
@settings(max_examples=4)
@given(data=st.data())
def test_compress_equals_the_model_whose_weights_read_zero(name: str, data: st.DataObject) -> None:
    found = case(name, data.draw(traced_batches(name)))
    slim = sg.compress(found.traced, data.draw(legal_masks(found.graph)))
    reference = without_readers(build(found.example), slim.plan, found.example.reads)
    for inputs in found.all_inputs():
        assert_same_output(reference, slim, inputs)


@pytest.mark.parametrize("name", KEEPING_ZERO)
@settings(max_examples=3)
@given(data=st.data())
def test_compress_equals_the_model_that_makes_zeros(name: str, data: st.DataObject) -> None:
    found = case(name, data.draw(traced_batches(name)))
    slim = sg.compress(found.traced, data.draw(legal_masks(found.graph)))
    reference = without_makers(build(found.example), slim.plan, found.example.reads)
    for inputs in found.all_inputs():
        assert_same_output(reference, slim, inputs)
