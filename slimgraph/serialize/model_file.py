"""`save` and `load`: a traced model as one file."""

import keyword
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, fx, nn

from slimgraph.container import read, write
from slimgraph.errors import FileError, SlimgraphError
from slimgraph.files import FilePath
from slimgraph.opaque import passes_through
from slimgraph.serialize.check import fill_values
from slimgraph.serialize.errors import MalformedError, is_identifier, reason
from slimgraph.serialize.foreign import import_all, libraries, name_of_module, permitted
from slimgraph.serialize.modules import decode_modules, encode_modules
from slimgraph.serialize.nodes import check_targets, decode_nodes, encode_nodes
from slimgraph.serialize.storage import TensorPacker, TensorUnpacker

_PLAN = "slimgraph.plan/"


def save(graph_module: fx.GraphModule, path: FilePath) -> None:
    """Write a traced model to a file that needs no model class and holds no code.

    The file is a safetensors file: weights lie in it under their state-dict names.

    Args:
        graph_module: From `slimgraph.trace` or `slimgraph.compress`.
        path: Where to; any name will do, `.slim` is customary.

    Raises:
        SlimgraphError: The model holds something that is no data, such as a module class of
            its own.
        FileError: The file cannot be written.
    """
    if not isinstance(graph_module, fx.GraphModule):
        raise SlimgraphError(
            f"only a traced model can be saved, not a `{type(graph_module).__name__}`",
            hint="trace it with `slimgraph.trace(model, example_inputs)`",
        )
    if "regions" in graph_module.meta:
        raise SlimgraphError(
            f"the forward of `{type(graph_module).__name__}` is code, which no file holds",
            hint="save the plan with `plan.save(path)` and the weights of the model before; "
            "`plan.apply(model)` shrinks an instance of its class",
        )
    packer = TensorPacker()
    payload: dict[str, Any] = {
        "name": type(graph_module).__name__,
        "nodes": encode_nodes(graph_module.graph),
        "modules": encode_modules(graph_module, packer, _identities(graph_module)),
    }
    called = [entry["target"] for entry in payload["nodes"] if entry["op"] == "call_function"]
    classes = [str(entry.get("class")) for entry in payload["modules"]]
    payload["needs"] = libraries([*called, *classes])
    payload["tensors"], tensors = packer.pack()
    plan = getattr(graph_module, "plan", None)
    if plan is not None:
        payload["plan"], plan_tensors = plan.to_payload()
        tensors |= {_PLAN + name: tensor for name, tensor in plan_tensors.items()}
    write(path, "model", payload, tensors)


def _identities(graph_module: fx.GraphModule) -> list[str]:
    """Find modules of the user's own that act in training only; files cannot hold their code."""
    found = []
    for node in graph_module.graph.nodes:
        given = node.all_input_nodes[0].meta.get("val") if node.all_input_nodes else None
        if node.op != "call_module" or not isinstance(given, Tensor):
            continue
        module = graph_module.get_submodule(str(node.target))
        if name_of_module(type(module)) is None and passes_through(module, given):
            found.append(str(node.target))
    for name in dict.fromkeys(found):
        message = f"`{name}` acts in training only; in the file it is an identity in training, too"
        warnings.warn(message, stacklevel=3)
    return found


def load(path: FilePath, *, ops: Collection[str] = ()) -> fx.GraphModule:
    """Read a traced model that `save` wrote.

    Nothing in the file is executed, whoever made it; it may call torch, and a few ops and modules
    of torchvision and timm, which are imported if they are installed. Weights are mapped into
    memory, so they are read from the disk when they are first used.

    Args:
        path: The file.
        ops: Other ops that it may call, such as `mylib::op`; the module that registers them with
            torch must have been imported.

    Returns:
        The model on the CPU, with the shapes, sources, modes and plan it was saved with.

    Raises:
        FileError: The file is missing, damaged, or says what no saved model says.
    """
    payload, tensors = read(path, "model")
    try:
        with permitted(ops):
            return decode_model(payload, tensors)
    except FileError:
        raise
    except Exception as error:  # a hostile file can make anything fail, and none may escape
        raise FileError(
            f"`{path}` is not a valid slimgraph model: {reason(error)}",
            hint="the file is damaged, or slimgraph did not write it; save the model again",
        ) from error


def decode_model(payload: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """Rebuild a traced model from data that may come from anywhere.

    Args:
        payload: The JSON part, as `save` writes it.
        tensors: The tensors it names.

    Raises:
        Exception: The data describes no model; `reason` says why.
    """
    name = payload["name"]
    if not is_identifier(name) or keyword.iskeyword(name):
        raise MalformedError(f"{name!r} is no name for a model")
    import_all(payload.get("needs", []))
    root = decode_modules(payload["modules"], TensorUnpacker(payload["tensors"], tensors))
    graph, inputs = decode_nodes(payload["nodes"])
    check_targets(graph, root)
    graph_module = _graph_module(root, graph, name)
    fill_values(graph_module, inputs)
    if "plan" in payload:
        from slimgraph.plan import Plan

        own = {key.removeprefix(_PLAN): key for key in tensors if key.startswith(_PLAN)}
        plan = Plan.from_payload(payload["plan"], {key: tensors[own[key]] for key in own})
        vars(graph_module)["plan"] = plan
    return graph_module


def _graph_module(root: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """Make a GraphModule that holds all modules and tensors, also those no node names."""
    graph_module = fx.GraphModule(root, graph, name)
    for store in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
        vars(graph_module)[store] = vars(root)[store]
    return graph_module
