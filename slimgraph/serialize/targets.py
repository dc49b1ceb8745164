"""Which functions and methods a saved graph may call, and under which names.

A name in a file is only ever looked up in the tables below; nothing is imported or resolved
because a file says so. The tables hold what computes on tensors and numbers; what reads or writes
files, calls back, or reaches into memory is not in them.
"""

import builtins
import collections
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch.overrides import get_overridable_functions

from slimgraph.errors import SlimgraphError
from slimgraph.selection import select
from slimgraph.serialize.errors import MalformedError
from slimgraph.serialize.foreign import find_op, name_of_op

Function = Callable[..., Any]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# slimgraph's own functions that traced graphs may call, by the name they get in files.
HELPERS: Mapping[str, Function] = MappingProxyType({"slimgraph.selection.select": select})

_NUMBER_FUNCTIONS: Mapping[ModuleType, str] = {
    operator: "abs add and_ concat contains eq floordiv ge getitem gt iadd iand ifloordiv ilshift"
    " imatmul imod imul index inv invert ior ipow irshift is_ is_not isub itruediv ixor le lshift"
    " lt matmul mod mul ne neg not_ or_ pos pow rshift setitem sub truediv truth xor",
    math: "acos asin atan atan2 ceil copysign cos cosh degrees erf exp expm1 fabs floor fmod fsum"
    " gcd hypot isclose isfinite isinf isnan isqrt lcm ldexp log log10 log1p log2 pow prod radians"
    " remainder sin sinh sqrt tan tanh trunc",
    collections: "OrderedDict",
    builtins: "abs bool divmod float getattr int len max min pow round sum tuple",
}
_FACTORIES = (
    "_assert arange as_tensor broadcast_shapes empty eye finfo full full_like iinfo is_tensor"
    " linspace logspace ones rand rand_like randint randint_like randn randn_like randperm"
    " result_type scalar_tensor tensor tril_indices triu_indices zeros bartlett_window"
    " blackman_window hamming_window hann_window kaiser_window"
    " sym_float sym_int sym_max sym_min sym_not sym_sqrt"
    " alpha_dropout batch_norm dropout feature_alpha_dropout feature_dropout rrelu"
)
_ACTIVATIONS = (  # torch.overrides leaves these out because they only call other functions
    "celu_ elu_ hardsigmoid hardswish hardtanh_ leaky_relu_ relu_ rrelu_ selu_ sigmoid tanh"
    " threshold_ upsample upsample_bilinear upsample_nearest"
)
_NAMESPACES: Mapping[str, ModuleType] = {
    "torch": torch,
    "torch.nn.functional": torch.nn.functional,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
    "torch.special": torch.special,
}
_LISTED: Mapping[ModuleType, str] = {
    torch: _FACTORIES,
    torch.nn.functional: _ACTIVATIONS,
    **_NUMBER_FUNCTIONS,
}
_MORE_METHODS = "new_empty new_full new_ones new_tensor new_zeros to_dense unflatten"
_UNSAFE_METHODS = _words(
    "apply_ backward const_data_ptr data_ptr is_set_to is_shared map2_ map_ module_load numpy"
    " pin_memory record_stream register_hook register_post_accumulate_grad_hook resize resize_"
    " resize_as resize_as_ resize_as_sparse_ retain_grad set_ share_memory_ sparse_resize_"
    " sparse_resize_and_clear_ storage storage_type tolist type untyped_storage"
)
_ATTRIBUTES = _words(
    "H T data device dtype eps imag indices is_cpu is_cuda is_floating_point is_meta is_quantized"
    " is_sparse itemsize layout max mH mT min nbytes ndim real requires_grad shape"
    " smallest_normal tiny type values"
)
_ATEN = re.compile(r"torch\.ops\.aten\.([A-Za-z0-9]\w*|_\w+)\.(\w+)", re.ASCII)
_PRIVATE_ATEN = _words(
    "_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata"
    " _conj _convolution _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training"
    " _prelu_kernel _safe_softmax _softmax _stack _to_copy _trilinear _unsafe_view"
    " _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d"
    " _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm"
)
_ATEN_VALUES = frozenset({"Tensor", "List[Tensor]", "int", "bool", "float", "number"})


