"""The modules of a traced model as data: torch.nn leaves in a tree of plain containers.

A module is its class name, its scalar attributes and the tensors it holds. It is rebuilt without
its constructor, from the classes that torch.nn itself defines and no others.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.rnn import RNNBase

from slimgraph.errors import SlimgraphError
from slimgraph.modes import TrainingMode
from slimgraph.serialize.errors import MalformedError, is_identifier, is_path_part, reason
from slimgraph.serialize.foreign import module_class, name_of_module
from slimgraph.serialize.module_shapes import check_shapes
from slimgraph.serialize.storage import TensorPacker, TensorUnpacker
from slimgraph.serialize.values import decode_value, encode_value

_OWN_STATE = frozenset(vars(nn.Module()))
_HOOKS = tuple(sorted(name for name in _OWN_STATE if name.endswith("_hooks")))
_DEPTH_LIMIT = 64  # modules inside modules
_PATH_LIMIT = 2**16
_RNN_DERIVED = ("_flat_weights", "_flat_weight_refs")  # lists of the parameters themselves


@cache
def module_classes() -> Mapping[str, type[nn.Module]]:
    """Return the classes a file may name: those torch.nn defines, and one of slimgraph's own."""
    found = {
        name: value
        for name, value in vars(torch.nn).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and not issubclass(value, LazyModuleMixin)
        and value.__module__.startswith("torch.nn.modules.")
    }
    inner = torch.nn.modules.linear.NonDynamicallyQuantizableLinear  # in MultiheadAttention
    return MappingProxyType({**found, **{kind.__name__: kind for kind in (inner, TrainingMode)}})


