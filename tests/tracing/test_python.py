"""Python that a forward may use: each net runs ordinary code that looks at values, not at data."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

import slimgraph as sg
from slimgraph.parity import compare
from slimgraph.structures import map_tensors
from tests.assertions import TOLERANCE, random_mask, run
from tests.nets.base import Net, conv, randomized

IMAGE = torch.randn(2, 3, 6, 6)


class Plain(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(8, 8), "head": conv(8, 2)}

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.mid(F.relu(self.stem(x))))


class Sizes(Plain):
    """Branches on sizes, computes with them, loops over them."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        assert isinstance(h, int)
        assert 3 in x.shape
        x = F.interpolate(x, size=(int(h * 1.5), round(w * 1.5)))
        y = self.body(x) / math.sqrt(x.size(1))
        if len(x) != x.shape[0] or math.ceil(h / 4) != -(-h // 4):
            raise ValueError(f"{h:d} of {w}")
        y = y + sum(y[:, i : i + 1] for i in range(y.size(1)))
        y = y * math.floor(h / 4) + divmod(h, 4)[1] + max(h, w)
        return self.head(y.view(len(x), -1, *y.shape[2:]))


class Asks(Plain):
    """Asks a value for what code asks values for."""

    def forward(self, x: Any) -> Tensor:
        assert isinstance(x, Tensor)
        assert torch.is_tensor(x)
        assert not isinstance(x, list | tuple | dict)
        assert not hasattr(x, "tensors")
        if x.is_nested or x.is_cuda or x.is_quantized or x.is_sparse or x.is_meta:
            raise TypeError(x.layout)
        if torch.jit.is_tracing() or torch.jit.is_scripting() or torch.compiler.is_compiling():
            return x
        if x.device.type not in ("cpu", "cuda") or not x.is_cpu or x.layout != torch.strided:
            raise ValueError(x.device)
        if x.dtype == torch.float16 or not x.is_floating_point() or x.ndim != 4:
            raise ValueError(x.dtype)
        y = self.body(x)
        y = y.clamp(min=torch.finfo(y.dtype).min) + y.new_zeros(y.shape[0], 8, 1, 1)
        if torch.is_grad_enabled():
            y = y * 1
        return self.head(y)


class Factories(Plain):
    """Makes tensors from sizes alone."""

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        y = self.body(x)
        grid = torch.arange(w, dtype=x.dtype, device=x.device) + torch.linspace(0, 1, w)
        y = y + torch.zeros(b, 8, h, w, dtype=x.dtype) + torch.ones((1, 1, h, w)) + grid
        y = y + torch.full((b, 1, 1, 1), 2.0) + torch.eye(h, w, dtype=x.dtype)
        return self.head(y + torch.tensor([h, w], dtype=x.dtype).sum())


class Variadic(Plain):
    def forward(self, *args: Tensor) -> Tensor:
        return self.head(self.body(args[0] + args[1]) * len(args))


class Keywords(Plain):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        return self.head(self.body(x + more["other"]) * len(more))


class Result(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Record:
    image: Tensor
    more: Any
    scale: float = 2.0


class Structures(Plain):
    """Takes and returns nested containers."""

    def forward(self, data: Any, pair: Any) -> Any:
        assert isinstance(data, dict)
        assert list(data) == ["x", "n"]
        x = data["x"][0] + pair.first * data["n"]
        for extra in data["x"][1:]:
            x = x + extra
        y = self.body(x + pair[1])
        return OrderedDict(out=self.head(y), more=(y.mean(), [x.shape[0], None]))


class Records(Plain):
    def forward(self, record: Record) -> Any:
        y = self.head(self.body(record.image + record.more["other"])) * record.scale
        return Record(y, {"mean": y.mean()}, 3.0)


def _double(x: Tensor) -> Tensor:
    return x * 2


@fx.wrap
def _wrapped(x: Tensor) -> tuple[Tensor, int]:
    return x + 1, x.shape[0]


def _by_size(x: Tensor, size: int) -> Tensor:
    return x * size if x.size(1) > 2 else x


with pytest.warns(FutureWarning, match="is deprecated"):
    _scripted = torch.jit.script(_by_size)


class Functions(Plain):
    """Checkpoints, scripted functions, functions marked for torch.fx."""

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.stem, x, use_reentrant=False)
        x, count = _wrapped(_scripted(checkpoint(_double, x, use_reentrant=False), x.shape[2]))
        return self.head(self.mid(x) * count)


class Writes(Plain):
    """Writes into values, views of values, and tensors made on the way."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        same = y
        y += 1.0
        y[:, :2] = y[:, 2:4]
        y[..., 0] = 0
        mask = torch.zeros(1, 8, 1, 1)
        mask[:, 3:] += 1
        mask[:, :1] = x.mean()
        window = x.new_zeros((x.shape[2], x.shape[3]))
        window[: x.shape[2] // 2, slice(0, -2)] = 1
        y.mul_(2).sub_(mask)
        return self.head(F.relu(self.mid(same), inplace=True) * window)


class Hooks(Plain):
    """Hooks before and after modules of torch.nn, and on the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
        self.mid.register_forward_hook(lambda _, args, result: result + args[0])
        self.head.register_forward_hook(
            lambda _, args, kwargs, result: result.flip(1), with_kwargs=True
        )
        self.register_forward_hook(lambda _, args, result: result * 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)) + self.head(self.mid(self.stem(x)))


