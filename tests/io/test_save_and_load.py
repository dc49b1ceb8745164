"""A traced model comes back from its file as it was."""

import copy
import json
import math
import operator
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, fx, nn
from torch.nn import functional as F

from slimgraph.serialize import load, save
from slimgraph.shapes import propagate
from slimgraph.tracing import trace
from tests.io.forge import assert_same, round_trip, traced_net


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = traced_net()
    back = round_trip(model, tmp_path)
    assert_same(model, back, torch.randn(5, 3, 8, 8))
    assert dict(back.named_buffers()).keys() == dict(model.named_buffers()).keys()
    assert "offset" not in back.state_dict()


def test_the_weights_lie_under_their_state_dict_names(tmp_path: Path) -> None:
    model = traced_net()
    save(model, tmp_path / "model.slim")
    with safe_open(tmp_path / "model.slim", framework="pt") as file:
        assert set(model.state_dict()) <= set(file.keys())


def test_modes_and_gradients_come_back(tmp_path: Path) -> None:
    model = traced_net()
    model.train()
    model.norm.eval()
    model.head.weight.requires_grad_(False)
    back = round_trip(model, tmp_path)
    assert (back.training, back.conv1.training, back.norm.training) == (True, True, False)
    assert not back.head.weight.requires_grad
    back(torch.randn(2, 3, 8, 8)).sum().backward()
    assert back.conv1.weight.grad is not None


def test_a_loaded_model_is_saved_again_and_over_its_own_file(tmp_path: Path) -> None:
    model = traced_net()
    back = round_trip(model, tmp_path)
    assert_same(model, round_trip(back, tmp_path), torch.randn(2, 3, 8, 8))
    assert torch.equal(back.head.weight, model.head.weight)


def test_a_loaded_model_is_traced_and_copied(tmp_path: Path) -> None:
    back = round_trip(traced_net(), tmp_path)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(trace(back, x)(x), back(x))
    assert torch.equal(copy.deepcopy(back)(x), back(x))


def test_the_plan_comes_back(tmp_path: Path) -> None:
    import slimgraph as sg

    traced = traced_net()
    slim = sg.compress(traced, {"conv1": torch.tensor([True, False] * 4)})
    back = round_trip(slim, tmp_path)
    assert_same(slim, back, torch.randn(2, 3, 8, 8))
    assert back.plan.sizes == slim.plan.sizes
    for name, entries in slim.plan.kept.items():
        for before, after in zip(entries, back.plan.kept[name], strict=True):
            assert (before is None) == (after is None)
            assert before is None or torch.equal(before, after)