def function_name(function: Any, where: str) -> str:
    """Return the name a function has in files.

    Raises:
        SlimgraphError: It is none of those a saved graph may call.
    """
    if isinstance(function, torch._ops.OpOverload):
        name = f"torch.ops.{function}"
        if _ATEN.fullmatch(name) and _is_pure(function):
            return name
    elif function in _names():
        return _names()[function]
    foreign = name_of_op(function)
    if foreign is not None:
        return foreign
    shown = getattr(function, "__module__", None), getattr(function, "__qualname__", repr(function))
    raise SlimgraphError(
        f"the function `{'.'.join(part for part in shown if part)}` cannot be saved",
        where,
        "trace the model with `slimgraph.trace`, which looks inside such functions; a saved model "
        "may only call torch, `operator` and `math`",
    )


def find_function(name: Any) -> Function:
    """Return the function a file names.

    Raises:
        MalformedError: A saved graph may not call it.
    """
    if not isinstance(name, str):
        raise MalformedError("a function without a name")
    aten = _ATEN.fullmatch(name)
    function = _find_aten(aten[1], aten[2]) if aten else functions().get(name) or find_op(name)
    if function is None:
        raise MalformedError(f"the function `{name}` may not be called by a saved model")
    return function


def check_call(function: Function, args: Any, kwargs: Any) -> None:
    """Refuse `getattr` of anything but a plain fact about a value.

    Raises:
        MalformedError: It asks for another attribute.
    """
    if function is not getattr:
        return
    name = args[1] if len(args) == 2 and not kwargs else None
    if not isinstance(name, str) or name not in _ATTRIBUTES:
        raise MalformedError(f"the attribute {name!r} may not be read by a saved model")


@cache
def functions() -> Mapping[str, Function]:
    """Return every function a saved graph may call but ATen's overloads, by name."""
    overridable = _overridable()
    table: dict[str, Function] = dict(HELPERS)
    for prefix, namespace in _NAMESPACES.items():
        for name, function in vars(namespace).items():
            plain = vars(namespace).get(name.removesuffix("_"))  # of `relu_`: `relu`
            if not name.startswith("_") and _is_listed(plain, overridable):
                table[f"{prefix}.{name}"] = function
    for module, names in _LISTED.items():
        for name in names.split():
            if hasattr(module, name):  # not every version of torch has all of them
                table[f"{module.__name__}.{name}"] = getattr(module, name)
    return MappingProxyType(table)


@cache
def methods() -> frozenset[str]:
    """Return the names of the tensor methods a saved graph may call."""
    found = {
        getattr(function, "__name__", "_")
        for namespace, listed in _overridable_by_namespace().items()
        if namespace is torch.Tensor
        for function in listed
    }
    public = {name for name in found if not name.startswith("_")}
    return frozenset(public | set(_MORE_METHODS.split())) - _UNSAFE_METHODS


@cache
def _names() -> Mapping[Function, str]:
    table: dict[Function, str] = {}
    for name, function in functions().items():
        table.setdefault(function, name)
    return table


@cache
def _overridable_by_namespace() -> Mapping[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch touches its own deprecated functions here
        found: Mapping[Any, Any] = get_overridable_functions()
    return found


def _overridable() -> set[int]:
    return {id(function) for listed in _overridable_by_namespace().values() for function in listed}


def _is_listed(function: Any, overridable: set[int]) -> bool:
    return callable(function) and not isinstance(function, type) and id(function) in overridable


def _find_aten(packet: str, overload: str) -> Function | None:
    found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload) or not _is_pure(found):
        return None
    function: Function = found
    return function


def _is_pure(overload: Any) -> bool:
    """Tell whether an ATen op only maps tensors and numbers to tensors and numbers."""
    schema = overload._schema
    name = schema.name.removeprefix("aten::")
    if name.startswith(("set", "resize", "from_file")):
        return False
    if name.startswith("_") and name not in _PRIVATE_ATEN:
        return False
    asserts = name.startswith(("_assert", "sym_constrain_range"))
    returned = [str(result.type) for result in schema.returns]
    taken = [str(argument.type) for argument in schema.arguments]
    return (
        (bool(returned) or asserts)
        and set(returned) <= _ATEN_VALUES
        and any("Tensor" in kind for kind in (*taken, *returned))
        and not any("Storage" in kind or "Stream" in kind for kind in taken)
    )
