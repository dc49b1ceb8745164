"""Attention in its many spellings: heads and head-dims leave, and nothing else changes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare

WIDTH, HEADS, EACH = 12, 3, 4


def tokens(batch: int, length: int) -> Tensor:
    """Make a batch of sequences."""
    return torch.randn(batch, length, 5)


class Attending(Net):
    """A residual stream around one attention; subclasses say how it attends."""

    def parts(self) -> dict[str, Any]:
        return {
            "stem": nn.Linear(5, WIDTH),
            "norm": nn.LayerNorm(WIDTH),
            "proj": nn.Linear(WIDTH, WIDTH),
            "head": nn.Linear(WIDTH, 2),
            **self.more(),
        }

    def more(self) -> dict[str, Any]:
        return {"qkv": nn.Linear(WIDTH, 3 * WIDTH)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.proj(self.attend(self.norm(x)))
        return self.head(x)

    def attend(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Fused(Attending):
    """One matrix for queries, keys and values, taken apart after a reshape with literals."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, EACH).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * EACH**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).reshape(b, n, c)


class Scaled(Attending):
    """torch's own function, whose scale follows from the width of a head unless it is given."""

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            part.view(b, n, HEADS, c // HEADS).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Named(Attending):
    """Attention by einsum, with a bias per head from a table that an index spreads."""

    def more(self) -> dict[str, Any]:
        index = torch.arange(7)[:, None] - torch.arange(7)[None] + 6
        return {
            "q": nn.Linear(WIDTH, WIDTH),
            "k": nn.Linear(WIDTH, WIDTH, bias=False),
            "v": nn.Linear(WIDTH, WIDTH),
            "bias": bare(HEADS, 1, 1),
            "index": index,
        }

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (HEADS, -1)) for layer in (self.q, self.k, self.v))
        weights = torch.einsum("b i h d, b j h d -> b h i j", q, k) + self.bias
        return torch.einsum("bhij,bjhd->bihd", weights.softmax(-1), v).flatten(2)


class Prefixed(Attending):
    """Positions rotate all tokens but the first few, of which there are none."""

    prefix = 0

    def rotated(self, x: Tensor) -> Tensor:
        first, rest = x[:, :, : self.prefix], x[:, :, self.prefix :, :]
        return torch.cat([first, rest * torch.arange(rest.shape[2]).to(x)[:, None].cos()], dim=2)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, EACH)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v)
        return mixed.transpose(1, 2).flatten(2)


class Shared(Attending):
    """Grouped queries: two heads of queries share one of keys and values; rotated positions."""

    def more(self) -> dict[str, Any]:
        return {"q": nn.Linear(WIDTH, 16), "kv": nn.Linear(WIDTH, 16), "proj": nn.Linear(16, WIDTH)}

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1])
        cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
        one, two = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-two, one], dim=-1) * sin

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.rotated(self.q(x).view(b, n, 4, 4).transpose(1, 2))
        k, v = self.kv(x).view(b, n, 2, 2, 4).permute(2, 0, 3, 1, 4)
        k = self.rotated(k)[:, :, None].expand(b, 2, 2, n, 4).reshape(b, 4, n, 4)
        v = v.repeat_interleave(2, dim=1)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, 16)


class Talking(Attending):
    """Heads mix before and after the softmax, so queries and values have heads of their own."""

    def more(self) -> dict[str, Any]:
        return {
            "qkv": nn.Linear(WIDTH, 3 * WIDTH),
            "before": nn.Linear(HEADS, 4),
            "after": nn.Linear(4, HEADS),
        }

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, EACH)).movedim(2, 0)
        weights = torch.einsum("bihd,bjhd->bijh", q, k)
        weights = self.after(self.before(weights).softmax(2))
        return torch.einsum("bijh,bjhd->bihd", weights, v).flatten(2)


class Modules(Attending):
    """`nn.MultiheadAttention` on itself, with its weights asked for, and across two values."""

    def more(self) -> dict[str, Any]:
        return {
            "own": nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
            "across": nn.MultiheadAttention(WIDTH, HEADS, kdim=5, vdim=5, bias=False),
        }

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x))
        y = y + self.own(y, y, y)[0]
        other = x.transpose(0, 1)
        mask = torch.ones(x.shape[1], x.shape[1]).to(x).triu(1) > 0
        mixed, weights = self.across(y.transpose(0, 1), other, other, attn_mask=mask)
        return self.head(self.proj(y + mixed.transpose(0, 1))) * weights.mean()