class Tied(nn.Module):
    """One parameter under two names, one module under two names, one memory for two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.c = nn.Linear(4, 4)
        self.d = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.c.weight.data = self.a.weight.data
        self.d.weight = nn.Parameter(self.a.weight.detach().t())
        self.again = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.d(self.c(self.b(self.a(x)))))


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    root = Tied()
    graph = fx.Tracer().trace(root)
    next(node for node in graph.nodes if node.name == "a_1").target = "again"
    model = fx.GraphModule(root, graph)
    x = torch.randn(2, 4)
    propagate(model, x)
    back = round_trip(model, tmp_path)
    assert back.b.weight is back.a.weight
    assert back.again is back.a
    expected = model(x)
    assert torch.equal(back(x), expected)
    with torch.no_grad():
        back.a.weight.mul_(2)
        model.a.weight.mul_(2)
    assert torch.equal(back.c.weight, back.a.weight)
    assert torch.equal(back.d.weight, back.a.weight.t())
    assert torch.equal(back(x), model(x))
    assert (tmp_path / "model.slim").stat().st_size < 20_000


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    big = nn.Linear(500, 500, bias=False)
    other = nn.Linear(500, 500, bias=False)
    other.weight = big.weight
    model = trace(nn.Sequential(big, other).eval(), torch.randn(1, 500))
    save(model, tmp_path / "model.slim")
    assert (tmp_path / "model.slim").stat().st_size < 1.1 * 500 * 500 * 4


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64],
    ids=str,
)
def test_parameters_of_any_dtype_and_rank_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    shapes = ((), (1,), (3,), (2, 3), (1, 2, 3), (2, 1, 2, 3), (2, 0, 3), (1, 2, 1, 2, 3))
    model = bare_parameters([nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes])
    back = round_trip(model, tmp_path)
    for name, tensor in model.named_parameters():
        assert back.get_parameter(name).dtype is dtype
        assert torch.equal(back.get_parameter(name), tensor)


def bare_parameters(parameters: list[nn.Parameter]) -> fx.GraphModule:
    """Return a traced model with these parameters, which it does not use."""
    root = nn.Module()
    for number, parameter in enumerate(parameters):
        root.register_parameter(f"p{number}", parameter)
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(1, device="meta")
    graph.output((x, *(graph.get_attr(f"p{n}") for n in range(len(parameters)))))
    return fx.GraphModule(root, graph)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
def test_buffers_of_any_dtype_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.tensor([1, 0, 1]).to(dtype))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table

    model = trace(Indexed(), torch.randn(2, 3))
    assert_same(model, round_trip(model, tmp_path), torch.randn(2, 3))


def test_the_order_of_dims_in_memory_comes_back(tmp_path: Path) -> None:
    model = traced_net()
    model.conv1.to(memory_format=torch.channels_last)
    back = round_trip(model, tmp_path)
    assert back.conv1.weight.stride() == model.conv1.weight.stride()
    assert_same(model, back, torch.randn(2, 3, 8, 8))


def test_a_slice_of_a_larger_tensor_is_stored_without_the_rest(tmp_path: Path) -> None:
    model = traced_net()
    model.head.weight.data = torch.randn(4, 10_000)[:, 17:25]
    save(model, tmp_path / "model.slim")
    assert (tmp_path / "model.slim").stat().st_size < 30_000
    assert torch.equal(load(tmp_path / "model.slim").head.weight, model.head.weight)


def arguments_model() -> fx.GraphModule:
    """Return a graph whose arguments are of every kind a file can hold."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.placeholder("input", default_value=-math.inf)
    x.meta["val"], y.meta["val"] = torch.empty(4, 6, device="meta"), -math.inf
    part = graph.call_function(operator.getitem, (x, (slice(None, 4, 2), ..., None)))
    size = graph.call_method("size", (x, 1))
    flat = graph.call_method("view", (x, [-1, size]))
    wide = graph.call_method("to", (flat, torch.float64), {"copy": True})
    made = graph.call_function(
        torch.zeros, ((size, 2),), {"dtype": torch.int32, "device": torch.device("cpu")}
    )
    like = graph.call_method("contiguous", (x,), {"memory_format": torch.contiguous_format})
    strided = graph.call_function(
        torch.full, ((2,), math.nan), {"layout": torch.strided, "requires_grad": False}
    )
    shape = graph.call_function(getattr, (x, "shape"))
    numbers = (1, True, 1.0, 1e-300, -0.0, math.inf, "text '\"\\ größe", None, torch.Size([2, 3]))
    clamped = graph.call_function(torch.clamp, (x,), {"min": y})
    pooled = graph.call_function(F.max_pool2d, (graph.call_method("view", (x, 1, 4, 6)), (2, 2)))
    parts = [part, wide, made, like, strided, clamped, pooled]
    graph.output({"parts": parts, "numbers": numbers, 3: (shape, size)})
    model = fx.GraphModule({}, graph)
    propagate(model, torch.empty(4, 6, device="meta"), -math.inf)
    return model


def test_arguments_of_every_kind_come_back(tmp_path: Path) -> None:
    model = arguments_model()
    back = round_trip(model, tmp_path)
    x = torch.randn(4, 6)
    assert repr(back(x)) == repr(model(x))
    assert [node.name for node in back.graph.nodes] == [node.name for node in model.graph.nodes]
    assert [node.args for node in back.graph.nodes][1] == (-math.inf,)


