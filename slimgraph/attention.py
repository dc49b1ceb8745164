"""Multi-head attention in plain ops: what a trace records instead of the module as a whole.

The module slices its weights and counts its heads inside, where no channel could leave.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimgraph.modes import chosen


def can_attend(module: nn.Module) -> bool:
    """Return whether `attend` computes what a module does."""
    return (
        type(module) is nn.MultiheadAttention
        and module.bias_k is None
        and not module.add_zero_attn
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not hasattr(module, "parametrizations")
    )


def attend(module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Compute what `nn.MultiheadAttention.forward` computes.

    Args:
        module: Its weights are read through attributes, so that a tracer sees them.
        *args: As its forward takes them: query of shape (L, N, E), (N, L, E) with `batch_first`,
            or (L, E), key and value with S in the place of L, and its options.
        **kwargs: The same by name.

    Returns:
        The output, of the query's shape, and the weights or `None`.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.2.
    """
    bound = inspect.signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    query, need_weights = given["query"], given["need_weights"]
    heads, width = module.num_heads, module.head_dim
    parts = [
        part.unflatten(-1, (heads, width))
        for part in _projected(module, query, given["key"], given["value"])
    ]
    batch_first = module.batch_first or query.dim() == 2
    q, k, v = (_heads_first(part, batch_first=batch_first) for part in parts)
    mask = _mask(q, given["key_padding_mask"], given["attn_mask"])
    if need_weights:
        scores = (q * width**-0.5) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        if module.dropout:
            weights = F.dropout(weights, module.dropout, module.training)
        mixed = weights @ v
    else:
        dropout = chosen(module.training, module.dropout, 0.0) if module.dropout else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    order = {3: (1, 0, 2), 4: (0, 2, 1, 3) if batch_first else (2, 0, 1, 3)}[mixed.dim()]
    output = module.out_proj(mixed.permute(order).flatten(-2))
    if not need_weights:
        return output, None
    return output, weights.mean(-3) if given["average_attn_weights"] else weights


def _projected(
    module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, ...]:
    """Project queries, keys and values; a packed matrix is used whole where one value is all."""
    bias = module.in_proj_bias
    if module.in_proj_weight is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    elif query is key and key is value:
        return F.linear(query, module.in_proj_weight, bias).chunk(3, -1)
    else:
        weights = module.in_proj_weight.chunk(3)
    biases = (None, None, None) if bias is None else bias.chunk(3)
    given = zip((query, key, value), weights, biases, strict=True)
    return tuple(F.linear(*each) for each in given)


def _heads_first(part: Tensor, *, batch_first: bool) -> Tensor:
    """Bring (..., heads, width) to (batch, heads, length, width)."""
    if part.dim() == 3:
        return part.transpose(0, 1)
    return part.permute(0, 2, 1, 3) if batch_first else part.permute(1, 2, 0, 3)


def _mask(
    query: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
) -> Tensor | None:
    """Add up both masks as numbers that broadcast to (batch, heads, L, S)."""
    found = None
    if attn_mask is not None:
        found = _as_numbers(attn_mask, query)
        if found.dim() == 3 and query.dim() == 4:
            found = found.unflatten(0, (-1, query.shape[1]))
    if key_padding_mask is not None:
        padding = _as_numbers(key_padding_mask, query)[..., None, None, :]
        found = padding if found is None else found + padding
    return found


def _as_numbers(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
