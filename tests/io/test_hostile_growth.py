"""Files that grow without end, and files changed at random: an error, no memory, no hanging."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from slimgraph.errors import FileError
from slimgraph.serialize import load
from slimgraph.shapes import propagate
from slimgraph.tracing import trace
from tests.io.forge import (
    Payload,
    calling,
    cases,
    forged,
    insert,
    module,
    node,
    refused,
    traced_net,
    write_container,
)

pytestmark = pytest.mark.usefixtures("modest_memory")
X = {"node": "x"}


def chain(length: int, target: str, first: Any, *rest: Any) -> Callable[..., None]:
    """Return an edit that applies a function again and again to its own result."""

    def edit(payload: Payload, _: object) -> None:
        value = first
        for number in range(length):
            args = [value if arg == "again" else arg for arg in rest]
            insert(payload, f"evil_{number}", target, value, *args)
            value = {"node": f"evil_{number}"}

    return edit


def doubling(payload: Payload, _: object) -> None:
    """Nest lists by reference: n nodes describe 2 ** n leaves."""
    value: Any = X
    for number in range(200):
        insert(payload, f"evil_{number}", "operator.getitem", [[value, value]], 0)
        value = {"node": f"evil_{number}"}


def identity_doubling(payload: Payload, _: object) -> None:
    module(payload, "norm").update(
        {"class": "Identity", "attributes": {}, "parameters": {}, "buffers": {}}
    )
    node(payload, "norm")["args"] = [[[[X] * 50] * 50] * 50]


def shared_tree(payload: Payload, _: object) -> None:
    """Share modules in modules: n of them have 2 ** n names."""
    empty = {"training": False, "attributes": {}, "parameters": {}, "buffers": {}}
    for number in range(60):
        payload["modules"].append({"path": f"m{number}", "class": "Module", **empty})
    for number in range(59):
        for name in "ab":
            path = f"m{number}.{name}"
            payload["modules"].append({"path": path, "same_as": f"m{number + 1}"})


SIZE = 10**12


@cases(
    (calling("operator.pow", 10, 10**10), "raised to the power"),
    (calling("operator.pow", 10, {"tuple": [1]}), "node `evil`"),
    (calling("builtins.pow", 10, 10**10), "raised to the power"),
    (calling("builtins.round", 5, -(10**10)), "raised to the power"),
    (calling("operator.lshift", 1, 10**10), "shifted by"),
    (calling("operator.mul", [1], 10**10), "repeated to"),
    (calling("operator.mul", 10**10, "text"), "repeated to"),
    (chain(100, "operator.mul", 2**60, "again"), r"a number of \d+ bits"),
    (chain(100, "operator.add", [1], "again"), "values, more than"),
    (chain(100, "operator.concat", "aaaaaaaa", "again"), "a text of"),
    (doubling, "values, more than"),
    (identity_doubling, "takes .* values, more than"),
    (shared_tree, "more than 65536 modules"),
    (calling("torch.zeros", SIZE), "GiB"),
    (calling("torch.ones", [SIZE, SIZE]), "node `evil`"),
    (calling("torch.full", [SIZE], 1.0), "GiB"),
    (calling("torch.arange", SIZE), "GiB"),
    (calling("torch.eye", 10**6), "GiB"),
    (calling("torch.ops.aten.ones.default", [SIZE]), "GiB"),
    (calling("new_ones", X, [SIZE], op="call_method"), "GiB"),
    (calling("expand", X, [10**9, 2, 3, 8, 8], op="call_method"), "GiB"),
    (calling("repeat", X, 10**9, 1, 1, 1, op="call_method"), "GiB"),
    (calling("torch.nn.functional.interpolate", X, None, 1e6), "GiB"),
    (calling("torch.nn.functional.pad", X, [0, 10**11]), "GiB"),
    (calling("torch.nn.functional.one_hot", {"node": "x"}), "node `evil`"),
    (chain(6, "torch.cartesian_prod", X), "node `evil"),
)
def test_nothing_grows_without_bounds(
    tmp_path: Path, edit: Callable[..., object], message: str
) -> None:
    refused(tmp_path, edit, message)


@pytest.mark.parametrize("call", ["unbind", "split", "chunk", "tensor_split"])
def test_no_tensor_falls_into_millions_of_pieces(tmp_path: Path, call: str) -> None:
    def edit(payload: Payload, _: object) -> None:
        sizes = [] if call == "unbind" else [1] if call == "split" else [10**8]
        insert(payload, "long", "expand", X, [10**8, 2, 3, 8, 8], op="call_method")
        insert(
            payload,
            "row",
            "operator.getitem",
            {"node": "long"},
            {"tuple": [{"slice": [None] * 3}, 0, 0, 0, 0]},
        )
        insert(payload, "evil", call, {"node": "row"}, *sizes, op="call_method")

    refused(tmp_path, edit, "pieces|tensor ops|GiB|values")


def test_no_recurrent_net_runs_for_hours(tmp_path: Path) -> None:
    model = fx.symbolic_trace(nn.Sequential(nn.LSTM(1, 1)))
    propagate(model, torch.randn(3, 1, 1))

    def edit(payload: Payload, _: object) -> None:
        payload["nodes"][0]["value"]["tensor"]["shape"] = [10**8, 1, 1]

    with pytest.raises(FileError, match=r"tensor ops|values|pieces"):
        load(forged(tmp_path, edit, model))


def test_factories_with_a_device_take_no_memory(tmp_path: Path) -> None:
    def edit(payload: Payload, _: object) -> None:
        insert(payload, "evil", "torch.ones", [2**32])
        payload["nodes"][-2]["kwargs"] = {"device": {"device": "cpu"}}

    load(forged(tmp_path, edit))  # 16 GiB, but nobody asked for the values


def junk(generator: random.Random, payload: Payload) -> Any:
    """Return something that does not belong, or does but elsewhere."""
    made = [None, True, -1, 0, 2**70, 1.5, "", "x", "\0", "a.b", [], {}, [[]], {"node": "relu"}]
    found: list[Any] = []
    pending: list[Any] = [payload]
    while pending:
        item = pending.pop()
        found.append(item)
        pending += (
            item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
        )
    return copy.deepcopy(generator.choice(made + [generator.choice(found)] * 7))


def mutate(generator: random.Random, payload: Payload) -> None:
    """Replace, drop or double one random part of a payload."""
    holder: Any = payload
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = generator.choice(keys)
        if isinstance(holder[key], dict | list) and holder[key] and generator.random() < 0.85:
            holder = holder[key]
            continue
        if generator.random() < 0.15:
            del holder[key]
        else:
            holder[key] = junk(generator, payload)
        return


@pytest.mark.parametrize("seed", range(10))
def test_random_changes_are_errors_or_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = random.Random(seed)
    kept: dict[str, Any] = {}

    def remember(payload: Payload, tensors: dict[str, Tensor]) -> None:
        kept.update(payload=copy.deepcopy(payload), tensors=tensors)

    forged(tmp_path, remember)
    accepted = 0
    for _ in range(60):
        payload = copy.deepcopy(kept["payload"])
        mutate(generator, payload)
        document = {"kind": "model", "format": 1, "payload": payload}
        write_container(tmp_path / "bad.slim", document, kept["tensors"])
        try:
            model = load(tmp_path / "bad.slim")
        except FileError as error:
            assert error.hint  # noqa: PT017 - some changes are harmless
        else:
            accepted += 1
            assert isinstance(model, fx.GraphModule)
    assert accepted < 60
    assert {path.name for path in tmp_path.iterdir()} == {"forged.slim", "bad.slim"}


def test_a_damaged_plan_is_an_error(tmp_path: Path) -> None:
    import slimgraph as sg

    slim = sg.compress(traced_net(), {"conv1": torch.tensor([True, False] * 4)})
    edits: list[Callable[..., object]] = [
        lambda p, _: p["plan"].clear(),
        lambda p, _: p.update(plan=3),
        lambda _, t: t.update({next(k for k in t if "plan" in k): torch.tensor([99])}),
        lambda _, t: t.update({"slimgraph.plan/nowhere[0]": torch.tensor([0])}),
    ]
    for edit in edits:
        with pytest.raises(FileError, match="is not a valid slimgraph model"):
            load(forged(tmp_path, edit, slim))


def test_an_honest_large_net_passes_every_limit(tmp_path: Path) -> None:
    layers = [nn.Conv2d(1, 1, 1) for _ in range(1500)]
    model = trace(nn.Sequential(*layers).eval(), torch.randn(1, 1, 512, 512))
    assert len(load(forged(tmp_path, lambda *_: None, model)).graph.nodes) == 1502
