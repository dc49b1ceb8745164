"""Shapes without data: every node of a traced model knows the meta tensor it computes."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy as copy_deeply
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from slimgraph.errors import SlimgraphError, TraceError
from slimgraph.known_shapes import made_by_function, made_by_module, projected
from slimgraph.structures import map_tensors


def shallow(
    module: nn.Module,
    convert: Callable[[Tensor], Tensor] | None = None,
    memo: dict[int, nn.Module] | None = None,
) -> nn.Module:
    """Copy module objects without copying their tensors; hooks, flags and sharing stay.

    Args:
        module: The module; it is not changed.
        convert: Called on every parameter and buffer of the copy; `None` shares them.
        memo: Copies already made, by the identity of the module.

    Returns:
        A module of the same class; nothing done to its attributes, its hooks or its submodules
        touches `module`.
    """
    memo = {} if memo is None else memo
    if isinstance(module, torch.jit.ScriptModule):
        # Its state lies outside Python.
        return module if convert is None else copy_deeply(module)
    if id(module) in memo:
        return memo[id(module)]
    copy: nn.Module = object.__new__(type(module))
    memo[id(module)] = copy
    own = copy.__dict__
    own.update(module.__dict__)
    for name in _HELD:
        held = own.get(name)
        if held is not None:
            own[name] = held.copy() if held else type(held)()
    if convert is not None:
        for name in ("_parameters", "_buffers"):
            own[name] = {k: None if t is None else convert(t) for k, t in own[name].items()}
    own["_modules"] = {
        name: child if child is None else shallow(child, convert, memo)
        for name, child in module.__dict__["_modules"].items()
    }
    if isinstance(module, nn.RNNBase):  # it keeps a second list of its parameters
        own["_flat_weights"] = [own["_parameters"][name] for name in module._flat_weights_names]
    return copy


# What a module keeps in containers of its own.
_HOOKS = tuple(name for name in vars(fx.GraphModule({}, fx.Graph())) if name.endswith("_hooks"))
_HELD = ("_parameters", "_buffers", "_non_persistent_buffers_set", *_HOOKS)


def without_hooks(module: nn.Module) -> None:
    """Let a module of our own compute its forward and nothing else."""
    module._forward_hooks = OrderedDict()
    module._forward_pre_hooks = OrderedDict()


def to_meta(value: Any) -> Any:
    """Replace every tensor in a nested value by one of its shape and dtype without data."""
    if isinstance(value, Tensor):
        return value.to("meta")
    return map_tensors(lambda tensor: tensor.to("meta"), value)


def give(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Set what a new node is called with; `create_node` would look through it in Python first."""
    _SET_ARGS(node, args)
    if kwargs:
        _SET_KWARGS(node, kwargs)


# fx thinks about every attribute that is set; these are what it comes to.
_SET_ARGS, _SET_KWARGS = fx.Node.args.fset, fx.Node.kwargs.fset  # type: ignore[attr-defined]


def place(node: fx.Node) -> str:
    """Name a node and where the user's model makes it: `%add (resnet.py:93)`."""
    source = node.meta.get("source", "")
    return f"%{node.name} ({source})" if source else f"%{node.name}"


