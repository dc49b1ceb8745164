"""What was compressed in steps is repaired towards the model that was traced."""

import pytest
import torch
from torch import fx

import slimgraph as sg
from slimgraph.compensate import project, prune_in_turn, reconstruct, shift_means
from tests.compensate.test_least_squares import NETS, images, seeded

FIRST = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1]).bool()
SECOND = torch.tensor([1, 0, 1, 0, 1, 1]).bool()


def steps() -> tuple[fx.GraphModule, fx.GraphModule, fx.GraphModule]:
    traced = sg.trace(seeded(NETS["plain"]), images(1)[0][:2])
    one = sg.compress(traced, {"0": FIRST})
    return traced, one, sg.compress(one, {"0": SECOND, "2": SECOND})


def test_towards_the_model_that_was_traced() -> None:
    whole = FIRST.clone()
    whole[FIRST] = SECOND
    for repair in (project, shift_means, reconstruct):
        traced, _, two = steps()
        at_once = sg.compress(traced, {"0": whole, "2": SECOND})
        for slim in (two, at_once):
            repair(traced, slim, images())
        for key, value in at_once.state_dict().items():
            torch.testing.assert_close(two.state_dict()[key], value)


def test_a_step_alone_is_refused() -> None:
    _, one, two = steps()
    for repair, message in ((project, "of another model"), (reconstruct, "model before")):
        with pytest.raises(sg.SlimgraphError, match=message):
            repair(one, two, images())


def test_what_is_compressed_already_can_be_pruned_in_turn() -> None:
    traced, one, _ = steps()
    found = prune_in_turn(sg.analyze(one), {"0": 4, "2": 4}, images(), by="obs")
    assert found.model.get_submodule("2").weight.shape[:2] == (4, 4)
    assert vars(found.model)["plan"].sizes["0.weight"] == tuple(
        traced.get_submodule("0").weight.shape
    )
    x = torch.cat(images())
    plain = sg.compress(one, found.mask)
    assert (found.model(x) - one(x)).norm() < (plain(x) - one(x)).norm()
