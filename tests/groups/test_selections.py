"""Selections: what consumers of a shared value may lose on their own."""

import pytest
import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.errors import EmptiedGroupError, FrozenChannelError, PlanError, UnknownGroupError
from slimgraph.passes.reorder_channels import ReorderChannels, reasons
from slimgraph.passes.select_channels import SelectChannels
from slimgraph.selecting import idle_selections
from slimgraph.selection import select
from tests.assertions import assert_same_output, random_mask
from tests.models import EXAMPLES, build
from tests.nets.base import Net, conv
from tests.nets.selections import PreActivation

IMAGE = torch.randn(2, 3, 8, 8, dtype=torch.float64)


def traced(name: str = "pre-activation", at: list[str] | None = None) -> fx.GraphModule:
    return sg.with_selections(sg.trace(build(EXAMPLES[name]), IMAGE), at)


def names(traced: fx.GraphModule) -> list[str]:
    return [node.args[2] for node in traced.graph.nodes if node.target is select]


def picks(slim: fx.GraphModule) -> dict[str, str]:
    """Say how each selection was realised."""
    words = {torch.index_select: "gather", torch.Tensor.__getitem__: "slice"}
    return {
        node.name: words.get(node.target, "slice")
        for node in slim.graph.nodes
        if node.name.endswith("_in")
    }


def mask_of(size: int, *kept: int) -> list[bool]:
    return [position in kept for position in range(size)]


@pytest.mark.parametrize("name", [n for n, e in EXAMPLES.items() if e.selections])
def test_groups_that_can_shrink(name: str) -> None:
    graph = sg.analyze(traced(name))
    found = {g.name: int((~g.frozen).sum()) for g in graph.groups if g.prunable}
    assert found == EXAMPLES[name].groups


def test_selections_stand_before_chains_on_shared_channels_alone() -> None:
    assert names(traced()) == ["n1[in]", "n3[in]", "n5[in]", "n7[in]"]
    assert names(traced("dense block that selects")) == ["n1[in]", "n2[in]", "n3[in]"]
    assert names(traced("residual")) == ["head[in]"], "the last block's output is the stream, too"
    for name in ("residual stages", "concat", "upsample and skip", "squeeze and excite"):
        assert names(traced(name)) == [], name


def test_modules_can_be_named() -> None:
    found = traced("residual", ["body"])
    assert names(found) == ["body[in]"]
    mask = {"body[in]": mask_of(8, 1, 6)}
    slim = sg.compress(found, mask)
    assert slim.get_submodule("body").in_channels == 2
    assert slim.get_submodule("stem").out_channels == 8
    assert_same_output(sg.masked(found, mask), slim, IMAGE)


@pytest.mark.parametrize("name", ["nobody", "stem"])
def test_a_module_that_reads_no_channels_cannot_select(name: str) -> None:
    with pytest.raises(UnknownGroupError, match=f"`{name}` reads no channels"):
        traced(at=[name])


