"""What holds for every net and every legal mask, checked on nets that nobody wrote."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.calls import calls_of
from slimgraph.cloning import fingerprint
from slimgraph.errors import PlanError, VaryingChannelError
from slimgraph.kept import KeptChannels
from slimgraph.mask import keep_channels
from slimgraph.passes import EliminateDeadNodes, EliminateIdentity, FoldBatchNorm, ReorderChannels
from slimgraph.slicing import slice_tensor
from tests.assertions import assert_independent, assert_same_output, random_mask
from tests.nets.recipes.grown import grown
from tests.nets.recipes.net import SIDE, Recipe, RecipeNet

PASSES = (EliminateIdentity(), FoldBatchNorm(), EliminateDeadNodes(), ReorderChannels())
SHARE = 0.4  # of the channels that a mask removes
FEW = 0.2


@dataclass(frozen=True)
class RandomCase:
    """A net of a recipe, and what is computed of it once.

    Attributes:
        recipe: What it is made of.
        seed: Of weights, inputs and masks.
    """

    recipe: Recipe
    seed: int

    @cached_property
    def model(self) -> RecipeNet:
        """The net itself."""
        return grown(self.recipe, self.seed)

    @cached_property
    def traced(self) -> fx.GraphModule:
        """The net, traced at batch 2."""
        return sg.trace(self.model, self.inputs(2, SIDE))

    @cached_property
    def graph(self) -> sg.DependencyGraph:
        """Its groups."""
        return sg.analyze(self.traced)

    @cached_property
    def mask(self) -> sg.Mask:
        """A legal mask."""
        return random_mask(self.graph, self.seed, SHARE)

    @cached_property
    def slim(self) -> fx.GraphModule:
        """What the mask leaves."""
        return sg.compress(self.graph, self.mask)

    def inputs(self, batch: int, side: int) -> Tensor:
        """Make a batch of images."""
        generator = torch.Generator().manual_seed(self.seed + 31 * side + batch)
        return torch.randn(batch, 3, side, side, generator=generator, dtype=torch.double)

    def all_inputs(self) -> list[Tensor]:
        """Make batches of other sizes than the traced one, and images of one if the net can."""
        side = SIDE if self.model.fixed else SIDE + 4
        return [self.inputs(1, SIDE), self.inputs(3, side)]

    def assert_same(self, one: nn.Module, other: nn.Module) -> None:
        """Compare two models on all inputs."""
        for inputs in self.all_inputs():
            assert_same_output(one, other, inputs)


def compress_equals_masked(case: RandomCase) -> None:
    case.assert_same(case.model, case.traced)
    case.assert_same(sg.masked(case.graph, case.mask), case.slim)
    assert_independent(case.slim, case.model)


def constants_are_kept(case: RandomCase) -> None:
    mask = random_mask(case.graph, case.seed + 1, FEW)
    masked = sg.masked(case.graph, mask, constants="keep")
    try:
        slim = sg.compress(case.graph, mask, constants="keep")
    except VaryingChannelError:
        return
    case.assert_same(masked, slim)


def plans_compose(case: RandomCase) -> None:
    once = sg.analyze(case.slim)
    mask = random_mask(once, case.seed + 2, SHARE)
    twice = sg.compress(once, mask)
    case.assert_same(sg.masked(once, mask), twice)
    both = _both(case, once, mask)
    direct = sg.compress(case.graph, both)
    case.assert_same(direct, twice)
    before = case.traced.state_dict()
    for key, tensor in twice.state_dict().items():
        assert torch.equal(slice_tensor(before[key], twice.plan.kept.get(key, ())), tensor), key
        assert torch.equal(direct.state_dict()[key], tensor), key
    try:
        applied = twice.plan.apply(grown(case.recipe, case.seed))
    except PlanError:
        return
    case.assert_same(twice, applied)


def _both(case: RandomCase, once: sg.DependencyGraph, mask: sg.Mask) -> sg.Mask:
    """Make one mask of two: that of the net, and one of what it leaves."""
    first = KeptChannels(case.graph, keep_channels(case.graph, case.mask))
    second = KeptChannels(once, keep_channels(once, mask))
    later = {axis[:2]: second.alive(axis.labels).flatten() for axis in once.ledger.opened}
    keep = first.channels.clone()
    for axis in case.graph.ledger.opened:
        labels = axis.labels.flatten()
        left = labels[first.alive(labels)]
        alive = later.get(axis[:2], torch.ones(len(left), dtype=torch.bool))
        assert len(alive) == len(left), f"{axis[:2]} keeps {len(left)} but has {len(alive)}"
        keep[case.graph.component[left[~alive]]] = False
    return sg.Mask.of_channels(case.graph, keep)


def saving_is_identity(case: RandomCase) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.slim"
        sg.save(case.slim, path)
        loaded = sg.load(path)
        assert calls_of(loaded) == calls_of(case.slim)
        for inputs in case.all_inputs():
            assert torch.equal(loaded(inputs), case.slim(inputs))
        case.slim.plan.save(path)
        again = sg.Plan.load(path)
    assert again.to_payload()[0] == case.slim.plan.to_payload()[0]


def passes_keep_outputs_and_are_idempotent(case: RandomCase) -> None:
    for model in (case.traced, case.slim):
        for step in PASSES:
            recorded = fingerprint(model)
            result = step.rewrite(model)
            assert fingerprint(model) == recorded, f"{step.name} changed its input"
            case.assert_same(model, result.graph_module)
            again = step.rewrite(result.graph_module)
            assert not again.modified, f"{step.name} finds more the second time"


def selections_are_exact(case: RandomCase) -> None:
    selecting = sg.with_selections(case.traced)
    if selecting is case.traced:
        return
    graph = sg.analyze(selecting)
    mask = random_mask(graph, case.seed + 3, SHARE)
    slim = sg.compress(graph, mask)
    case.assert_same(sg.masked(graph, mask), slim)
    ordered = ReorderChannels().rewrite(slim).graph_module
    case.assert_same(slim, ordered)
    again = random_mask(sg.analyze(ordered), case.seed + 4, SHARE)
    case.assert_same(sg.masked(ordered, again), sg.compress(ordered, again))


def spelling_does_not_matter(case: RandomCase) -> None:
    """Compare with the same net under other names, and with functions instead of modules."""
    for options in ({"renamed": True}, {"functional": True}):
        other = grown(case.recipe, case.seed, **options)
        assert isinstance(other, RecipeNet)
        names = {f"{other.handles[i]}": name for i, name in enumerate(case.model.handles)}
        graph = sg.analyze(sg.trace(other, case.inputs(2, SIDE)))
        assert _groups(graph, names) == _groups(case.graph, {})
        entries = zip(case.graph.groups, graph.groups, strict=True)
        mask = sg.Mask({
            new.name: case.mask[old.name] for old, new in entries if old.name in case.mask
        })  # fmt: skip
        case.assert_same(case.slim, sg.compress(graph, mask))


def _groups(graph: sg.DependencyGraph, names: dict[str, str]) -> list[object]:
    def renamed(parameter: str) -> str:
        path = parameter.removeprefix("deep.").split(".")
        return ".".join([names.get(path[0], path[0]), *path[1:]])

    return [
        (
            group.size,
            group.frozen.tolist(),
            sorted((renamed(member.parameter), member.dim) for member in group.members),
        )
        for group in graph.groups
    ]


PROPERTIES = {
    "compress equals masked": compress_equals_masked,
    "constants are kept": constants_are_kept,
    "plans compose": plans_compose,
    "saving is identity": saving_is_identity,
    "passes keep outputs": passes_keep_outputs_and_are_idempotent,
    "selections are exact": selections_are_exact,
    "spelling does not matter": spelling_does_not_matter,
}


def check(case: RandomCase) -> None:
    """Check every property, and that nothing of it changes the net."""
    state = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    recorded = fingerprint(case.traced)
    for holds in PROPERTIES.values():
        holds(case)
    assert fingerprint(case.traced) == recorded, "the traced graph changed"
    now = case.model.state_dict()
    assert state.keys() == now.keys(), "the net changed"
    assert all(torch.equal(now[name], tensor) for name, tensor in state.items())
