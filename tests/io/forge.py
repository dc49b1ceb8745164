"""Models and files for the tests of this folder: honest ones, and changed ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from slimgraph.errors import FileError
from slimgraph.serialize import load, save
from slimgraph.tracing import trace

Payload = dict[str, Any]
Edit = Callable[[Payload, dict[str, Tensor]], None]


class Net(nn.Module):
    """A bit of everything a file has to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("offset", torch.rand(8, 1, 1), persistent=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = x * self.gamma + self.offset
        return self.head(x.mean((2, 3)))


def traced_net() -> fx.GraphModule:
    """Return the net, traced, with running statistics that are not those of a fresh one."""
    model = Net()
    model(torch.randn(4, 3, 8, 8))
    return trace(model.eval(), torch.randn(2, 3, 8, 8))


def forged(folder: Path, edit: Edit, model: fx.GraphModule | None = None) -> Path:
    """Save a model, change the file's JSON or its tensors, and return its path."""
    path = folder / "forged.slim"
    save(model or traced_net(), path)
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["slimgraph"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    edit(document["payload"], tensors)
    write_container(path, document, tensors)
    return path


def write_container(path: Path, document: Any, tensors: dict[str, Tensor]) -> None:
    """Write a file of slimgraph's format without slimgraph's own checks."""
    text = document if isinstance(document, str) else json.dumps(document)
    save_file(tensors, path, {"slimgraph": text})


def node(payload: Payload, name: str) -> dict[str, Any]:
    """Return one node of a payload, to be changed."""
    return next(found for found in payload["nodes"] if found["name"] == name)


def module(payload: Payload, path: str) -> dict[str, Any]:
    """Return one module of a payload, to be changed."""
    return next(found for found in payload["modules"] if found["path"] == path)


def insert(payload: Payload, name: str, target: str, *args: Any, op: str = "call_function") -> None:
    """Put a node in front of the output."""
    fields = {"name": name, "op": op, "target": target, "args": list(args), "kwargs": {}}
    payload["nodes"].insert(-1, {**fields, "source": ""})


def refused(folder: Path, edit: Callable[..., object], message: str) -> None:
    """Check that a model changed in this way is refused for this reason."""
    path = forged(folder, edit)
    with pytest.raises(FileError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"`{path}` is not a valid slimgraph model: ")
    assert caught.value.hint


def on_node(found: str, /, **fields: Any) -> Callable[..., None]:
    """Return an edit that sets fields of a node."""
    return lambda payload, _: node(payload, found).update(fields)


def on_module(path: str, field: str, /, **entries: Any) -> Callable[..., None]:
    """Return an edit that sets entries of a dict of a module."""
    return lambda payload, _: module(payload, path)[field].update(entries)


def calling(target: str, *args: Any, op: str = "call_function") -> Callable[..., None]:
    """Return an edit that adds a call."""
    return lambda payload, _: insert(payload, "evil", target, *args, op=op)


def cases(*pairs: tuple[Callable[..., object], str]) -> pytest.MarkDecorator:
    """Run a test for each edit and the message it must lead to."""
    named = [pytest.param(*pair, id=f"{n} {pair[1]}") for n, pair in enumerate(pairs)]
    return pytest.mark.parametrize(("edit", "message"), named)


def round_trip(model: fx.GraphModule, folder: Path) -> fx.GraphModule:
    """Save and load a model."""
    save(model, folder / "model.slim")
    return load(folder / "model.slim")


def assert_same(old: fx.GraphModule, new: fx.GraphModule, *inputs: Tensor) -> None:
    """Check everything a file keeps, and the outputs bit by bit."""
    assert type(new).__name__ == type(old).__name__
    assert list(new.state_dict()) == list(old.state_dict())
    assert [str(node) for node in new.graph.nodes] == [str(node) for node in old.graph.nodes]
    for before, after in zip(old.graph.nodes, new.graph.nodes, strict=True):
        assert (after.op, after.target) == (before.op, before.target)
        assert str((after.args, after.kwargs)) == str((before.args, before.kwargs))
        assert after.meta["source"] == before.meta.get("source", "")
        assert repr(after.meta["val"]) == repr(before.meta["val"])
    modes = {name: module.training for name, module in old.named_modules()}
    assert modes == {name: module.training for name, module in new.named_modules()}
    for tensor in (*new.parameters(), *new.buffers()):
        tensor.data = tensor.data.clone()  # kernels round differently in a file's alignment
    torch.manual_seed(1)
    expected = tree_leaves(old(*inputs))
    torch.manual_seed(1)
    for wanted, got in zip(expected, tree_leaves(new(*inputs)), strict=True):
        assert torch.equal(torch.as_tensor(wanted), torch.as_tensor(got))