class Overwriting(Net):
    """What reads the stem writes into it, or returns it as it is."""

    def parts(self) -> dict[str, nn.Module]:
        return {"stem": conv(3, 6), "act": nn.ReLU(inplace=True), "same": nn.Identity(),
                "head": conv(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.same(self.act(x)) + x)


@pytest.mark.parametrize("name", ["act", "same"])
def test_a_copy_would_show_where_a_value_is_overwritten(name: str) -> None:
    model = sg.trace(Overwriting(), IMAGE.float())
    with pytest.raises(UnknownGroupError, match="does not overwrite it"):
        sg.with_selections(model, [name])


def test_a_selection_leaves_the_shared_value_alone() -> None:
    slim = sg.compress(traced(), {"n1[in]": mask_of(6, 0, 2, 5), "n3[in]": mask_of(6, 1, 2)})
    assert slim.get_submodule("stem").out_channels == slim.get_submodule("c2").out_channels == 6
    assert slim.get_submodule("n1").num_features == slim.get_submodule("c1").in_channels == 3
    assert slim.get_submodule("n3").num_features == slim.get_submodule("short").in_channels == 2
    assert picks(slim) == {"n1_in": "gather", "n3_in": "slice"}


def test_what_leaves_the_shared_value_leaves_every_selection() -> None:
    slim = sg.compress(traced(), {"stem": mask_of(6, 0, 1, 2, 5), "n1[in]": mask_of(6, 1, 3, 5)})
    assert slim.get_submodule("n1").num_features == 2
    assert slim.get_submodule("n3").num_features == 4
    assert picks(slim) == {"n1_in": "gather"}, "what keeps all that is left is not needed"


def test_a_selection_cannot_be_emptied_from_either_side() -> None:
    with pytest.raises(EmptiedGroupError, match=r"`n1\[in\]`"):
        sg.compress(traced(), {"n1[in]": mask_of(6)})
    with pytest.raises(EmptiedGroupError, match=r"`n1\[in\]`"):
        sg.compress(traced(), {"stem": mask_of(6, 0), "n1[in]": mask_of(6, 1)})


class Watched(Net):
    """What the first norm reads is an output, too; so is what the second makes of it."""

    def parts(self) -> dict[str, nn.Module]:
        return {"stem": conv(3, 6), "a": nn.BatchNorm2d(6), "b": nn.BatchNorm2d(6), "c": conv(6, 2)}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        return self.c(self.a(x)), self.b(x)


def test_a_selection_that_cannot_shrink_keeps_its_source() -> None:
    model = sg.trace(Watched().double().eval(), IMAGE)
    assert names(sg.with_selections(model)) == ["a[in]"], "the output needs the channels"
    both = sg.with_selections(model, ["a", "b"])
    graph = sg.analyze(both)
    assert bool(graph.group_of("stem").frozen.all())
    assert "selected here" in str(graph.explain("stem"))
    mask = {"a[in]": mask_of(6, 0, 4)}
    slim = sg.compress(both, mask)
    assert slim.get_submodule("c").in_channels == 2
    assert_same_output(sg.masked(both, mask), slim, IMAGE)
    with pytest.raises(FrozenChannelError, match="selected here"):
        sg.compress(both, {"stem": mask_of(6, 0, 4)})


def test_a_plan_with_selections_fits_no_class() -> None:
    plan = sg.compress(traced(), {"n1[in]": mask_of(6, 0, 2)}).plan
    assert plan.selections == ("n1_in",)
    with pytest.raises(PlanError, match="it selects channels at `%n1_in`"):
        plan.apply(build(EXAMPLES["pre-activation"]))
    kept = sg.compress(traced(), {"stem": mask_of(6, 0, 2)}).plan
    kept.apply(build(EXAMPLES["pre-activation"]))


def test_selecting_again_does_not_pile_up() -> None:
    once = sg.compress(traced(), {"n1[in]": mask_of(6, 0, 2, 4, 5)})
    twice = sg.compress(sg.with_selections(once), {"n1[in]": mask_of(4, 0, 2)})
    direct = sg.compress(traced(), {"n1[in]": mask_of(6, 0, 4)})
    assert twice.plan.kept["n1.weight"][0].tolist() == [0, 4]
    assert_same_output(direct, twice, IMAGE)
    assert twice.code.count("index_select") == 1
    positions = [name for name, _ in twice.named_buffers() if name.endswith("_positions")]
    assert len(positions) == 1
    sliced = sg.compress(sg.with_selections(once), {"n1[in]": mask_of(4, 2, 3)})
    assert "index_select" not in sliced.code
    assert not any(name.endswith("_positions") for name, _ in sliced.named_buffers())


def test_network_slimming_scores_the_selection() -> None:
    model = build(EXAMPLES["pre-activation"])
    with torch.no_grad():
        model.get_submodule("n5").weight.copy_(torch.tensor([1, 0.1, 1, 1, 0.2, 1, 1, 1]))
    graph = sg.analyze(sg.with_selections(sg.trace(model, IMAGE)))
    scores = sg.score(graph, "bn_scale", normalize="none")
    found = scores[graph.group_of("n5[in]").components]
    assert torch.allclose(found, model.get_submodule("n5").weight.detach())
    assert bool(scores[graph.group_of("stem").components].isinf().all()), "the stream has no scale"
    keep = sg.select(graph, scores, sg.Budget("channels", 0.5), order="score")
    assert not bool(keep[graph.group_of("n5[in]").components[[1, 4]]].any())
    assert bool(keep[graph.group_of("stem").components].all())
    slim = sg.compress(graph, sg.Mask.of_channels(graph, keep))
    assert slim.get_submodule("short").out_channels == 8


@pytest.mark.parametrize("criterion", ["l1", "l2", "oicsr"])
def test_what_is_selected_is_scored_by_its_readers(criterion: str) -> None:
    graph = sg.analyze(traced())
    scores = sg.score(graph, criterion)
    assert bool(scores[graph.group_of("n1[in]").components].isfinite().all())


def with_dead_inputs() -> PreActivation:
    """Make a net whose last block uses half of the stream."""
    model = build(EXAMPLES["pre-activation"])
    with torch.no_grad():
        model.get_submodule("c5").weight[:, [0, 2, 5, 7]] = 0
    return model


def test_what_one_consumer_ignores_leaves_this_consumer_for_free() -> None:
    model = with_dead_inputs()
    plain = sg.slim(model, IMAGE)
    assert plain.model.get_submodule("c5").in_channels == 8, "the head reads all of it"
    found = sg.slim(model, IMAGE, selections=True)
    assert found.model.get_submodule("c5").in_channels == 4
    assert_same_output(model, found.model, IMAGE)


def with_private_inputs() -> PreActivation:
    """Make a net in which each block has little use for another part of the stream."""
    model = build(EXAMPLES["pre-activation"])
    ignored = {"n1": [0, 1, 2], "n3": [3, 4, 5], "n5": [0, 1, 2, 3]}
    readers = {"n1": ["c1"], "n3": ["c3", "short"], "n5": ["c5"]}
    with torch.no_grad():
        for norm, channels in ignored.items():
            model.get_submodule(norm).weight[channels] *= 1e-3
            model.get_submodule(norm).bias[channels] *= 1e-3
            for reader in readers[norm]:
                model.get_submodule(reader).weight[:, channels] *= 1e-3
    return model


@pytest.mark.parametrize(("budget", "unit"), [(0.8, "macs"), (0.75, "params")])
def test_a_budget_costs_less_where_blocks_can_select(budget: float, unit: str) -> None:
    model = with_private_inputs()
    plain, selecting = (
        sg.slim(model, IMAGE, **{unit: budget}, selections=each).model for each in (False, True)
    )
    with torch.no_grad():
        errors = [float((model(IMAGE) - each(IMAGE)).norm()) for each in (plain, selecting)]
    assert errors[1] < 0.01 * errors[0]


def test_a_budget_takes_less_of_the_stream_where_blocks_can_select() -> None:
    plain, selecting = (
        sg.slim(with_private_inputs(), IMAGE, macs=0.2, selections=each).model
        for each in (False, True)
    )
    assert plain.get_submodule("stem").out_channels == 3
    assert selecting.get_submodule("stem").out_channels == 4


def test_a_selection_that_saves_too_little_is_not_made() -> None:
    graph = sg.analyze(traced())
    keep = torch.ones(len(graph.frozen), dtype=torch.bool)
    assert idle_selections(graph, keep) == []
    keep[graph.group_of("n7[in]").components[[1, 4]]] = False  # a linear layer behind a mean
    assert idle_selections(graph, keep) == ["n7_in"]
    keep[graph.group_of("n7[in]").components[[1, 4]]] = True
    keep[graph.group_of("n5[in]").components[[1, 4]]] = False  # a 3 x 3 convolution
    assert idle_selections(graph, keep) == []


def test_a_smaller_model_with_selections_trains() -> None:
    slim = sg.compress(traced(), random_mask(sg.analyze(traced()), 3))
    slim.train()
    before = [p.detach().clone() for p in slim.parameters()]
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.1)
    slim(IMAGE).square().mean().backward()
    assert all(p.grad is not None for p in slim.parameters())
    optimizer.step()
    assert any(not torch.equal(p, old) for p, old in zip(slim.parameters(), before, strict=True))
    mask = random_mask(sg.analyze(slim.eval()), 5)
    assert_same_output(sg.masked(slim, mask), sg.compress(slim, mask), IMAGE)


