"""What common calls make, by rule: on meta tensors torch runs many of them as slow Python.

A rule answers only where all is plain (a contiguous floating-point tensor of the right rank and
dtype, no hooks, sizes that fit); it says `None` to everything else, and then the call is run.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def made_by_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a module makes of data-less arguments, or `None`: only running it tells."""
    rule = _MODULES.get(type(module))
    if rule is None or len(args) != 1 or kwargs or not _is_plain(args[0]):
        return None
    if module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module):
        return None
    dtype = args[0].dtype
    for parameter in module._parameters.values():
        if parameter is not None and parameter.dtype != dtype:
            return None
    return rule(module, args[0])


def made_by_function(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a function or method makes of data-less arguments, or `None`."""
    rule = _FUNCTIONS.get(target)
    if rule is None or not args:
        return None
    if target not in _JOINS and not _is_plain(args[0]):
        return None
    try:
        made = rule(*args, **kwargs)
    except TypeError:  # given in another way than the rule knows
        return None
    in_place = target in (operator.iadd, operator.imul)
    return None if in_place and made is not None and made.shape != args[0].shape else made


def projected(lstm: nn.LSTM, input: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return what an LSTM with projections makes; torch's meta kernel does not know them."""
    directions = 2 if lstm.bidirectional else 1
    batch = input.shape[:1] if lstm.batch_first else input.shape[1:2]
    rows = (lstm.num_layers * directions, *(batch if input.ndim > 2 else ()))
    return (
        _empty(input, (*input.shape[:-1], directions * lstm.proj_size)),
        (_empty(input, (*rows, lstm.proj_size)), _empty(input, (*rows, lstm.hidden_size))),
    )


_EMPTY = torch.empty  # while a model is traced, `torch.empty` records calls


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Make a data-less contiguous tensor; `Tensor.new_empty` is Python there."""
    return _EMPTY(shape, dtype=like.dtype, device="meta")


def _is_image(value: Tensor) -> bool:
    """Return whether a tensor is contiguous, or its channels lie last in memory."""
    if value.is_contiguous():
        return True
    return value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last)


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and value.is_floating_point()


def _same_numbers(input: Tensor, *rest: Any, **options: Any) -> Tensor | None:
    """Return what a point-wise function makes that gets nothing but settings besides."""
    plain = all(isinstance(value, bool | int | float) for value in (*rest, *options.values()))
    return input.detach() if plain and input.is_contiguous() else None


def _joined(tensors: Sequence[Any], dim: int = 0) -> Tensor | None:
    """Return the concatenation of tensors that plainly fit."""
    first = tensors[0]
    if not isinstance(first, Tensor) or not -first.ndim <= dim < first.ndim:
        return None
    if not all(tensor.is_contiguous() for tensor in tensors):
        return None
    if len({(t.dtype, t.shape[:dim], t.shape[dim:][1:]) for t in tensors}) > 1:
        return None
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return _empty(first, shape)


def _combined(first: Tensor, other: Any = None, *rest: Any) -> Tensor | None:
    """Return what arithmetic makes of a tensor and one of its dtype, or a plain number."""
    if rest or not isinstance(other, Tensor):
        return first.detach() if not rest and type(other) in (int, float) else None
    if other.dtype != first.dtype:
        return None
    if (other.shape, other.stride()) == (first.shape, first.stride()):
        return first.detach()
    small, large = sorted((first, other), key=Tensor.numel)
    at_most_one = sum(n > 1 for n in small.shape) <= 1  # so it says nothing of the order of dims
    if at_most_one and _is_image(large) and _spreads(small.shape, large.shape):
        return large.detach()
    if first.ndim != other.ndim or not (first.is_contiguous() and other.is_contiguous()):
        return None
    pairs = list(zip(first.shape, other.shape, strict=True))
    fits = all(one == two or 1 in (one, two) for one, two in pairs)
    return _empty(first, [two if one == 1 else one for one, two in pairs]) if fits else None


def _spreads(small: Sequence[int], large: Sequence[int]) -> bool:
    pairs = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(one in (1, two) for one, two in pairs)


def _mean(input: Tensor, dim: Any = None, keepdim: Any = None) -> Tensor | None:
    dims = [dim] if isinstance(dim, int) else dim
    if not isinstance(dims, list | tuple) or not all(type(d) is int for d in dims):
        return None
    gone = {d % max(input.ndim, 1) for d in dims}
    if not dims or len(gone) < len(dims) or not all(-input.ndim <= d < input.ndim for d in dims):
        return None
    if not input.is_contiguous():
        return None
    if keepdim:
        return _empty(input, [1 if d in gone else n for d, n in enumerate(input.shape)])
    return _empty(input, [n for d, n in enumerate(input.shape) if d not in gone])


def _resized(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    *,
    recompute_scale_factor: Any = None,
    antialias: Any = False,
) -> Tensor | None:
    """Return what resizing an image to a given size makes."""
    sizes = size if isinstance(size, list | tuple) else ()
    smooth = mode in ("bilinear", "bicubic")
    fits = smooth or (mode == "nearest" and align_corners is None)
    if not fits or scale_factor is not None or recompute_scale_factor or antialias:
        return None
    if input.ndim != 4:
        return None
    if len(sizes) != 2 or not all(type(n) is int and n > 0 for n in sizes):
        return None
    return _empty(input, (*input.shape[:2], *sizes)) if input.is_contiguous() else None


def _same(_: nn.Module, input: Tensor) -> Tensor:
    return input.detach()


def _batch_norm(*ranks: int) -> Callable[[nn.Module, Tensor], Tensor | None]:
    def rule(module: nn.Module, input: Tensor) -> Tensor | None:
        if input.ndim not in ranks or not _is_image(input):
            return None
        expected, dtype = input.shape[1:2], input.dtype
        for held in (*module._parameters.values(), *module._buffers.values()):
            if held is not None and held.ndim and (held.shape != expected or held.dtype != dtype):
                return None
        return input.detach()

    return rule


def _layer_norm(module: Any, input: Tensor) -> Tensor | None:
    return _normalized(input, module.normalized_shape, *module._parameters.values())


def _normalized(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **_: Any,
) -> Tensor | None:
    """Return what `layer_norm` makes, contiguous whatever its input is."""
    sizes = normalized_shape
    if not isinstance(sizes, list | tuple) or tuple(input.shape[-len(sizes) :]) != tuple(sizes):
        return None
    held = [t for t in (weight, bias) if t is not None]
    if any(tuple(t.shape) != tuple(sizes) or t.dtype != input.dtype for t in held):
        return None
    return _empty(input, input.shape)


def _linear(module: Any, input: Tensor) -> Tensor | None:
    return _multiplied(input, module._parameters["weight"], module._parameters["bias"])


def _multiplied(input: Tensor, weight: Any, bias: Any = None) -> Tensor | None:
    """Return what a linear layer makes, contiguous whatever its input is."""
    if not isinstance(weight, Tensor) or weight.ndim != 2 or input.ndim < 2:
        return None
    if input.shape[-1] != weight.shape[1] or weight.dtype != input.dtype:
        return None
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != input.dtype):
        return None
    return _empty(input, (*input.shape[:-1], len(weight)))


def _attended(query: Tensor, key: Any, value: Any, attn_mask: Any = None, **rest: Any) -> Any:
    """Return what attention makes of queries, keys and values of as many heads, unmasked."""
    three = (query, key, value)
    if attn_mask is not None or query.ndim != 4 or any(rest.values()):
        return None
    if any(x.ndim != 4 or x.shape[:2] != query.shape[:2] or x.dtype != query.dtype for x in three):
        return None
    if key.shape[2] != value.shape[2] or key.shape[3] != query.shape[3]:
        return None
    return _empty(query, (*query.shape[:3], value.shape[3]))


def _convolution(module: Any, input: Tensor) -> Tensor | None:
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    if weight is None or not _fits(weight, bias, module.groups, input):
        return None
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    settings = (weight.shape[2:], module.stride, module.padding, module.dilation)
    return _slid(input, len(weight), *settings)


def _fits(weight: Tensor, bias: Tensor | None, groups: int, input: Tensor) -> bool:
    """Return whether a convolution takes what it gets, and nothing is laid out strangely."""
    if not (input.ndim == weight.ndim and _is_image(input) and weight.is_contiguous()):
        return False
    if input.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        return False
    return bias is None or bias.shape == weight.shape[:1]


def _slid(
    input: Tensor,
    channels: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    partly: bool = False,
) -> Tensor | None:
    """Return what a window makes that slides over all dims behind the channels.

    Args:
        input: It slides over.
        channels: Of the result.
        kernel: Sizes of the window; what follows is said per dim, too.
        stride: Of its steps.
        padding: On both sides.
        dilation: Of the window.
        partly: Whether the last window may stand over the edge.
    """
    sizes = []
    for n, k, s, p, d in zip(input.shape[2:], kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        size = (-(-room // s) if partly else room // s) + 1
        sizes.append(size - 1 if partly and (size - 1) * s >= n + p else size)
    if min(sizes) <= 0:
        return None
    kind = torch.contiguous_format if input.is_contiguous() else torch.channels_last
    shape = (len(input), channels, *sizes)
    return _EMPTY(shape, dtype=input.dtype, device="meta", memory_format=kind)


def _pool(ndim: int) -> Callable[[Any, Tensor], Tensor | None]:
    def rule(module: Any, input: Tensor) -> Tensor | None:
        if input.ndim != ndim or not _is_image(input) or getattr(module, "return_indices", False):
            return None
        dilation = getattr(module, "dilation", 1)
        settings = [
            (x,) * (ndim - 2) if isinstance(x, int) else tuple(x)
            for x in (module.kernel_size, module.stride, module.padding, dilation)
        ]
        if any(2 * p > k for k, p in zip(settings[0], settings[2], strict=True)):
            return None
        return _slid(input, input.shape[1], *settings, partly=module.ceil_mode)

    return rule


def _adaptive(input: Tensor, output_size: Any) -> Tensor | None:
    count = input.ndim - 2
    sizes = (output_size,) * count if isinstance(output_size, int) else output_size
    if not isinstance(sizes, list | tuple) or len(sizes) != count or not _is_image(input):
        return None
    if not all(n is None or type(n) is int for n in sizes):
        return None
    new = [n if size is None else size for n, size in zip(input.shape[2:], sizes, strict=True)]
    kind = torch.contiguous_format if input.is_contiguous() else torch.channels_last
    shape = (*input.shape[:2], *new)
    return _EMPTY(shape, dtype=input.dtype, device="meta", memory_format=kind)


def _adaptive_pool(ndim: int) -> Callable[[Any, Tensor], Tensor | None]:
    return lambda module, input: (
        _adaptive(input, module.output_size) if input.ndim == ndim else None
    )


_MODULES: dict[type[nn.Module], Callable[[Any, Tensor], Tensor | None]] = {
    **dict.fromkeys(
        (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Tanh,
         nn.Dropout, nn.Dropout2d, nn.Identity),
        _same,
    ),
    nn.BatchNorm1d: _batch_norm(2, 3),
    nn.BatchNorm2d: _batch_norm(4),
    nn.BatchNorm3d: _batch_norm(5),
    nn.LayerNorm: _layer_norm,
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    nn.modules.linear.NonDynamicallyQuantizableLinear: _linear,
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d), _pool(4)),
    **dict.fromkeys((nn.MaxPool3d, nn.AvgPool3d), _pool(5)),
    nn.AdaptiveAvgPool2d: _adaptive_pool(4),
    nn.AdaptiveAvgPool3d: _adaptive_pool(5),
}  # fmt: skip
_JOINS = frozenset({torch.cat, torch.concat, torch.concatenate})
_FUNCTIONS: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys(_JOINS, _joined),
    **dict.fromkeys(
        (operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add,
         torch.mul),
        _combined,
    ),
    **dict.fromkeys(
        (F.relu, torch.relu, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.sigmoid,
         torch.sigmoid, torch.tanh, F.dropout, "sigmoid", "relu", "contiguous"),
        _same_numbers,
    ),
    "mean": _mean,
    torch.mean: _mean,
    F.layer_norm: _normalized,
    F.linear: _multiplied,
    F.scaled_dot_product_attention: _attended,
    F.interpolate: _resized,
    F.adaptive_avg_pool2d: lambda input, output_size: (
        _adaptive(input, output_size) if input.ndim == 4 else None
    ),
}  # fmt: skip