class Products(Attending):
    """Matrices as bare parameters on either side, and added products."""

    def more(self) -> dict[str, Any]:
        return {"one": bare(WIDTH, 8), "two": bare(8, WIDTH), "shift": bare(8), "left": bare(6, 8)}

    def attend(self, x: Tensor) -> Tensor:
        wide = torch.relu(torch.addmm(self.shift, x.flatten(0, 1), self.one))
        turned = torch.matmul(self.left, wide.t()).t() @ self.left
        return torch.mm(wide + turned, self.two).view(x.shape)


class Neighbours(Attending):
    """Tokens mixed by a square matrix, twice: its rows end where its columns begin."""

    def more(self) -> dict[str, Any]:
        return {
            "adjacency": torch.rand(7, 7),
            "mid": nn.Linear(WIDTH, 6),
            "out": nn.Linear(6, WIDTH),
        }

    def attend(self, x: Tensor) -> Tensor:
        return self.out(self.adjacency @ torch.relu(self.mid(self.adjacency @ x)))


class OwnNorms(Attending):
    """Norms of every spelling: of each head, without scale, over space and channels, RMS."""

    def more(self) -> dict[str, Any]:
        return {
            "qkv": nn.Linear(WIDTH, 3 * WIDTH),
            "each": nn.LayerNorm(EACH),
            "rms": nn.RMSNorm(WIDTH),
            "plain": nn.LayerNorm((7, WIDTH), elementwise_affine=False),
        }

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.rms(x)).view(-1, 7, 3, HEADS, EACH).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.each(q), F.layer_norm(k, (EACH,)), v)
        return self.plain(mixed.transpose(1, 2).reshape(-1, 7, WIDTH))


class Rotary(Attending):
    """Positions turn pairs of channels, by a table that all heads share."""

    keys, each = 4, 4

    def more(self) -> dict[str, Any]:
        return {
            "q": nn.Linear(WIDTH, 4 * self.each),
            "k": nn.Linear(WIDTH, self.keys * self.each),
            "v": nn.Linear(WIDTH, self.keys * self.each),
            "proj": nn.Linear(4 * self.each, WIDTH),
            "turns": Turns(self.each),
            "scale": nn.RMSNorm(self.each),
        }

    def attend(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (m(x).view(b, n, -1, self.each).transpose(1, 2) for m in (self.q, self.k, self.v))
        q, k = self.turns(self.scale(q)), self.turns(k)
        k, v = (part.repeat_interleave(4 // self.keys, 1) for part in (k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)


class RotaryShared(Rotary):
    """Two heads of queries for each head of keys."""

    keys = 2


class Turns(nn.Module):
    """Turns the first half of every head by the second."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("speeds", 10.0 ** -torch.arange(0, 1, 2 / width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * self.speeds
        angles = torch.cat([angles, angles], -1)
        one, two = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-two, one], -1) * angles.sin()


ATTENTION = "scaled_dot_product_attention[heads]"


def example(make: type[Net], other: int | None = 9, **groups: int) -> Example:
    """Describe a net on sequences of 7."""
    found = {"stem": WIDTH, **groups}
    return Example(make, found, tokens, size=7, other=other, rest=True, keeps_zero=False)


EXAMPLES = {
    "fused attention": example(Fused, qkv=2 * WIDTH, **{"matmul[heads]": HEADS}),
    "torch's attention": example(Scaled, qkv=2 * WIDTH, **{ATTENTION: HEADS}),
    "attention by einsum": example(Named, q=WIDTH, v=WIDTH, **{"einsum[heads]": HEADS}),
    "no prefix": example(Prefixed, qkv=2 * WIDTH, **{ATTENTION: HEADS}),
    "grouped queries": example(Shared, q=10),
    "talking heads": example(
        Talking, qkv=2 * WIDTH, before=4, after=HEADS, **{"einsum[heads]": HEADS}
    ),
    "attention modules": example(
        Modules,
        proj=WIDTH,
        **{"own.in_proj_weight": 2 * WIDTH, "matmul[heads]": HEADS},
        **{"matmul_2[heads]": HEADS, "across.q_proj_weight": WIDTH, "across.v_proj_weight": WIDTH},
    ),
    "matrix products": example(Products, one=8, left=6, two=WIDTH),
    "neighbours": example(Neighbours, other=None, mid=6, out=WIDTH),
    "rotary": example(Rotary, q=2, v=16),
    "rotary with shared keys": example(RotaryShared, q=2, v=8),
    "norms of heads": example(OwnNorms, other=None, qkv=16),
}