class MetaRunner:
    """Runs single nodes on meta tensors, on copies of the leaf modules in eval mode."""

    def __init__(self, root: nn.Module, device: torch.device) -> None:
        self.root = root
        self.device = device
        self.modules = modules_of(root)
        self._leaves: dict[str, nn.Module] = {}
        self.bare: set[str] = set()  # leaves whose hooks the graph contains

    def add(self, target: str, module: nn.Module) -> None:
        """Learn of a module that the root has got."""
        self.modules[target] = module

    def leaf(self, target: str) -> nn.Module:
        """Return the data-less twin of a leaf module."""
        if target not in self._leaves:
            twin = shallow(self.modules[target], lambda tensor: tensor.to("meta"))
            if target in self.bare:
                without_hooks(twin)
                vars(twin).pop("forward", None)  # the tracer's, while it runs the hooks
            self._leaves[target] = twin.eval()
        return self._leaves[target]

    def __call__(self, node: fx.Node) -> Any:
        """Return the value of a node whose inputs have theirs in `meta["val"]`."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
        try:
            known = self._known(node, args, kwargs)
            if known is not None:
                return known
            with torch.no_grad():
                return self._evaluate(node, args, kwargs)
        except SlimgraphError:
            raise
        except Exception as error:
            raise TraceError(
                f"the model fails here with {type(error).__name__}: {error}",
                place(node),
                "run the model on the example inputs itself; shapes and dtypes must fit",
            ) from error

    def _evaluate(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "get_attr":
            return to_meta(attribute(self.root, str(node.target)))
        if node.op == "output":
            return args[0]
        if node.target is getattr and args[1] == "device":
            return self.device
        if node.op == "call_module":
            return self._call(node, args, kwargs)
        function: Any = node.target
        if node.op == "call_method":
            function = getattr(type(args[0]), str(node.target))
        assert callable(function)
        return _run(function, args, kwargs)

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        from slimgraph.opaque import is_opaque, run_opaque

        module, twin = self.modules[str(node.target)], self.leaf(str(node.target))
        if is_opaque(module):
            return run_opaque(module, twin, self.device, (args, kwargs))
        _refuse_integers(node, module, args)
        return _run(twin, args, kwargs)

    def _known(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Return what common calls return, or `None`: only running the call tells."""
        if node.op != "call_module":
            return made_by_function(node.target, args, kwargs)
        module = self.modules[str(node.target)]
        if isinstance(module, nn.LSTM) and module.proj_size:
            return projected(module, args[0])
        return made_by_module(module, args, kwargs)


def _refuse_integers(node: fx.Node, leaf: nn.Module, args: Any) -> None:
    """Meta kernels do not check dtypes, so an integer image would pass unnoticed."""
    weight = getattr(leaf, "weight", None)
    if isinstance(leaf, nn.Embedding | nn.EmbeddingBag) or not isinstance(weight, Tensor):
        return
    for arg in args:
        if isinstance(arg, Tensor) and arg.dtype != weight.dtype and not arg.is_floating_point():
            kind = str(arg.dtype).removeprefix("torch.")
            raise TraceError(
                f"`{node.target}` computes in {str(weight.dtype).removeprefix('torch.')} "
                f"but gets {kind} values",
                place(node),
                "give floating-point example inputs of the model's dtype",
            )