@pytest.mark.parametrize("seed", range(12))
def test_reordering_keeps_outputs_and_saves_gathers(seed: int) -> None:
    found = traced()
    slim = sg.compress(found, random_mask(sg.analyze(found), seed, 0.4))
    result = ReorderChannels().rewrite(slim)
    before, after = (list(picks(each).values()) for each in (slim, result.graph_module))
    assert before.count("gather") - after.count("gather") == result.removed
    assert set(reasons(slim)) == {
        n for n, how in picks(result.graph_module).items() if how == "gather"
    }
    for inputs in (IMAGE, torch.randn(1, 3, 11, 11, dtype=torch.float64)):
        assert_same_output(slim, result.graph_module, inputs)
    mask = random_mask(sg.analyze(result.graph_module), seed)
    again = sg.compress(result.graph_module, mask)
    assert_same_output(sg.masked(result.graph_module, mask), again, IMAGE)
    assert SelectChannels().rewrite(found).modified is False


def test_scores_stay_when_selections_are_taken_out() -> None:
    """Network Slimming's rule: no norm scales the streams, so they stay, whoever reads them."""
    result = sg.slim(
        build(EXAMPLES["pre-activation"]), IMAGE, channels=0.75, selections=True,
        criterion="bn_scale", order="score", normalize="none",
    )  # fmt: skip
    assert {group.name for group in result.graph.groups} < set(sg.analyze(traced()).names())
    assert "n7[in]" not in result.graph.names(), "a linear layer behind a mean saves too little"
    for name in ("stem", "short"):
        assert (
            result.model.get_submodule(name).out_channels
            == build(EXAMPLES["pre-activation"]).get_submodule(name).out_channels
        )


