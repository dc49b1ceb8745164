"""Opaque leaves: what a submodule returns that cannot be traced, and often not run without data."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slimgraph.errors import TraceError
from slimgraph.modes import TrainingMode
from slimgraph.shapes import shallow, tensors_of, to_meta
from slimgraph.structures import leaves, map_tensors

# Their results are as long as the data says; torch does not tag ops of other libraries.
_UNTAGGED = frozenset({"torchvision::nms", "torchvision::_nms"})
_PICKS = frozenset({"aten::index", "aten::index_select", "aten::gather", "aten::take"})
_PLAIN = (Tensor, int, float, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def is_opaque(module: nn.Module) -> bool:
    """Return whether a leaf is somebody's own code, of which nothing is known."""
    if isinstance(module, TrainingMode):
        return False
    scripted = isinstance(module, torch.jit.ScriptModule)
    return scripted or not type(module).__module__.startswith("torch.")


def passes_through(module: nn.Module, given: Any) -> bool:
    """Return whether somebody's own module returns its one tensor as it is in eval mode.

    So do those that act in training only, such as DropPath and StochasticDepth.

    Args:
        module: A leaf.
        given: The shape and dtype of its input, without data.
    """
    if isinstance(module, torch.jit.ScriptModule) or not is_opaque(module):
        return False
    if any((module._parameters, module._buffers, module._modules)):
        return False
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    twin = shallow(module).eval()
    larger = given.new_empty([size + 1 for size in given.shape])
    try:
        return all(twin(tensor) is tensor for tensor in (given, larger))
    except Exception:  # it may raise anything where it meets no data
        return False


def run_opaque(
    module: nn.Module, twin: nn.Module, device: torch.device, arguments: tuple[Any, Any]
) -> Any:
    """Run somebody's own module without data if it can be, else on data.

    Args:
        module: The module.
        twin: A copy of it without data.
        device: Where data is made, if it has to be.
        arguments: Its arguments by position and by name, without data.
    """
    args, kwargs = arguments
    try:
        result = to_meta(twin(*args, **kwargs))
    except Exception:  # it may raise anything where it meets no data
        result = run_on_data(module, device, args, kwargs)
    check_result(module, result)
    return result


def run_on_data(module: nn.Module, device: torch.device, args: Any, kwargs: Any) -> Any:
    """Run a copy of a module twice on random data, to learn the shapes of what it returns.

    Args:
        module: The leaf; nothing in it changes.
        device: Where the data is made.
        args: Meta tensors and plain values.
        kwargs: The same by name.

    Returns:
        Its result, without data.

    Raises:
        TraceError: The sizes of the result depend on the data.
        Exception: What the module itself raises.
    """
    if isinstance(module, torch.jit.ScriptModule):  # it keeps its data even among meta tensors
        device = next((tensor.device for tensor in tensors_of(module)), device)
    found = [_run(module, device, args, kwargs, seed) for seed in (0, 1)]
    shapes = [[tuple(t.shape) if isinstance(t, Tensor) else t for t in leaves(x)] for x, _ in found]
    if shapes[0] != shapes[1] or any(dynamic for _, dynamic in found):
        raise TraceError(
            f"the sizes of what `{type(module).__name__}` returns depend on the data",
            hint="keep the module that calls it whole as well, with `leaves=[...]`",
        )
    return found[0][0]


def check_result(module: nn.Module, result: Any) -> None:
    """Refuse results that the graph could not hand on.

    Raises:
        TraceError: There is an object in it that is no tensor and no plain value.
    """
    for leaf in leaves(result):
        if not isinstance(leaf, _PLAIN):
            raise TraceError(
                f"`{type(module).__name__}` returns a `{type(leaf).__name__}`, which is no tensor",
                hint="keep the module that calls it whole as well, with `leaves=[...]`",
            )


def _run(
    module: nn.Module, device: torch.device, args: Any, kwargs: Any, seed: int
) -> tuple[Any, bool]:
    scripted = isinstance(module, torch.jit.ScriptModule)  # what it would change is its own
    twin = (deepcopy(module) if scripted else shallow(module)).eval()
    for part in twin.modules():
        if part is not module and not isinstance(part, torch.jit.ScriptModule):
            held = vars(part).get("_buffers", {})
            held.update({k: b.clone() for k, b in held.items() if b is not None})
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _Sizes() as sizes:
        torch.manual_seed(seed)
        given = map_tensors(lambda tensor: _data(tensor, device), (args, kwargs))
        result = twin(*given[0], **given[1])
    dynamic = any(id(leaf) in sizes.marked for leaf in leaves(result))
    return to_meta(result), dynamic


def _data(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, device=device).to(tensor.dtype)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)


class _Sizes(TorchDispatchMode):
    """Marks tensors whose sizes depend on data, and what is computed from them.

    What is as large as an unmarked operand (a result scattered into zeros) is not marked.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.marked: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func._schema.name
        dirty = any(id(tensor) in self.marked for tensor in given)
        dynamic = _is_dynamic(func, given) or (dirty and name in _PICKS)
        sizes = {tuple(tensor.shape) for tensor in given if id(tensor) not in self.marked}
        for tensor in tree_leaves(result):
            sized = isinstance(tensor, Tensor) and tensor.ndim > 0
            if sized and (dynamic or (dirty and tuple(tensor.shape) not in sizes)):
                self.marked[id(tensor)] = tensor
        return result


def _is_dynamic(func: Any, given: list[Tensor]) -> bool:
    if func._schema.name in _UNTAGGED:
        return True
    if func._schema.name == "aten::index":
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in given[1:])
    return torch.Tag.dynamic_output_shape in func.tags