MODULES: list[Callable[[], tuple[nn.Module, Tensor]]] = [
    lambda: (nn.Conv1d(4, 6, 3, padding="same", padding_mode="reflect"), torch.randn(2, 4, 8)),
    lambda: (nn.Conv3d(4, 6, (1, 2, 3), groups=2, bias=False), torch.randn(2, 4, 5, 5, 5)),
    lambda: (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.randn(2, 4, 5, 5)),
    lambda: (nn.BatchNorm2d(4, affine=False), torch.randn(2, 4, 5, 5)),
    lambda: (nn.BatchNorm2d(4, track_running_stats=False), torch.randn(2, 4, 5, 5)),
    lambda: (nn.InstanceNorm2d(4, affine=True), torch.randn(2, 4, 5, 5)),
    lambda: (nn.GroupNorm(2, 4), torch.randn(2, 4, 5, 5)),
    lambda: (nn.LayerNorm((4, 5)), torch.randn(2, 4, 5)),
    lambda: (nn.RMSNorm(5), torch.randn(2, 4, 5)),
    lambda: (nn.PReLU(4), torch.randn(2, 4, 5)),
    lambda: (nn.Embedding(10, 4, padding_idx=0), torch.tensor([[1, 2, 3]])),
    lambda: (nn.AdaptiveAvgPool2d((None, 2)), torch.randn(2, 4, 5, 5)),
    lambda: (nn.Upsample(scale_factor=2.0, mode="bilinear"), torch.randn(2, 4, 5, 5)),
    lambda: (nn.Unflatten(1, (2, 2)), torch.randn(2, 4)),
    lambda: (nn.GELU("tanh"), torch.randn(2, 4)),
    lambda: (nn.Hardtanh(-1.0, math.inf), torch.randn(2, 4)),
    lambda: (nn.PixelShuffle(2), torch.randn(2, 4, 3, 3)),
]


@pytest.mark.parametrize("make", MODULES, ids=lambda make: repr(make()[0]))
def test_modules_of_torch_nn_come_back(
    tmp_path: Path, make: Callable[[], tuple[nn.Module, Tensor]]
) -> None:
    module, x = make()
    model = trace(nn.Sequential(module).eval(), x)
    back = round_trip(model, tmp_path)
    assert_same(model, back, x)
    assert repr(back.get_submodule("0")) == repr(module)


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(4, 5, num_layers=2, bidirectional=True),
        nn.GRU(4, 5, batch_first=True, bias=False),
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_with_inner_structure_come_back(tmp_path: Path, module: nn.Module) -> None:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(*[x] * (3 if isinstance(module, nn.MultiheadAttention) else 1))[0]

    model = fx.symbolic_trace(Caller().eval())
    x = torch.randn(3, 2, 4)
    propagate(model, x)
    back = round_trip(model, tmp_path)
    assert_same(model, back, x)
    back.inner.train()(*[x] * (3 if isinstance(module, nn.MultiheadAttention) else 1))


def test_recurrent_weights_stay_those_the_kernel_uses(tmp_path: Path) -> None:
    model = fx.symbolic_trace(nn.Sequential(nn.LSTM(4, 5)))
    propagate(model, torch.randn(3, 2, 4))
    back = round_trip(model, tmp_path)
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.zero_()
    assert back(torch.randn(3, 2, 4))[0].abs().max() == 0


ZOO = [
    "resnet18",
    "densenet121",
    "googlenet",
    "mobilenet_v3_small",
    "squeezenet1_0",
    "inception_v3",
]


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
@pytest.mark.parametrize("name", ZOO)
def test_plain_symbolic_traces_of_torchvision_come_back(tmp_path: Path, name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    x = torch.randn(2, 3, 96, 96)
    model = fx.symbolic_trace(models.get_model(name, weights=None, **options).eval())
    propagate(model, x)
    assert_same(model, round_trip(model, tmp_path), x)


def resident_bytes() -> int:
    """Return how much memory this process occupies now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
def test_loading_maps_weights_instead_of_reading_them(tmp_path: Path) -> None:
    wide = nn.Linear(8192, 8192, bias=False)
    model = trace(nn.Sequential(wide).eval(), torch.randn(1, 8192))
    save(model, tmp_path / "model.slim")
    before = resident_bytes()
    back = load(tmp_path / "model.slim")
    assert resident_bytes() - before < 50e6, "268 MB of weights were read"
    assert torch.equal(back.get_submodule("0").weight[0], wide.weight[0])


def test_the_file_holds_no_folder_of_this_machine(tmp_path: Path) -> None:
    save(traced_net(), tmp_path / "model.slim")
    with safe_open(tmp_path / "model.slim", framework="pt") as file:
        payload = json.loads(file.metadata()["slimgraph"])["payload"]
    sources = {node["source"] for node in payload["nodes"]}
    assert any("forge.py:" in source for source in sources)
    assert not any(source.startswith("/") for source in sources)