class Parametrized(Plain):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.stem)
        parametrizations.spectral_norm(self.head)
        with pytest.warns(FutureWarning, match="weight_norm"):
            weight_norm(self.mid)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class OldSpectralNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        spectral_norm(self.mid)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Remembers(Plain):
    """Stores what it computes in itself and in its parts, as caches do."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.body(x)
        self.stem.size = x.shape[2]
        return self.head(self.last) * self.stem.size


class Words(nn.Module):
    """torch's transformer layers are no single node."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(x, self.encoder(x, mask=mask))


def _records() -> Record:
    return Record(IMAGE, {"other": torch.randn(2, 3, 6, 6)})


CASES: dict[str, tuple[Any, Any]] = {
    "sizes": (Sizes, IMAGE),
    "facts": (Asks, IMAGE),
    "factories": (Factories, IMAGE),
    "variadic": (Variadic, (IMAGE, IMAGE)),
    "keywords": (Keywords, {"x": IMAGE, "other": IMAGE}),
    "structures": (
        Structures,
        ({"x": [IMAGE, IMAGE + 1], "n": 3}, Result(IMAGE * 2, torch.ones(2, 1, 1, 1))),
    ),
    "records": (Records, (_records(),)),
    "functions": (Functions, IMAGE),
    "writes": (Writes, IMAGE),
    "hooks": (Hooks, IMAGE),
    "parametrized": (Parametrized, IMAGE),
    "old spectral norm": (OldSpectralNorm, IMAGE),
    "remembers": (Remembers, IMAGE),
    "transformer": (Words, (torch.randn(2, 5, 8), torch.triu(torch.full((5, 5), -1e9), 1))),
}


def _case(name: str) -> tuple[nn.Module, Any]:
    make, inputs = CASES[name]
    return randomized(make()), map_tensors(Tensor.double, inputs)


@pytest.mark.parametrize("name", CASES)
def test_the_traced_model_computes_the_same(name: str) -> None:
    model, inputs = _case(name)
    expected = run(model, inputs)
    traced = sg.trace(model, inputs)
    assert traced.meta["rung"] == 1
    for _ in range(2):  # what it writes into is its own
        found = run(traced, inputs)
        assert type(found) is type(expected)
        limit = 1e-12 if name == "transformer" else 0  # torch itself runs a fused kernel
        assert all(parity.max_abs <= limit for parity in compare(expected, found))


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {k: dict(v) if isinstance(v, dict) else v for k, v in vars(module).items()}


@pytest.mark.parametrize("name", CASES)
def test_the_model_stays_as_it_was(name: str) -> None:
    model, inputs = _case(name)
    model.train()
    modules = list(model.modules())
    attributes = [
        {k: dict(v) if isinstance(v, dict) else v for k, v in vars(m).items()} for m in modules
    ]
    sg.trace(model, inputs)
    after = [
        {k: dict(v) if isinstance(v, dict) else v for k, v in vars(m).items()} for m in modules
    ]
    assert [m.training for m in model.modules()] == [True] * len(modules)
    for one, other in zip(attributes, after, strict=True):
        assert list(one) == list(other)
        assert all(one[k] is other[k] or one[k] == other[k] for k in one)


@pytest.mark.parametrize("name", CASES)
def test_compress_equals_masked(name: str) -> None:
    model, inputs = _case(name)
    graph = sg.analyze(sg.trace(model, inputs))
    mask = random_mask(graph, 0)
    small, reference = sg.compress(graph, mask), sg.masked(graph, mask)
    assert len(mask) or not any(group.prunable for group in graph.groups)
    pairs = compare(run(reference, inputs), run(small, inputs))
    assert max(parity.max_rel for parity in pairs) < TOLERANCE


# A hook that computes a weight is nothing that rules can follow.
pytestmark = pytest.mark.filterwarnings("ignore::slimgraph.UnknownOpWarning")
SAVED = [name for name in CASES if name not in ("records", "parametrized", "old spectral norm")]


@pytest.mark.parametrize("name", SAVED)
def test_it_can_be_saved(name: str, tmp_path: Path) -> None:
    model, inputs = _case(name)
    traced = sg.trace(model, inputs)
    sg.save(traced, tmp_path / "model.slim")
    loaded = sg.load(tmp_path / "model.slim")
    assert all(p.max_abs < 1e-12 for p in compare(run(traced, inputs), run(loaded, inputs)))


EXPORTED = ["facts", "variadic", "keywords", "structures", "records", "functions", "hooks",
            "parametrized", "old spectral norm"]  # fmt: skip


@pytest.mark.parametrize("name", EXPORTED)
def test_it_is_exported_compressed(name: str, tmp_path: Path) -> None:
    model, inputs = _case(name)
    model, inputs = model.float(), map_tensors(Tensor.float, inputs)
    graph = sg.analyze(sg.trace(model, inputs))
    slim = sg.compress(graph, random_mask(graph, 0))
    report = sg.export_onnx(slim, tmp_path / "model.onnx")
    assert report.dynamic_batch
    assert report.nodes > 3
    assert all(parity.ok for parity in report.parity)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["sizes", "facts", "factories", "functions", "writes", "hooks"])
def test_the_batch_stays_free(name: str, batch: int) -> None:
    model, inputs = _case(name)
    traced = sg.trace(model, inputs)
    other = torch.randn(batch, *inputs.shape[1:], dtype=torch.double)
    assert torch.equal(run(traced, other), run(model, other))
