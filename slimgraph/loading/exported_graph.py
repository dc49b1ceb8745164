"""From the JSON schema of `torch.export` to that of slimgraph's own files.

Nothing is trusted here and little is checked: the result goes through the decoder of slimgraph's
own files, which checks every name, function, shape and reference.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from slimgraph.loading.exported_archive import PickledPartError, dtype_name
from slimgraph.serialize.errors import MalformedError
from slimgraph.serialize.targets import find_function

_SCHEMA = 8  # its major number; others mean other things
# Checks on sizes that torch.export adds; they compute nothing.
_ASSERTIONS = (
    "torch.ops.aten._assert_scalar.default",
    "torch.ops.aten._assert_tensor_metadata.default",
    "torch.ops.aten._assert_async.msg",
    "torch.ops.aten.sym_constrain_range.default",
    "torch.ops.aten.sym_constrain_range_for_size.default",
)
_MEMORY_FORMATS = ("", "contiguous_format", "channels_last", "channels_last_3d", "preserve_format")
_STRIDED = 7
Json = dict[str, Any]


def program_nodes(program: Json) -> tuple[list[Json], dict[str, str]]:
    """Translate the graph of an exported program.

    Args:
        program: The parsed `models/model.json`.

    Returns:
        The nodes in slimgraph's schema, and the tensors they read by name: each a `parameter`, a
        `persistent` buffer or a `transient` one.

    Raises:
        MalformedError: It is no program of the schema.
        PickledPartError: Only torch's own loader can read it.
    """
    version = program["schema_version"]["major"]
    if version != _SCHEMA:
        raise PickledPartError(f"it has schema {version}, not {_SCHEMA}")
    graph = program["graph_module"]["graph"]
    signature = program["graph_module"]["signature"]
    nodes: list[Json] = []
    stored: dict[str, str] = {}
    for spec in signature["input_specs"]:
        nodes.extend(_input(spec, graph, stored))
    for call in graph["nodes"]:
        if call["target"] not in _ASSERTIONS:
            nodes.extend(_call(call))
    nodes.append(_output(program, graph, signature))
    return nodes, stored


def _node(name: Any, op: str, target: Any, args: list[Any], **more: Any) -> Json:
    empty: Json = {"name": name, "op": op, "target": target, "args": args, "kwargs": {}}
    return {**empty, "source": "", **more}


def _input(spec: Json, graph: Json, stored: dict[str, str]) -> Iterator[Json]:
    ((kind, fields),) = spec.items()
    if kind in ("parameter", "buffer", "tensor_constant"):
        target = fields[f"{kind}_name"]
        persistent = "persistent" if fields.get("persistent") is True else "transient"
        stored[target] = "parameter" if kind == "parameter" else persistent
        yield _node(fields["arg"]["name"], "get_attr", target, [])
    elif kind == "user_input" and "as_tensor" in fields["arg"]:
        name = fields["arg"]["as_tensor"]["name"]
        meta = graph["tensor_values"][name]
        shape = [_size(number) for number in meta["sizes"]]
        value = {"tensor": {"shape": shape, "dtype": dtype_name(meta["dtype"])}}
        yield _node(name, "placeholder", name, [], value=value)
    elif kind != "constant_input":  # those were folded into the graph
        raise PickledPartError(f"it has an input of kind `{kind}`")


def _size(number: Json) -> Any:
    if "as_int" in number:
        return number["as_int"]
    hint = number["as_expr"].get("hint")
    if not hint:
        raise MalformedError("an input has a size without an example")
    return hint["as_int"]


def _call(call: Json) -> Iterator[Json]:
    target, name = _function_name(call["target"]), call.get("name")
    function = find_function(target)
    schema = getattr(function, "_schema", None)
    given = {entry["name"]: _value(entry["arg"]) for entry in call["inputs"]}
    if schema is None:
        args, kwargs = [_value(entry["arg"]) for entry in call["inputs"]], dict[str, Any]()
    else:
        args, kwargs = _arrange(schema.arguments, given)
    outputs = _output_names(call["outputs"])
    if isinstance(outputs, str):
        name = outputs
    elif not name:
        raise PickledPartError("it was written by a torch that does not name all nodes")
    source = _source(call.get("metadata", {}).get("stack_trace", ""))
    yield _node(name, "call_function", target, args, kwargs=kwargs, source=source)
    for position, output in enumerate([] if isinstance(outputs, str) else outputs):
        if output is not None:
            pair = [{"node": name}, position]
            yield _node(output, "call_function", "operator.getitem", pair, source=source)


def _function_name(target: str) -> str:
    name = "operator." + target.removeprefix("_operator.") if target[:1] == "_" else target
    try:
        find_function(name)
    except MalformedError as error:
        raise PickledPartError(f"it calls `{target}`") from error
    return name


def _arrange(arguments: Any, given: Mapping[str, Any]) -> tuple[list[Any], Json]:
    """Put named arguments in the order of an op's schema, by position as far as that goes."""
    unknown = given.keys() - {argument.name for argument in arguments}
    if unknown:
        raise MalformedError(f"an op has no argument `{min(unknown)}`")
    args: list[Any] = []
    kwargs: Json = {}
    for position, argument in enumerate(arguments):
        if argument.name in given:
            if len(args) == position and not argument.kwarg_only:
                args.append(given[argument.name])
            else:
                kwargs[argument.name] = given[argument.name]
    return args, kwargs


