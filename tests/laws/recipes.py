"""What holds for every net and every legal mask, checked on nets that nobody wrote."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.calls import calls_of
from slimgraph.cloning import fingerprint
from slimgraph.errors import PlanError, UnknownGroupError, VaryingChannelError
from slimgraph.kept import KeptChannels
from slimgraph.mask import keep_channels
from slimgraph.passes import EliminateDeadNodes, EliminateIdentity, FoldBatchNorm, ReorderChannels
from slimgraph.slicing import slice_tensor
from tests.assertions import (
    assert_independent,
    assert_same_output,
    difference,
    random_mask,
    run,
)
from tests.nets.recipes.grown import grown
from tests.nets.recipes.net import SIDE, Recipe, RecipeNet

PASSES = (EliminateIdentity(), FoldBatchNorm(), EliminateDeadNodes(), ReorderChannels())
SHARE = 0.4  # of the channels that a mask removes
FEW = 0.08


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

    @property
    def plan(self) -> sg.Plan:
        """What it kept."""
        return plan_of(self.slim)

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


def plan_of(model: fx.GraphModule) -> sg.Plan:
    """Return the plan that a compressed model carries."""
    found = vars(model)["plan"]
    assert isinstance(found, sg.Plan)
    return found


def silenced(model: nn.Module, seed: int, share: float = 0.35) -> nn.Module:
    """Set scales to zero, in place, as sparse training leaves them; shifts stay."""
    generator = torch.Generator().manual_seed(seed)
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear)
    with torch.no_grad():
        for module in model.modules():
            weight = module._parameters.get("weight") if isinstance(module, kinds) else None
            if weight is not None:
                weight[torch.rand(len(weight), generator=generator) < share] = 0
    return model


def compress_equals_masked(case: RandomCase) -> str | None:
    case.assert_same(case.model, case.traced)
    case.assert_same(sg.masked(case.graph, case.mask), case.slim)
    assert_independent(case.slim, case.model)
    return None if case.plan.kept else "nothing shrinks"


def constants_are_kept(case: RandomCase) -> str | None:
    mask = random_mask(case.graph, case.seed + 1, FEW)
    masked = sg.masked(case.graph, mask, constants="keep")
    try:
        slim = sg.compress(case.graph, mask, constants="keep")
    except VaryingChannelError:
        return "constants vary"
    case.assert_same(masked, slim)
    return None


def plans_compose(case: RandomCase) -> str | None:
    once = sg.analyze(case.slim)
    mask = random_mask(once, case.seed + 2, SHARE)
    twice = sg.compress(once, mask)
    case.assert_same(sg.masked(once, mask), twice)
    before = case.traced.state_dict()
    for key, tensor in twice.state_dict().items():
        assert torch.equal(slice_tensor(before[key], plan_of(twice).kept.get(key, ())), tensor), key
    both = _both(case, once, mask)
    if both is not None:
        direct = sg.compress(case.graph, both)
        case.assert_same(direct, twice)
        found = direct.state_dict()
        assert all(torch.equal(found[key], x) for key, x in twice.state_dict().items())
    try:
        applied = plan_of(twice).apply(grown(case.recipe, case.seed))
    except PlanError:
        return "plan does not apply"
    case.assert_same(twice, applied)
    return None if both is not None else "no single mask"


def _both(case: RandomCase, once: sg.DependencyGraph, mask: sg.Mask) -> sg.Mask | None:
    """Make one mask of two: that of the net, and one of what it leaves.

    Returns:
        `None` if none says it: what is left may fall apart in more pieces than the whole, such as
        a dim of which one position is left.
    """
    first = KeptChannels(case.graph, keep_channels(case.graph, case.mask))
    second = KeptChannels(once, keep_channels(once, mask))
    later = {axis[:2]: second.alive(axis.labels).flatten() for axis in once.ledger.axes.values()}
    new = later.keys() - case.graph.ledger.axes.keys()
    if not all(bool(later[key].all()) for key in new):
        return None
    component = case.graph.component
    lost, kept = (torch.zeros(len(first.channels), dtype=torch.bool) for _ in range(2))
    for axis in case.graph.ledger.opened:
        labels = axis.labels.flatten()
        left = labels[first.alive(labels)]
        alive = later.get(axis[:2], torch.ones(len(left), dtype=torch.bool))
        assert len(alive) == len(left), f"{axis[:2]} keeps {len(left)} but has {len(alive)}"
        lost[component[left[~alive]]] = True
        if axis.role != "created":  # others follow
            kept[component[left[alive]]] = True
    if bool((lost & kept).any()):
        return None
    return sg.Mask.of_channels(case.graph, case.graph.settled(first.channels & ~lost))


def saving_is_identity(case: RandomCase) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.slim"
        sg.save(case.slim, path)
        loaded = sg.load(path)
        after = loaded.state_dict()
        assert after.keys() == case.slim.state_dict().keys()
        assert all(torch.equal(after[name], x) for name, x in case.slim.state_dict().items())
        assert calls_of(loaded) == calls_of(case.slim)
        for inputs in case.all_inputs():  # where tensors lie in memory decides about the last bit
            assert difference(run(case.slim, inputs), run(loaded, inputs)) < 1e-14
        case.plan.save(path)
        again = sg.Plan.load(path)
    assert again.to_payload()[0] == case.plan.to_payload()[0]


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
    selecting = _selecting(case.traced, case.seed % 3)
    graph = sg.analyze(selecting)
    mask = random_mask(graph, case.seed + 3, SHARE)
    slim = sg.compress(graph, mask)
    case.assert_same(sg.masked(graph, mask), slim)
    ordered = ReorderChannels().rewrite(slim).graph_module
    case.assert_same(slim, ordered)
    again = random_mask(sg.analyze(ordered), case.seed + 4, SHARE)
    case.assert_same(sg.masked(ordered, again), sg.compress(ordered, again))


def _selecting(traced: fx.GraphModule, first: int) -> fx.GraphModule:
    """Put a selection in front of every third module, if it can have one."""
    called = dict.fromkeys(n.target for n in traced.graph.nodes if n.op == "call_module")
    for name in list(called)[first::3]:
        with suppress(UnknownGroupError):
            traced = sg.with_selections(traced, [str(name)])
    return traced


def dead_channels_leave_without_a_trace(case: RandomCase) -> None:
    model = silenced(grown(case.recipe, case.seed), case.seed)
    found = sg.slim(model, case.inputs(2, SIDE), constants="keep" if case.seed % 4 else "zero")
    case.assert_same(model, found.model)


def spelling_does_not_matter(case: RandomCase) -> None:
    """Compare with the same net under other names, by functions instead of modules."""
    other = grown(case.recipe, case.seed, renamed=True, functional=True)
    names = dict(zip(other.handles, case.model.handles, strict=True))
    graph = sg.analyze(sg.trace(other, case.inputs(2, SIDE)))
    assert _groups(graph, names) == _groups(case.graph, {})
    entries = zip(case.graph.groups, graph.groups, strict=True)
    mask = {new.name: case.mask[old.name] for old, new in entries if old.name in case.mask}
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


PROPERTIES: dict[str, Callable[[RandomCase], str | None]] = {
    "compress equals masked": compress_equals_masked,
    "constants are kept": constants_are_kept,
    "plans compose": plans_compose,
    "saving is identity": saving_is_identity,
    "passes keep outputs": passes_keep_outputs_and_are_idempotent,
    "selections are exact": selections_are_exact,
    "dead channels leave": dead_channels_leave_without_a_trace,
    "spelling does not matter": spelling_does_not_matter,
}


def check(case: RandomCase) -> list[str]:
    """Check every property, and that nothing of it changes the net.

    Returns:
        What was refused, as it may be.
    """
    state = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    recorded = fingerprint(case.traced)
    notes = [holds(case) for holds in PROPERTIES.values()]
    assert fingerprint(case.traced) == recorded, "the traced graph changed"
    now = case.model.state_dict()
    assert state.keys() == now.keys(), "the net changed"
    assert all(torch.equal(now[name], tensor) for name, tensor in state.items())
    return [note for note in notes if note is not None]
