"""Files that lie: an error that says why, no code run, no memory taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from slimgraph.serialize import load
from tests.io.forge import (
    Payload,
    calling,
    cases,
    forged,
    module,
    node,
    on_module,
    on_node,
    refused,
    traced_net,
)

pytestmark = pytest.mark.usefixtures("modest_memory")
X = {"node": "x"}


def test_the_forge_itself_changes_nothing(tmp_path: Path) -> None:
    model = traced_net()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(load(forged(tmp_path, lambda *_: None, model))(x), model(x))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.open",
        "builtins.__import__",
        "operator.attrgetter",
        "operator.methodcaller",
        "torch.load",
        "torch.save",
        "torch.hub.load",
        "torch.os.system",
        "torch.compile",
        "torch.from_file",
        "torch.Tensor.apply_",
        "torch.nn.functional.torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.save.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten._print.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.relu.__class__",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.relu.default.__call__",
        "torch.ops.profiler._record_function_enter.default",
        "",
        "getattr",
    ],
)
def test_only_listed_functions_are_called(tmp_path: Path, target: str) -> None:
    refused(tmp_path, calling(target, X), "may not be called by a saved model")


@pytest.mark.parametrize(
    "method",
    ["apply_", "map_", "numpy", "tolist", "__reduce_ex__", "__class__", "storage", "set_",
     "register_hook", "module_load", "share_memory_", "format", "to_folder", "x(); y"],
)  # fmt: skip
def test_only_listed_methods_are_called(tmp_path: Path, method: str) -> None:
    refused(tmp_path, calling(method, X, op="call_method"), "may not be called by a saved model")


@pytest.mark.parametrize(
    "args",
    [
        [X, "__class__"],
        [X, "grad_fn"],
        [X, "_backward_hooks"],
        [X, X],
        [X, ["shape"]],
        [X],
        [X, "shape", None],
    ],
    ids=str,
)
def test_only_plain_facts_are_read_from_values(tmp_path: Path, args: list[Any]) -> None:
    refused(tmp_path, calling("builtins.getattr", *args), "may not be read by a saved model")


CODE = "x=__import__('pathlib').Path('marker').touch()"


@cases(
    (on_node("x", target=CODE), "may not be the name"),
    (on_node("x", target="*x, " + CODE), "may not be the name"),
    (on_node("x", target="***x"), "may not be the name"),
    (on_node("x", name=CODE), "may not be the name"),
    (on_node("x", name="x\n    import os"), "may not be the name"),
    (on_node("x", name="lambda"), "may not be the name"),
    (on_node("x", name="\uff58"), "may not be the name"),
    (on_node("x", name="self"), "may not be the name"),
    (on_node("relu", kwargs={CODE: 1}), "is no name"),
    (on_node("relu", kwargs={"class": 1}), "is no name"),
    (on_node("conv1", target=f'conv1", {CODE}, "'), "the model has no"),
    (on_node("conv1", target="to_folder"), "the model has no"),
    (on_node("conv1", target=""), "the model has no"),
    (on_node("gamma", target="gamma.__class__"), "the model has no"),
    (on_node("gamma", target="conv1"), "the model has no"),
    (on_node("x", args=[{"node": "x"}]), "no earlier node"),
    (lambda payload, _: payload.update(name=f"M:\n {CODE}"), "is no name for a model"),
    (lambda payload, _: payload.update(name="class"), "is no name for a model"),
)
def test_no_name_becomes_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[..., object],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, edit, message)
    assert not (tmp_path / "marker").exists()


def renamed(old: str, new: str) -> Callable[..., None]:
    """Return an edit that renames a module and the node that calls it."""

    def edit(payload: Payload, _: object) -> None:
        module(payload, old)["path"] = new
        node(payload, old)["target"] = new

    return edit


@pytest.mark.parametrize(
    "name",
    ["to_folder", "graph", "code", "\uff54o_folder", 'a"b', "a\\b", "a\nb", "conv1.", ".a",
     "nowhere.a", "training", "state_dict", ".".join("a" * 70)],
)  # fmt: skip
def test_no_module_hides_what_the_model_itself_has(tmp_path: Path, name: str) -> None:
    refused(tmp_path, renamed("conv1", name), "module|attribute")


@cases(
    (lambda p, _: module(p, "conv1").update({"class": "GraphModule"}), "not a class of torch"),
    (lambda p, _: module(p, "conv1").update({"class": "Tracer"}), "not a class of torch"),
    (lambda p, _: module(p, "conv1").update({"class": "LazyConv2d"}), "not a class of torch"),
    (lambda p, _: module(p, "conv1").update({"class": "ScriptModule"}), "not a class of torch"),
    (lambda p, _: module(p, "conv1").update({"class": None}), "conv1"),
    (lambda p, _: module(p, "conv1").update({"class": ["Conv2d"]}), "unhashable"),
    (lambda p, _: module(p, "conv1").update({"class": "Linear"}), "conv1"),
    (lambda p, _: module(p, "conv1").pop("attributes"), "attributes"),
    (on_module("conv1", "attributes", forward=1), "may not be an attribute"),
    (on_module("conv1", "attributes", __class__=1), "may not be an attribute"),
    (on_module("conv1", "attributes", _modules=1), "may not be an attribute"),
    (on_module("conv1", "attributes", _forward_hooks=1), "may not be an attribute"),
    (on_module("conv1", "attributes", in_channels=4), "the module's attributes ask for"),
    (on_module("conv1", "attributes", out_channels=9), "the module's attributes ask for"),
    (on_module("conv1", "attributes", groups=0), "ZeroDivisionError"),
    (on_module("conv1", "attributes", groups=3), "the module's attributes ask for"),
    (on_module("conv1", "attributes", stride="two"), "node `conv1`"),
    (on_module("norm", "attributes", num_features=9), "the module's attributes ask for"),
    (on_module("norm", "attributes", momentum="much"), "node `norm`"),
    (on_module("norm", "attributes", eps=None), "node `norm`"),
    (lambda p, _: module(p, "norm")["parameters"].pop("weight"), "no attribute 'weight'"),
    (lambda p, _: module(p, "norm")["buffers"].pop("running_var"), "no attribute 'running_var'"),
    (on_node("norm", kwargs={"parallel": True}), "node `norm`"),
    (on_module("head", "attributes", weight=3), "attribute 'weight' already exists"),
    (on_module("head", "parameters", weight=99), "no entry of the table"),
    (on_module("head", "parameters", weight=-1), "no entry of the table"),
    (on_module("head", "parameters", weight=True), "no entry of the table"),
    (on_module("head", "parameters", weight=None), "head"),
    (on_module("head", "parameters", forward=0), "already exists"),
    (on_module("head", "parameters", **{"a.b": 0}), "may not be a parameter"),
    (on_module("norm", "buffers", running_mean=[0, True]), "is a parameter, not a buffer"),
    (lambda p, _: p["modules"].pop(0), "no parent"),
    (lambda p, _: p["modules"].append(p["modules"][1]), "comes twice"),
    (lambda p, _: p["modules"].append({"path": "a", "same_as": "b"}), "comes nowhere"),
    (lambda p, _: p["modules"].append({"path": "conv1.a", "same_as": ""}), "contains itself"),
    (lambda p, _: p.update(modules={}), "is no list"),
    (lambda p, _: p.update(modules=[]), "has no modules"),
    (lambda p, _: p.update(modules=[1]), "module path None"),
    (lambda p, _: p.update(tensors={}), "is no list"),
    (lambda p, _: p["tensors"].__setitem__(0, 1), "has no key"),
    (lambda p, _: p["tensors"][0].update(key="nowhere"), "`nowhere` is missing"),
    (lambda _, t: t.pop("head.weight"), "`head.weight` is missing"),
    (lambda _, t: t.update({"head.weight": torch.ones(4, 9)}), "attributes ask for"),
    (lambda _, t: t.update({"head.weight": torch.ones(8, 4)}), "attributes ask for"),
    (lambda _, t: t.update({"head.weight": torch.ones(4, 8).long()}), "require gradients"),
    (lambda _, t: t.update({"gamma": torch.ones(7, 1, 1)}), "node `mul`"),
)
def test_modules_are_what_torch_nn_makes(
    tmp_path: Path, edit: Callable[..., object], message: str
) -> None:
    refused(tmp_path, edit, message)


def viewing(*view: Any) -> Callable[..., None]:
    """Return an edit that makes the first tensor a view."""

    def edit(payload: Payload, tensors: dict[str, Tensor]) -> None:
        key = payload["tensors"][0]["key"]
        tensors[key] = tensors[key].flatten()
        payload["tensors"][0]["view"] = list(view)

    return edit


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ((0, [10**6, 10**6], [0, 0]), "reaches beyond"),
        ((0, [3, 3], [100, 1]), "reaches beyond"),
        ((10**6, [1], [1]), "reaches beyond"),
        ((-1, [1], [1]), "no sizes"),
        ((0, [1], [-1]), "no sizes"),
        ((0, [True], [1]), "no sizes"),
        ((0, [1, 1], [1]), "argument 2 is shorter"),
        ((0, 1, 1), "TypeError"),
        ((0,), "not enough values"),
    ],
    ids=str,
)
def test_views_stay_inside_their_memory(tmp_path: Path, view: Any, message: str) -> None:
    refused(tmp_path, viewing(*view), message)


@cases(
    (on_node("relu", args=[{"node": "nowhere"}]), "`relu`: a node refers to 'nowhere'"),
    (on_node("relu", args=[{"node": "head"}]), "`relu`: a node refers to 'head'"),
    (on_node("relu", args=[{"node": ["x"]}]), r"`relu`: a node refers to \['x'\]"),
    (on_node("relu", name="conv1"), "two nodes have this name"),
    (on_node("relu", op="call_anything"), "is no kind of node"),
    (on_node("relu", op=["output"]), "unhashable"),
    (on_node("relu", op="output"), "not one value|after the output|name"),
    (on_node("relu", args={"0": 1}), "relu"),
    (on_node("relu", args=[]), "relu"),
    (on_node("relu", args=[{"dtype": "float33"}]), "torch has no dtype `float33`"),
    (on_node("relu", args=[{"dtype": "nn"}]), "torch has no dtype `nn`"),
    (on_node("relu", args=[{"device": "somewhere"}]), "device type at start"),
    (on_node("relu", args=[{"float": "1e5"}]), "is no float"),
    (on_node("relu", args=[{"slice": [1]}]), "not enough values"),
    (on_node("relu", args=[{"size": ["a"]}]), "TypeError"),
    (on_node("relu", args=[{"dict": [[1, 2], [1, 3]]}]), "a dict has keys that repeat"),
    (on_node("relu", args=[{"dict": [[[], 2]]}]), "no scalars"),
    (on_node("relu", args=[{"pickle": "gASV"}]), "is no value"),
    (on_node("relu", args=[{"node": "x", "tuple": []}]), "is no value"),
    (on_node("relu", args=[{}]), "is no value"),
    (on_node("output", args=[]), "not one value"),
    (on_node("output", op="call_method", target="relu"), "has no output"),
    (lambda p, _: node(p, "relu").pop("target"), "KeyError: 'target'"),
    (lambda p, _: p["nodes"].append(dict(p["nodes"][0], name="late")), "after the output"),
    (lambda p, _: p.update(nodes=[]), "has no output"),
    (lambda p, _: p.update(nodes="abc"), "is no list"),
    (lambda p, _: p["nodes"].insert(0, None), "may not be the name"),
    (lambda p, _: p.pop("nodes"), "KeyError: 'nodes'"),
    (lambda p, _: p.clear(), "KeyError: 'name'"),
    (on_node("x", value=None), "node `conv1`"),
    (on_node("x", args=[1, 2]), "more than a default value"),
)
def test_the_graph_is_one_torch_fx_could_make(
    tmp_path: Path, edit: Callable[..., object], message: str
) -> None:
    refused(tmp_path, edit, message)


def declared(shape: Any, dtype: Any = "float32") -> Callable[..., None]:
    """Return an edit that declares another shape for the input."""
    return on_node("x", value={"tensor": {"shape": shape, "dtype": dtype}})


@cases(
    (declared([2, 5, 8, 8]), "node `conv1`"),
    (declared([2, 3, 8]), "node `conv1`"),
    (declared([800_000_000]), "more than 2 GiB"),
    (declared([1, 3, 2**19, 2**19]), "more than 2 GiB"),
    (declared([2**39, 2**39, 2**39]), "more than 2 GiB"),
    (declared([-1, 3, 8, 8]), "no shape"),
    (declared([2.0, 3, 8, 8]), "no shape"),
    (declared([True, 3, 8, 8]), "no shape"),
    (declared([1] * 65), "no shape"),
    (declared(8), "TypeError"),
    (declared([2, 3, 8, 8], "float64"), "node `conv1`"),
    (declared([2, 3, 8, 8], "float33"), "torch has no dtype"),
    (declared([2, 3, 8, 8], 3), "is no value"),
)
def test_declared_inputs_are_checked(
    tmp_path: Path, edit: Callable[..., object], message: str
) -> None:
    refused(tmp_path, edit, message)