def test_the_budget_comes_before_the_copies() -> None:
    options = {"criterion": "bn_scale", "order": "score"}
    result = sg.slim(
        build(EXAMPLES["pre-activation"]), IMAGE, channels=0.4, selections=True, **options
    )
    before = result.report["totals"]["before"]["channels"]
    assert result.report["totals"]["after"]["channels"] <= 0.4 * before


def test_constants_of_what_is_selected_are_kept() -> None:
    """As Network Slimming leaves a norm: scale zero, shift not."""
    found = traced()
    mask = {"n1[in]": mask_of(6, 0, 3, 5), "n3[in]": mask_of(6, 1, 2), "n7[in]": mask_of(8, 0, 6)}
    slim = sg.compress(found, mask, constants="keep")
    reference = build(EXAMPLES["pre-activation"])
    with torch.no_grad():
        for norm, kept in (("n1", [0, 3, 5]), ("n3", [1, 2]), ("n7", [0, 6])):
            weight = reference.get_submodule(norm).weight
            weight[[i for i in range(len(weight)) if i not in kept]] = 0
    ordered = ReorderChannels().rewrite(slim).graph_module
    for inputs in (IMAGE, torch.randn(1, 3, 11, 11, dtype=torch.float64)):
        assert_same_output(sg.masked(found, mask, constants="keep"), slim, inputs)
        assert_same_output(reference, slim, inputs)
        assert_same_output(slim, ordered, inputs)


def test_a_slimmed_norm_loses_channels_without_changing_an_output() -> None:
    model = build(EXAMPLES["pre-activation"])
    with torch.no_grad():
        model.get_submodule("n5").weight[[0, 2, 5]] = 0
    assert sg.slim(model, IMAGE).model.get_submodule("c5").in_channels == 8
    found = sg.slim(model, IMAGE, selections=True)
    assert found.model.get_submodule("c5").in_channels == 5
    assert_same_output(model, found.model, IMAGE)


def test_an_optimizer_follows_a_model_that_selects() -> None:
    model = build(EXAMPLES["pre-activation"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(IMAGE).sum().backward()
    optimizer.step()
    slim = sg.slim(model, IMAGE, macs=0.6, selections=True, optimizer=optimizer).model
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in slim.parameters()}