def _run(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return to_meta(function(*args, **kwargs))
    except NotImplementedError:  # no meta kernel; the fake mode knows decompositions
        return _run_fake(function, args, kwargs)


def _run_fake(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake_args, fake_kwargs = tree_map(
            lambda leaf: mode.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf,
            (args, kwargs),
        )
        result = function(*fake_args, **fake_kwargs)
    return tree_map(
        lambda leaf: (
            torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
            if isinstance(leaf, Tensor)
            else leaf
        ),
        result,
    )


def modules_of(root: nn.Module) -> dict[str, nn.Module]:
    """Map every name of every module to it; `get_submodule` walks down from the root each time."""
    found = {"": root}

    def walk(children: dict[str, nn.Module | None], prefix: str) -> None:  # faster than generators
        for last, child in children.items():
            if child is not None:
                name = prefix + last
                found[name] = child
                if child._modules:
                    walk(child._modules, name + ".")

    walk(root._modules, "")
    return found


def names_of(stored: Mapping[str, Tensor]) -> dict[int, list[str]]:
    """Map the identity of every stored tensor to all its names."""
    names: dict[int, list[str]] = {}
    for name, tensor in stored.items():
        names.setdefault(id(tensor), []).append(name)
    return names


def stored_tensors(
    model: nn.Module, modules: Mapping[str, nn.Module] | None = None
) -> dict[str, Tensor]:
    """Map every name of every parameter and buffer to its tensor.

    Args:
        model: The model.
        modules: What `modules_of` says of it, if that is known.
    """
    stored: dict[str, Tensor] = {}
    modules = modules_of(model) if modules is None else modules
    for store in ("_parameters", "_buffers"):
        for owner, module in modules.items():
            own = vars(module)
            held = own[store] if store in own else _scripted(module, store)
            if held:
                prefix = owner + "." if owner else ""
                for name, tensor in held.items():
                    if tensor is not None:
                        stored[prefix + name] = tensor
    return stored


def _scripted(module: nn.Module, store: str) -> dict[str, Tensor | None]:
    """Return what a scripted module holds itself; its state lies outside Python."""
    listed: Any = getattr(module, f"named{store}")  # named_parameters, named_buffers
    return dict(listed(recurse=False))


def attribute(root: nn.Module, target: str) -> Any:
    """Look up a dotted attribute of a module: a parameter, buffer or constant tensor."""
    *path, name = target.split(".")
    for part in path:
        root = root._modules[part]  # type: ignore[assignment]  # thrice as fast as get_submodule
    held = vars(root).get("_parameters", {})  # a scripted module has its own
    return held[name] if name in held else getattr(root, name)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; the CPU if there is none."""
    return next((tensor.device for tensor in tensors_of(module)), torch.device("cpu"))


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield every parameter and buffer."""
    yield from module.parameters()
    yield from module.buffers()


def propagate(graph_module: fx.GraphModule, *example_inputs: Any) -> None:
    """Fill `node.meta["val"]` of every node from example inputs; no data is computed.

    Args:
        graph_module: The traced model; only the nodes' meta changes.
        example_inputs: One value per placeholder; tensors may be on any device.

    Raises:
        TraceError: A node cannot run on these shapes, or the number of inputs is wrong.
    """
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    values = list(example_inputs)
    values += [node.args[0] for node in placeholders[len(values) :] if node.args]
    if len(values) != len(placeholders):
        names = ", ".join(f"`{node.name}`" for node in placeholders)
        raise TraceError(
            f"the model takes {len(placeholders)} inputs ({names}), not {len(example_inputs)}",
            hint="give one example per input, in this order",
        )
    for node, value in zip(placeholders, values, strict=True):
        node.meta["val"] = to_meta(value)
    run = MetaRunner(graph_module, device_of(graph_module))
    for node in graph_module.graph.nodes:
        if node.op != "placeholder":
            node.meta["val"] = run(node)


def example_inputs(
    graph_module: fx.GraphModule, *, batch: int | None = None, seed: int = 0
) -> tuple[Any, ...]:
    """Make random inputs of the recorded shapes and dtypes on the model's device.

    Args:
        graph_module: A traced model.
        batch: Another size for the first dim of every input that shares the traced batch.
        seed: Of a private random generator.

    Returns:
        One value per placeholder, normal floats or zeros for integer dtypes.
    """
    values = [node.meta["val"] for node in graph_module.graph.nodes if node.op == "placeholder"]
    tensors = [value for value in values if isinstance(value, Tensor) and value.ndim]
    common = tensors[0].shape[0] if tensors else None

    def resized(value: Tensor) -> Tensor:
        if batch is None or not value.ndim or value.shape[0] != common:
            return value
        return value.new_empty((batch, *value.shape[1:]))

    sized = tuple(map_tensors(resized, value) for value in values)
    filled: tuple[Any, ...] = with_data(sized, device_of(graph_module), seed)
    return filled


def with_data(values: Any, device: torch.device, seed: int = 0) -> Any:
    """Fill tensors in a nested value: normal floats, or zeros for integer dtypes.

    Args:
        values: Tensors of which only shape and dtype count.
        device: Where the new ones lie.
        seed: Of a private random generator.
    """
    generator = torch.Generator().manual_seed(seed)

    def make(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator).to(device, value.dtype)
        return torch.zeros(value.shape, dtype=value.dtype, device=device)

    return map_tensors(make, values)
