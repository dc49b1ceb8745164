import torch
from torch import Tensor, nn

from slimgraph.cloning import (
    clone,
    fingerprint,
    first_difference,
    has_hooks,
    isolated,
    run_isolated,
)
from slimgraph.tracing import trace

X = torch.rand(2, 3, 8, 8)


class Net(nn.Module):
    """Shared modules, buffers of both kinds, a bare parameter, random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.same = self.conv
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("kept", torch.ones(1))
        self.register_buffer("lost", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.same(self.body(self.conv(x))) * self.scale + self.kept + self.lost


def test_a_clone_shares_tensors_and_nothing_else() -> None:
    original = trace(Net(), X)
    copied = clone(original)
    assert list(copied.state_dict()) == list(original.state_dict())
    for name, tensor in original.named_parameters(remove_duplicate=False):
        assert copied.get_parameter(name) is tensor
    for name, module in original.named_modules():
        assert copied.get_submodule(name) is not module
        assert type(copied.get_submodule(name)).__name__ == type(module).__name__
    assert torch.equal(original.eval()(X), copied.eval()(X))
    assert not first_difference(fingerprint(original), fingerprint(copied))


def test_changes_to_a_clone_stay_there() -> None:
    original = trace(Net(), X)
    recorded = fingerprint(original)
    copied = clone(original)
    copied.conv.groups = 3
    copied.conv.weight = nn.Parameter(torch.zeros(1))
    copied.get_submodule("body.0").momentum = None
    copied.register_buffer("kept", torch.zeros(1))
    copied.add_module("more", nn.ReLU())
    copied.delete_submodule("body.1")
    for node in copied.graph.nodes:
        node.meta["val"] = None
    copied.graph.erase_node(next(node for node in copied.graph.nodes if node.op == "output"))
    copied.train(mode=False)
    assert not first_difference(recorded, fingerprint(original))
    assert all(node.meta["val"] is not None for node in original.graph.nodes)


def test_shared_modules_stay_shared() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("b", (graph.call_module("a", (x,)),)))
    root = nn.Module()
    root.a = root.b = nn.Conv2d(3, 3, 1)
    copied = clone(torch.fx.GraphModule(root, graph))
    assert copied.a is copied.b
    assert copied.a is not root.a


def test_a_clone_keeps_names_meta_flags_and_attributes() -> None:
    original = trace(Net(), X)
    original.train()
    original.body.eval()
    original.meta["note"] = 1
    original.plan = {"conv.weight": None}
    copied = clone(original)
    pairs = list(zip(original.graph.nodes, copied.graph.nodes, strict=True))
    assert [node.name for node, _ in pairs] == [twin.name for _, twin in pairs]
    assert all(node.meta == twin.meta and node.meta is not twin.meta for node, twin in pairs)
    assert copied.training
    assert not copied.body.training
    assert not copied.get_submodule("body.0").training
    assert copied.meta == original.meta
    assert copied.meta is not original.meta
    assert copied.plan is original.plan
    assert "lost" not in copied.state_dict()


def test_hooks_of_modules_stay_and_new_ones_are_its_own() -> None:
    original = trace(Net(), X).eval()
    calls: list[str] = []
    original.conv.register_forward_hook(lambda *_: calls.append("old"))
    copied = clone(original)
    copied.conv.register_forward_hook(lambda *_: calls.append("new"))
    assert has_hooks(copied.conv)
    assert not has_hooks(copied.get_submodule("body.0"))
    original(X)
    assert set(calls) == {"old"}
    copied(X)
    assert set(calls) == {"old", "new"}


def test_an_exported_program_can_be_cloned() -> None:
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 3, 1)), (X,))
    original = program.module()
    copied = clone(original).eval()  # the original refuses `eval`
    assert torch.equal(copied(X), original(X))


def test_running_leaves_state_inputs_and_random_numbers_alone() -> None:
    original = trace(Net(), X).train()
    recorded, state, x = fingerprint(original), torch.get_rng_state(), X.clone()
    assert torch.equal(run_isolated(original, (x,)), run_isolated(original, (x,)))
    assert not first_difference(recorded, fingerprint(original))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, X)
    own = dict(isolated(original).named_buffers())
    assert all(own[name] is not buffer for name, buffer in original.named_buffers())


def test_a_fingerprint_sees_every_kind_of_change() -> None:
    changes = {
        "`conv.weight`": lambda net: net.conv.weight.data.mul_(2),
        "`conv.bias`": lambda net: setattr(net.conv, "bias", None),
        "`kept`": lambda net: net.kept.zero_(),
        "module `body.1`": lambda net: setattr(net.get_submodule("body.1"), "p", 0.1),
        "module `body.0`": lambda net: net.get_submodule("body.0").eval(),
        "the graph": lambda net: net.graph.call_function(torch.relu, (X,)),
    }
    for what, change in changes.items():
        net = trace(Net(), X)
        recorded = fingerprint(net)
        assert not first_difference(recorded, fingerprint(net))
        change(net)
        assert first_difference(recorded, fingerprint(net)) == what
