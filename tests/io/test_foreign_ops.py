"""Models that call ops and modules of other libraries: what a file may name, and on whose word."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.errors import FileError, SlimgraphError
from slimgraph.serialize import foreign
from tests.assertions import run
from tests.io.forge import assert_same, forged
from tests.nets.base import Net, conv, randomized

X = torch.randn(2, 3, 8, 8, dtype=torch.double)


@torch.library.custom_op("slimgraph_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """Stand for a kernel of the user's own."""
    return x / 2


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Halving(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 4), "head": conv(4, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(halve(torch.ops.slimgraph_tests.halve(self.stem(x))))


class Regions(Net):
    """Deformable convolution and region pooling of torchvision."""

    def parts(self) -> dict[str, Any]:
        ops = pytest.importorskip("torchvision.ops")
        return {
            "offsets": conv(3, 18), "bend": ops.DeformConv2d(3, 4, 3, padding=1),
            "boxes": torch.tensor([[0.0, 1, 1, 6, 6], [1, 0, 2, 5, 7]]),
        }  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        ops = pytest.importorskip("torchvision.ops")
        y = self.bend(x, self.offsets(x))
        sizes: tuple[Any, ...] = (self.boxes, (2, 2))
        pooled = [getattr(ops, name)(y, *sizes) for name in ("roi_align", "roi_pool")]
        return *pooled, *(
            getattr(ops, f"ps_{name}")(y, *sizes) for name in ("roi_align", "roi_pool")
        )


def test_ops_of_torchvision_are_saved_by_name(tmp_path: Path) -> None:
    model = randomized(Regions())
    model.boxes.copy_(Regions().boxes)
    traced = sg.trace(model, X)
    sg.save(traced, tmp_path / "model.slim")
    assert_same(traced, sg.load(tmp_path / "model.slim"), X)


@pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")
def test_ops_of_the_users_own_are_called_if_the_caller_of_load_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.slim"
    traced = sg.trace(randomized(Halving()), X)
    sg.save(traced, path)
    with pytest.raises(FileError, match=r"`slimgraph_tests::halve`.*not part of torch") as caught:
        sg.load(path)
    assert 'ops=["slimgraph_tests::halve"]' in str(caught.value)
    loaded = sg.load(path, ops=["slimgraph_tests::halve"])
    assert torch.equal(run(loaded, X), run(traced, X))
    with pytest.raises(FileError):  # what is allowed once is not allowed for good
        sg.load(path)


def _calling(name: str) -> Any:
    def edit(payload: dict[str, Any], _: dict[str, Tensor]) -> None:
        node = next(n for n in payload["nodes"] if n["op"] == "call_function")
        node["target"] = name

    return edit


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


@pytest.mark.parametrize(
    "name",
    [
        "torch.ops.slimgraph_tests.halve", "torch.ops.aten.set_", "torch.ops.quantized.linear",
        "torch.ops.torchvision.nms", "torch.ops.load_library", "torch.ops.profiler._call_end",
        "torch.ops.prim.Print", "torchvision.ops.nms", "torch.ops.torchvision.roi_align.nothing",
    ],
)  # fmt: skip
def test_a_file_may_name_no_other_op(tmp_path: Path, name: str) -> None:
    path = forged(tmp_path, _calling(name), sg.trace(Relu(), X))
    with pytest.raises(FileError, match=r"may not be called|not part of torch|nothing registers"):
        sg.load(path)


def test_an_op_that_nobody_registers_is_named(tmp_path: Path) -> None:
    path = forged(tmp_path, _calling("torch.ops.nobody.op"), sg.trace(Relu(), X))
    with pytest.raises(FileError, match="nothing registers the op `nobody::op`"):
        sg.load(path, ops=["nobody::op"])


@pytest.mark.parametrize(
    ("needs", "says"),
    [(["os"], "which no saved model may"), ("timm", "may"), (["timm"], "pip install timm")],
)
def test_libraries_are_imported_from_a_list_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: Any, says: str
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    path = forged(tmp_path, lambda payload, _: payload.update(needs=needs), sg.trace(Relu(), X))
    monkeypatch.setattr(foreign.importlib, "import_module", absent)
    with pytest.raises(FileError, match=says):
        sg.load(path)


class Looping(Net):
    """Its forward looks at data."""

    def parts(self) -> dict[str, Any]:
        return {"trunk": nn.Sequential(conv(3, 4), nn.ReLU()), "head": nn.Sequential(conv(4, 2))}

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.trunk(x))
        return y if y.sum() > 0 else -y


@pytest.mark.filterwarnings("ignore:.*cannot be traced and stays opaque")
def test_a_model_that_keeps_its_own_forward_is_not_saved(tmp_path: Path) -> None:
    traced = sg.trace(randomized(Looping()), X)
    with pytest.raises(SlimgraphError, match="the forward of `Looping` is code") as caught:
        sg.save(traced, tmp_path / "model.slim")
    assert "plan.save" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())