def _output_names(outputs: list[Json]) -> str | list[str | None]:
    """Return the name of a node's value, or those of the values it is unpacked to."""
    found: list[str | None] = []
    for output in outputs:
        ((kind, content),) = output.items()
        if kind == "as_tensors":
            return [tensor["name"] for tensor in content]
        if kind == "as_none":
            found.append(None)
        else:
            found.append(content["name"] if kind == "as_tensor" else content["as_name"])
    return found[0] if len(found) == 1 and found[0] is not None else found


def _value(arg: Json) -> Any:
    ((kind, content),) = arg.items()
    if kind not in _VALUES:
        raise PickledPartError(f"it passes an argument of kind `{kind}`")
    return _VALUES[kind](content)


def _same(content: Any) -> Any:
    return content


def _float(content: Any) -> Any:
    number = float(content)
    return number if math.isfinite(number) else {"float": str(number)}


def _tensor(content: Json) -> Json:
    return {"node": content["name"]}


def _symbol(content: Json) -> Any:
    ((kind, value),) = content.items()
    return {"node": value} if kind == "as_name" else value


def _optional_tensor(content: Json) -> Any:
    return _tensor(content["as_tensor"]) if "as_tensor" in content else None


def _device(content: Json) -> Json:
    index = content.get("index")
    return {"device": content["type"] if index is None else f"{content['type']}:{index}"}


def _layout(content: Any) -> Json:
    if content != _STRIDED:
        raise PickledPartError("it holds sparse tensors")
    return {"layout": "strided"}


def _each(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda content: [one(item) for item in content]


_VALUES: Mapping[str, Callable[[Any], Any]] = {
    "as_none": lambda _: None,
    "as_int": _same,
    "as_bool": _same,
    "as_string": _same,
    "as_float": _float,
    "as_ints": _each(_same),
    "as_bools": _each(_same),
    "as_strings": _each(_same),
    "as_floats": _each(_float),
    "as_tensor": _tensor,
    "as_tensors": _each(_tensor),
    "as_optional_tensor": _optional_tensor,
    "as_optional_tensors": _each(_optional_tensor),
    "as_sym_int": _symbol,
    "as_sym_float": _symbol,
    "as_sym_bool": _symbol,
    "as_sym_ints": _each(_symbol),
    "as_sym_floats": _each(_symbol),
    "as_sym_bools": _each(_symbol),
    "as_scalar_type": lambda content: {"dtype": dtype_name(content)},
    "as_memory_format": lambda content: {"memory_format": _MEMORY_FORMATS[content]},
    "as_layout": _layout,
    "as_device": _device,
}


def _output(program: Json, graph: Json, signature: Json) -> Json:
    for spec in signature["output_specs"]:
        if list(spec) != ["user_output"]:
            raise PickledPartError(f"it changes its state: `{min(spec)}`")
    leaves = iter([_value(output) for output in graph["outputs"]])
    call = program["graph_module"]["module_call_graph"][0]
    _, spec = json.loads(call["signature"]["out_spec"])
    value = _unflatten(spec, leaves)
    if next(leaves, None) is not None:
        raise MalformedError("the graph has more outputs than it returns")
    return _node("output", "output", "output", [value])


def _unflatten(spec: Json, leaves: Iterator[Any], depth: int = 0) -> Any:
    """Rebuild the nesting of the output; named tuples become plain ones."""
    kind, children = spec["type"], spec["children_spec"]
    if depth > 32:
        raise MalformedError("the output is nested too deeply")
    if kind is None:
        return next(leaves)
    values = [_unflatten(child, leaves, depth + 1) for child in children]
    if kind == "builtins.list":
        return values
    if kind in ("builtins.dict", "collections.OrderedDict"):
        keys = json.loads(spec["context"])
        return {"dict": [[key, value] for key, value in zip(keys, values, strict=True)]}
    return {"tuple": values}


def _source(stack_trace: Any) -> str:
    """Find the innermost line of the model's own code in a stack trace."""
    lines = [line.strip() for line in str(stack_trace).splitlines()]
    frames = [line.split('"') for line in lines if line.startswith('File "')]
    own = [frame for frame in frames if len(frame) == 3 and "/torch/" not in frame[1]]
    if not own:
        return ""
    file, number = own[-1][1].rpartition("/")[2], own[-1][2].removeprefix(", line ")
    return f"{file}:{number.partition(',')[0]}"
