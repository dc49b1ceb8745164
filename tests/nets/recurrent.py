"""Recurrent layers: gates, directions, layers, projections, cells."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets.base import Example, Net, bare
from tests.nets.lookups import tokens


class Lstm(Net):
    """Two layers, two directions; the output and the last states are read."""

    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 6), "rnn": nn.LSTM(6, 4, 2, bidirectional=True,
                batch_first=True), "head": nn.Linear(8, 2), "last": nn.Linear(4, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y, (state, cell) = self.rnn(F.relu(self.first(x)))
        return self.head(y)[:, 0] + self.last(state[-1]) + self.last(torch.tanh(cell[0]))


class Projected(Net):
    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 6), "rnn": nn.LSTM(6, 8, 2, proj_size=4, batch_first=True),
                "head": nn.Linear(4, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(F.relu(self.first(x)))[0])


class Gru(Net):
    """The encoder's last state is the decoder's first."""

    def parts(self) -> dict[str, Any]:
        return {"encoder": nn.GRU(5, 6), "decoder": nn.GRU(5, 6, bias=False),
                "head": nn.Linear(6, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        _, state = self.encoder(x)
        y, _ = self.decoder(x, state)
        return self.head(y)


class Rnn(Net):
    """Starts from zeros made in forward; another one from learned numbers."""

    def parts(self) -> dict[str, Any]:
        return {"rnn": nn.RNN(5, 6, 2, nonlinearity="relu", batch_first=True),
                "start": bare(1, 1, 4), "next": nn.GRU(6, 4, batch_first=True),
                "head": nn.Linear(4, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(2, x.size(0), 6, dtype=x.dtype)
        y, _ = self.rnn(x, zeros)
        return self.head(self.next(y, self.start.expand(-1, x.size(0), -1).contiguous())[0])


class GivenState(Net):
    """The state is an input of the model, so its channels stay."""

    def parts(self) -> dict[str, Any]:
        return {"first": nn.Linear(5, 6), "rnn": nn.GRU(6, 4, batch_first=True),
                "head": nn.Linear(4, 2)}  # fmt: skip

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return self.head(self.rnn(F.relu(self.first(x)), state)[0])


class Cells(Net):
    """Loops over the sequence by hand."""

    def parts(self) -> dict[str, Any]:
        return {"one": nn.LSTMCell(5, 6), "two": nn.GRUCell(6, 4), "three": nn.RNNCell(4, 3),
                "head": nn.Linear(3, 2)}  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = (x.new_zeros(x.size(0), 6),) * 2, x.new_zeros(x.size(0), 4), None
        for step in range(3):
            one = self.one(x[:, step], one)
            two = self.two(one[0], two)
            three = self.three(two, three)
        return self.head(three)


class CellByHand(Net):
    """An LSTM cell as people write it."""

    def parts(self) -> dict[str, Any]:
        return {"ih": nn.Linear(5, 24), "hh": nn.Linear(6, 24), "head": nn.Linear(6, 2)}

    def forward(self, x: Tensor) -> Tensor:
        state = cell = torch.zeros(x.size(0), 6, dtype=x.dtype)
        for step in range(3):
            gates = self.ih(x[:, step]) + self.hh(state)
            i, f, g, o = gates.chunk(4, 1)
            cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            state = torch.sigmoid(o) * torch.tanh(cell)
        return self.head(state)


def started(batch: int, size: int) -> tuple[Tensor, Tensor]:
    """Make a batch of rows of vectors and a state to start from."""
    return tokens(batch, size), torch.randn(1, batch, 4)


EXAMPLES = {
    "LSTM": Example(
        Lstm,
        {"first": 6, "rnn.weight_hh_l0": 4, "rnn.weight_hh_l0_reverse": 4, "rnn.weight_hh_l1": 4},
        tokens,
    ),
    "LSTM with projections": Example(
        Projected, {"first": 6, "rnn.weight_hr_l0": 4, "rnn.weight_hr_l1": 4}, tokens
    ),
    "GRU": Example(Gru, {"encoder.weight_hh_l0": 6}, tokens),
    "RNN": Example(Rnn, {"rnn.weight_hh_l0": 6, "next.weight_hh_l0": 4}, tokens),
    "state given": Example(GivenState, {"first": 6}, started),
    "cells": Example(Cells, {"one.weight_hh": 6, "two.weight_hh": 4, "three.weight_hh": 3}, tokens),
    "cell by hand": Example(CellByHand, {"ih": 6}, tokens),
}
