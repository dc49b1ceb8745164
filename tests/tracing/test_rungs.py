"""The ladder: what cannot be traced stays opaque or stays Python; the rest is compressed."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import slimgraph as sg
from slimgraph.errors import TraceError
from slimgraph.parity import compare
from tests.assertions import TOLERANCE, assert_independent, difference, random_mask, run
from tests.nets.base import Net, block, conv, randomized

IMAGE = torch.randn(2, 3, 8, 8)


class Branching(Net):
    """Looks at the data to decide."""

    def parts(self) -> dict[str, Any]:
        return {"a": conv(6, 6), "b": conv(6, 6)}

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(x)


class Smallest(Net):
    """The part that resists lies deep; its shapes need data."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 8), "mid": nn.Sequential(block(8, 6), nn.Sequential(Branching())),
            "after": block(6, 4), "head": conv(4, 2),
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.mid(self.stem(x))))


class Chosen(nn.Module):
    """Returns as many rows as the data says."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))[x.mean((1, 2, 3)) > 0]


class Rows(Net):
    """What `Chosen` returns has no fixed size, so that its caller is opaque too."""

    def parts(self) -> dict[str, Any]:
        return {"conv": conv(4, 4), "chosen": Chosen()}

    def forward(self, x: Tensor) -> Tensor:
        rows = self.chosen(self.conv(x))
        return x.mean((2, 3)) + rows.sum(0, keepdim=True)


class Caller(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": block(3, 8), "mid": block(8, 4), "rows": Rows()}

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(self.mid(self.stem(x)))


class Detector(Net):
    """Its own forward loops over images and filters what comes out."""

    def parts(self) -> dict[str, Any]:
        return {"trunk": nn.Sequential(block(3, 8), block(8, 6)), "heads": nn.ModuleDict({
            "boxes": nn.Sequential(conv(6, 5), nn.ReLU(), conv(5, 4))})}  # fmt: skip

    def forward(self, images: list[Tensor], *, least: float = 0.0) -> list[dict[str, Tensor]]:
        sizes = {tuple(image.shape[-2:]) for image in images}
        side = max(max(size) for size in sizes)
        batch = torch.stack([F.interpolate(image[None], size=side)[0] for image in images])
        found = self.heads["boxes"](self.trunk(batch)).flatten(2).transpose(1, 2)
        if self.training:
            return [{"loss": found.square().mean()}]
        return [{"boxes": rows[rows[:, 0] > least]} for rows in found]


class Mapped(Net):
    """Hands tensors to C++ that takes no proxies, and has no part to fall back to."""

    def parts(self) -> dict[str, Any]:
        return {"a": nn.Linear(4, 8), "b": nn.Linear(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        y = torch.func.vmap(torch.sin)(self.a(x))
        return self.b(y * y.shape[0])


def test_what_is_left_goes_through_torch_export() -> None:
    model, x = randomized(Mapped()), torch.randn(3, 4).double()
    traced = sg.trace(model, x)
    assert traced.meta["rung"] == 3
    assert traced.state_dict().keys() == model.state_dict().keys()
    graph = sg.analyze(traced)
    assert [group.name for group in graph.groups if group.prunable] == ["a"]
    small, reference = (make(graph, {"a": [1, 0] * 4}) for make in (sg.compress, sg.masked))
    assert small.get_parameter("a.weight").shape == (4, 4)
    for given in (x, torch.randn(5, 4).double()):
        assert torch.equal(run(traced, given), run(model, given))
        assert max(p.max_rel for p in compare(run(reference, given), run(small, given))) < TOLERANCE
    with pytest.raises(TraceError, match="add_batch_dim"):
        sg.trace(model, x, fallback=False)


def test_nodes_of_an_exported_program_name_the_line_of_the_model() -> None:
    line = Mapped.forward.__code__.co_firstlineno
    traced = sg.trace(randomized(Mapped()), torch.randn(3, 4).double())
    sources = {node.name: node.meta.get("source") for node in traced.graph.nodes}
    assert sources["linear"].endswith(f"test_rungs.py:{line + 1}")
    assert sources["linear_1"].endswith(f"test_rungs.py:{line + 2}")


class Joined(Net):
    def parts(self) -> dict[str, Any]:
        return {
            "stem": block(3, 8), "mid": block(8, 8, groups=2), "head": nn.Linear(12, 2),
            "grow": nn.ConvTranspose2d(8, 12, 2, 2, groups=2),
        }  # fmt: skip

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        y = self.stem(x) * scale
        return {"out": self.head(self.grow(y + self.mid(y)).mean((2, 3)))}


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("decomposed", [False, True])
def test_an_exported_program_is_traced(as_module: bool, decomposed: bool) -> None:
    model, x = randomized(Joined()), IMAGE.double()
    inputs = (x, torch.tensor(2.0).double())
    dims = ({0: torch.export.Dim("batch")}, None)
    program = torch.export.export(model, inputs, dynamic_shapes=dims)
    if decomposed:
        program = program.run_decompositions()
    traced = sg.trace(program.module() if as_module else program, inputs)
    assert traced.meta["rung"] == 3
    assert traced.state_dict().keys() == model.state_dict().keys()
    graph = sg.analyze(traced)
    mask = random_mask(graph, 0)
    small, reference = sg.compress(graph, mask), sg.masked(graph, mask)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    for batch in (x, x[:1], torch.cat([x, x])):
        given = (batch, inputs[1])
        assert difference(run(model, given), run(traced, given)) < TOLERANCE
        assert difference(run(reference, given), run(small, given)) < TOLERANCE


def _traced(model: nn.Module, inputs: Any) -> Any:
    with pytest.warns(UserWarning, match="cannot be traced and stays opaque"):
        return sg.trace(model, inputs)


@pytest.mark.parametrize(
    ("make", "leaf", "says"),
    [(Smallest, "mid.1.0", "a branch needs the data"), (Caller, "rows", "depend")],
)
def test_the_smallest_part_that_resists_is_one_node(make: type[Net], leaf: str, says: str) -> None:
    model, x = randomized(make()), IMAGE.double()
    traced = _traced(model, x)
    assert traced.meta["rung"] == 2
    assert list(traced.meta["leaves"]) == [leaf]
    assert "test_rungs.py:" in traced.meta["leaves"][leaf] or says in traced.meta["leaves"][leaf]
    graph = sg.analyze(traced)
    assert graph.group_of("stem.0").prunable
    mask = random_mask(graph, 1)
    small, reference = sg.compress(graph, mask), sg.masked(graph, mask)
    for inputs in (x, -x, torch.cat([x, x + 1])):
        assert torch.equal(run(traced, inputs), run(model, inputs))
        worst = max(p.max_rel for p in compare(run(reference, inputs), run(small, inputs)))
        assert worst < TOLERANCE
    assert any("is an opaque leaf" in str(r) for g in graph.groups for r in g.reasons)


def test_without_the_fallback_it_is_an_error() -> None:
    with pytest.raises(TraceError, match="a branch needs the data"):
        sg.trace(Smallest(), IMAGE, fallback=False)


def test_a_model_that_fails_itself_is_no_case_for_the_ladder() -> None:
    with pytest.raises(TraceError):  # and no warning, which would be an error here
        sg.trace(Smallest(), IMAGE[:, :2])


def test_a_forward_that_resists_stays_as_it_is() -> None:
    model = randomized(Detector())
    images = [torch.randn(3, 8, 8).double(), torch.randn(3, 6, 7).double()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    traced = _traced(model, {"images": images, "least": 0.1})
    assert list(traced.meta["regions"]) == ["trunk", "heads.boxes"]
    assert traced.state_dict().keys() == model.state_dict().keys()
    graph = sg.analyze(traced)
    assert [g.name for g in graph.groups if g.prunable] == ["trunk.0.0", "heads.boxes.0"]
    mask = random_mask(graph, 0)
    small, reference = sg.compress(graph, mask), sg.masked(graph, mask)
    assert small.get_submodule("heads.boxes.0").out_channels < 5
    for given in (images, [*images, images[0] * 2], images[:1]):
        inputs = {"images": given, "least": 0.0}
        assert all(p.max_abs == 0 for p in compare(run(model, inputs), run(traced, inputs)))
        pairs = compare(run(reference, inputs), run(small, inputs))
        assert max(p.max_rel for p in pairs) < TOLERANCE
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    twin = deepcopy(traced)
    assert all(p.max_abs == 0 for p in compare(run(model, (images,)), run(twin, (images,))))
    assert_independent(twin, model)
    losses = [net.train()(images)[0]["loss"] for net in (model, traced)]
    assert torch.equal(*losses)


def test_detectors_of_torchvision_are_compressed_inside() -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0.0,
        box_detections_per_img=5, min_size=64, max_size=96,
    )  # fmt: skip
    model = model.eval().double()
    images = [torch.rand(3, 48, 64).double(), torch.rand(3, 40, 40).double()]
    traced = _traced(model, (images,))
    assert "backbone" in traced.meta["regions"]
    assert all(p.max_abs == 0 for p in compare(run(model, (images,)), run(traced, (images,))))
    graph = sg.analyze(traced)
    mask = random_mask(graph, 0)
    small, reference = sg.compress(graph, mask), sg.masked(graph, mask)
    found = run(small, (images,))
    assert len(found[0]["boxes"])
    assert max(p.max_rel for p in compare(run(reference, (images,)), found)) < 1e-6
