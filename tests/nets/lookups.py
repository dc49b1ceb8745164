"""Tables and positions: embeddings, indexing by tensors, learned positions, created values."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare, conv


def words(batch: int, size: int) -> Tensor:
    """Make a batch of rows of word numbers below ten."""
    return torch.arange(batch * size).view(batch, size) % 10


def tokens(batch: int, size: int) -> Tensor:
    """Make a batch of rows of vectors."""
    return torch.randn(batch, size, 5)


class Embedded(Net):
    """The entries of the vectors are channels, the vocabulary stays."""

    def parts(self) -> dict[str, Any]:
        return {"words": nn.Embedding(10, 8, padding_idx=0), "table": bare(10, 8),
                "mid": nn.Linear(8, 6), "head": nn.Linear(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(self.words(x) + F.embedding(x, self.table))))


class Bag(Net):
    def parts(self) -> dict[str, Any]:
        return {"bag": nn.EmbeddingBag(10, 8), "mid": nn.Linear(8, 6), "head": nn.Linear(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.mid(self.bag(x))))


class TiedHead(Net):
    """One weight is the embedding and the last layer; and another, whose outputs go on."""

    def parts(self) -> dict[str, Any]:
        words = nn.Embedding(10, 8)
        head = nn.Linear(8, 10, bias=False)
        head.weight = words.weight
        return {"words": words, "up": nn.Linear(8, 6), "down": nn.Linear(6, 8), "head": head,
                "last": nn.Linear(10, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        return self.last(F.relu(self.head(x + self.down(F.relu(self.up(x))))))


class OneHot(Net):
    """The positions of a one-hot vector mean words, so what reads them stays."""

    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(10, 6), "head": nn.Linear(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.first(F.one_hot(x, 10).to(self.head.weight.dtype))))


class Positions(Net):
    """Learned positions: sliced, looked up by number, resized, read from a buffer."""

    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 8), "sliced": bare(1, 12, 8), "numbered": nn.Embedding(12, 8),
                "waves": torch.zeros(12, 1, 8), "cls": bare(1, 1, 8), "mid": nn.Linear(8, 6),
                "head": nn.Linear(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), self.first(x)], 1)
        length = x.shape[1]
        x = x + self.sliced[:, :length] + self.numbered(torch.arange(length))
        return self.head(F.relu(self.mid(x + self.waves[: x.size(1), 0])))


class ResizedPositions(Net):
    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "place": bare(1, 8, 4, 4), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        place = F.interpolate(self.place, size=x.shape[2:], mode="bilinear")
        return self.head(F.relu(self.stem(x) + place))


class BiasTable(Net):
    """Rows of a table are looked up by a buffer of positions, as in windowed attention."""

    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 8), "table": bare(7, 8),
                "index": torch.tensor([[0, 2, 1], [1, 6, 6]]), "head": nn.Linear(8, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index.view(-1)].view(2, 3, -1).sum(0)
        return self.head(F.relu(self.first(x)[:, :3] + bias))


class PickedChannels(Net):
    """Channels are picked by lists and by buffers."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "index": torch.tensor([0, 3, 2, 7]), "head": conv(14, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        picked = [x[:, self.index], x.index_select(1, self.index), x[:, [6, 6, 1]], x[..., [2], :]]
        return self.head(
            torch.cat([*picked[:3], picked[3][:, :3].expand(-1, -1, x.size(2), -1)], 1)
        )


class PickedPixels(Net):
    """Pixels are picked by the data, each channel alike or on its own."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "index": torch.tensor([0, 3, 2]), "head": conv(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x[:, :, :, self.index] + torch.index_select(x, 3, self.index)
        order = x.argsort(2)
        x = torch.gather(x, 2, order) + torch.zeros_like(x).scatter(2, order, x)
        return self.head(x[:, :, self.index, 1:].masked_fill(x[:, :1, :3, 1:] > 1, 0.5))


class PickedTokens(Net):
    """The best tokens are gathered by an index laid over all channels."""

    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 8), "score": nn.Linear(5, 1), "head": nn.Linear(8, 2)}

    def forward(self, x: Tensor) -> Tensor:
        best = self.score(x).topk(3, dim=1).indices
        y = F.relu(self.first(x))
        chosen = torch.gather(y, 1, best.expand(-1, -1, 8)) + y.gather(1, best.repeat(1, 1, 8))
        return self.head(torch.where(x[:, :3, :1] > 0, chosen, 0.25))


class Created(Net):
    """Zeros made in forward are as many channels as they meet."""

    def parts(self) -> dict[str, Any]:
        return {"stem": conv(3, 8), "mid": conv(12, 6), "head": conv(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + x.new_zeros(x.shape[0], 8, 1, 1) + torch.ones(1, x.shape[1], 1, 1, dtype=x.dtype)
        x = x * torch.ones(x.shape, dtype=x.dtype)
        zeros = x.new_full((x.size(0), 4, x.size(2), x.size(3)), 0.5)
        return self.head(F.relu(self.mid(torch.cat([x, zeros], 1))))


EXAMPLES = {
    "embeddings": Example(Embedded, {"words": 8, "mid": 6}, words),
    "embedding bag": Example(Bag, {"bag": 8, "mid": 6}, words),
    "embedding and head tied": Example(TiedHead, {"words": 8, "up": 6}, words),
    "one-hot": Example(OneHot, {"first": 6}, words),
    "learned positions": Example(
        Positions, {"first": 8, "mid": 6}, tokens, other=11, keeps_zero=False
    ),
    "resized positions": Example(ResizedPositions, {"stem": 8}),
    "table of biases": Example(BiasTable, {"first": 8}, tokens),
    "picked channels": Example(PickedChannels, {"stem": 8}),
    "picked pixels": Example(PickedPixels, {"stem": 7}, keeps_zero=False),
    "picked tokens": Example(PickedTokens, {"first": 8}, tokens, keeps_zero=False),
    "zeros made in forward": Example(
        Created, {"stem": 8, "new_full[1]": 4, "mid": 6}, keeps_zero=False
    ),
}