def encode_modules(
    root: fx.GraphModule, packer: TensorPacker, identities: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Describe every module of a traced model, parents before children.

    Args:
        root: The traced model.
        packer: Takes the tensors.
        identities: Names of modules to write as `nn.Identity`.

    Raises:
        SlimgraphError: A module is no torch.nn class, or has state that is no data.
    """
    first_paths: dict[int, str] = {}
    described: list[dict[str, Any]] = []
    for path, module in _walk(root):
        if module is None:
            described.append({"path": path, "class": None})
        elif id(module) in first_paths:
            described.append({"path": path, "same_as": first_paths[id(module)]})
        else:
            first_paths[id(module)] = path
            own = nn.Identity().train(module.training) if path in identities else module
            described.append({"path": path, **_encode(path, own, packer)})
    return described


def _walk(root: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
    """Yield all modules under all their names, but what lies inside one only once."""
    pending: list[tuple[str, nn.Module | None]] = [("", root)]
    seen: set[int] = set()
    while pending:
        path, module = pending.pop()
        yield path, module
        if module is not None and id(module) not in seen:
            seen.add(id(module))
            children = vars(module)["_modules"].items()
            prefix = f"{path}." if path else ""
            pending += [(prefix + name, child) for name, child in reversed(children)]


def _encode(path: str, module: nn.Module, packer: TensorPacker) -> dict[str, Any]:
    is_root = path == ""
    where = f"module `{path}`" if path else "the model itself"
    name = _class_name(path, module)
    state = vars(module)
    if any(state.get(hooks) for hooks in _HOOKS):
        raise SlimgraphError(
            "hooks are code and cannot be saved", where, "remove the hooks from the module first"
        )
    check_shapes(path, module, SlimgraphError)
    persistent = state["_buffers"].keys() - state["_non_persistent_buffers_set"]
    prefix = f"{path}." if path else ""
    return {
        "class": name,
        "training": module.training,
        "attributes": {} if is_root else _encode_attributes(module, where),
        "parameters": {
            key: None if tensor is None else packer.add(prefix + key, tensor)
            for key, tensor in state["_parameters"].items()
        },
        "buffers": {
            key: [None if tensor is None else packer.add(prefix + key, tensor), key in persistent]
            for key, tensor in state["_buffers"].items()
        },
    }


def _class_name(path: str, module: nn.Module) -> str:
    kind = type(module)
    if path == "" or kind is nn.Module:
        return "Module"
    if module_classes().get(kind.__name__) is kind:
        return kind.__name__
    foreign = name_of_module(kind)
    if foreign is not None:
        return foreign
    hint = "trace the model without naming it in `leaves=[...]`"
    if hasattr(module, "parametrizations"):
        hint = "make it permanent with `torch.nn.utils.parametrize.remove_parametrizations`"
    raise SlimgraphError(
        f"module `{path}` cannot be saved: `{kind.__module__}.{kind.__name__}` is not a class "
        "of torch.nn",
        hint=hint,
    )


def _encode_attributes(module: nn.Module, where: str) -> dict[str, Any]:
    derived = _RNN_DERIVED if isinstance(module, RNNBase) else ()
    encoded = {}
    for name, value in vars(module).items():
        if name not in _OWN_STATE and name not in derived:
            encoded[name] = encode_value(value, f"{where}, attribute `{name}`")
    return encoded


def decode_modules(described: Any, tensors: TensorUnpacker) -> nn.Module:
    """Rebuild the modules.

    Args:
        described: What `encode_modules` returned, or what a hostile file holds instead.
        tensors: Where the tensors come from.

    Raises:
        MalformedError: No traced model has such modules.
    """
    made: dict[str, nn.Module | None] = {}
    if not isinstance(described, list):
        raise MalformedError("the list of modules is no list")
    for fields in described:
        path = fields.get("path") if isinstance(fields, dict) else None
        if not isinstance(path, str) or path in made:
            raise MalformedError(f"the module path {path!r} is none, or comes twice")
        try:
            module = _find_or_build(fields, made, tensors)
            if path:
                _attach(path, module, made)
        except Exception as error:  # a hostile file can make anything fail
            raise MalformedError(f"module `{path}`: {reason(error)}") from error
        made[path] = module
    root = made.get("")
    if root is None:
        raise MalformedError("the file has no modules")
    _count_paths(root, {})
    return root


def _find_or_build(
    fields: dict[str, Any], made: Mapping[str, nn.Module | None], tensors: TensorUnpacker
) -> nn.Module | None:
    if "same_as" in fields:
        other = made.get(fields["same_as"])
        if other is None:
            raise MalformedError(f"it is the same as {fields['same_as']!r}, which comes nowhere")
        return other
    return None if fields["class"] is None and fields["path"] else _build(fields, tensors)


def _count_paths(module: nn.Module, counts: dict[int, int]) -> int:
    """Count the names of all modules, which shared modules can multiply without end."""
    if counts.get(id(module)) == 0:
        raise MalformedError("a module contains itself")
    if id(module) not in counts:
        counts[id(module)] = 0  # being counted
        inside = [child for child in vars(module)["_modules"].values() if child is not None]
        counts[id(module)] = 1 + sum(_count_paths(child, counts) for child in inside)
    if counts[id(module)] > _PATH_LIMIT:
        raise MalformedError(f"the model has more than {_PATH_LIMIT} modules")
    return counts[id(module)]


def _attach(path: str, module: nn.Module | None, made: Mapping[str, nn.Module | None]) -> None:
    parent_path, _, name = path.rpartition(".")
    parent = made.get(parent_path)
    if parent is None or not is_path_part(name) or path.count(".") > _DEPTH_LIMIT:
        raise MalformedError(f"the module path {path!r} has no parent, or is no path")
    if parent is made[""] and name in _reserved_names():
        raise MalformedError(f"a module may not be called `{name}`")
    parent.add_module(name, module)


@cache
def _reserved_names() -> frozenset[str]:
    """Return the names that mean something on a GraphModule itself, such as `to_folder`."""
    return frozenset(dir(fx.GraphModule({}, fx.Graph())))


def _build(fields: dict[str, Any], tensors: TensorUnpacker) -> nn.Module:
    name = fields["class"]
    kind = nn.Module if name == "Module" else module_classes().get(name) or module_class(name)
    if kind is None:
        raise MalformedError(f"`{name}` is not a class of torch.nn")
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    module.training = fields["training"] is True
    for key, value in fields["attributes"].items():
        _check_attribute(kind, key)
        vars(module)[key] = decode_value(value, {})
    reserved = _reserved_names() if fields["path"] == "" else frozenset[str]()
    for key, number in fields["parameters"].items():
        _check_tensor_name(key, reserved)
        module.register_parameter(key, None if number is None else tensors.parameter(number))
    for key, (number, persistent) in fields["buffers"].items():
        _check_tensor_name(key, reserved)
        buffer = None if number is None else tensors.buffer(number)
        module.register_buffer(key, buffer, persistent=persistent is True)
    _finish(fields["path"], module)
    return module


def _check_attribute(kind: type[nn.Module], name: str) -> None:
    """Refuse attributes that would hide a method or the module's own bookkeeping."""
    meaning = getattr(kind, name, None)
    hides = callable(meaning) or isinstance(meaning, property)
    if not is_identifier(name) or name.startswith("__") or name in _OWN_STATE or hides:
        raise MalformedError(f"`{name}` may not be an attribute")


def _check_tensor_name(name: str, reserved: frozenset[str]) -> None:
    if not is_path_part(name) or name in reserved:
        raise MalformedError(f"`{name}` may not be a parameter or buffer")


def _finish(path: str, module: nn.Module) -> None:
    check_shapes(path, module, MalformedError)
    if isinstance(module, RNNBase):
        names = vars(module).get("_flat_weights_names")
        if not isinstance(names, list) or not set(names) <= set(vars(module)["_parameters"]):
            raise MalformedError("its weights have names that are no parameters")
        module._init_flat_weights()  # noqa: SLF001 - torch has no other way
