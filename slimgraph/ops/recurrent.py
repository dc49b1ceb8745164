"""Recurrent layers: hidden channels lie in every gate of a weight, once for each.

All layers and directions of one module keep equally many hidden channels, which may be different
ones. The hidden channels are read inside of the module, so `masked` makes those weights read zero.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimgraph.labels import Read, Value, along
from slimgraph.rules import ALL, ModuleForm, Rule, Site

_FIXED = "starts from a state whose size cannot change"
_PROJECTED = "are projected, and torch finds projections by there being fewer of them"
_GATES = {"LSTM": 4, "GRU": 3}


class Step(NamedTuple):
    """The weights of one direction of one layer."""

    weight_ih: Value
    weight_hh: Value
    bias_ih: Value | None = None
    bias_hh: Value | None = None
    weight_hr: Value | None = None


def recurrent(site: Site, input: Value, hx: Any = None, **weights: Value) -> Any:
    """Run along a sequence; the last dim of the output holds the last layer's channels."""
    layers = _layers(weights)
    labels = _entering(site, input, layers[0])
    states: list[Tensor] = []
    cells: list[Tensor] = []
    for number, steps in enumerate(layers):
        own = [_bind(site, step, labels) for step in steps]
        for step in steps:
            if number and labels is not None:
                _read_inside(site, step.weight_ih, labels)
        states += [state for state, _ in own]
        cells += [cell for _, cell in own]
        labels = torch.cat([state for state, _ in own])
    for rows in (states, cells) if len(states) > 1 else ():
        site.ledger.block(torch.stack(rows), site.node)
    given = hx if isinstance(hx, tuple | list) else (hx,)
    for value, rows in zip(given, (states, cells), strict=False):
        _start(site, value, torch.stack(rows))
    return _results(site, site.node.meta["val"], labels, (torch.stack(states), torch.stack(cells)))


def _layers(weights: Mapping[str, Value]) -> list[list[Step]]:
    """Sort parameters by layer and direction: `weight_ih_l1_reverse`."""
    layers: list[list[Step]] = []
    while f"weight_ih_l{len(layers)}" in weights:
        ends = [f"_l{len(layers)}", f"_l{len(layers)}_reverse"]
        found = [{k: weights[k + e] for k in Step._fields if k + e in weights} for e in ends]
        layers.append([Step(**step) for step in found if step])
    return layers


def _entering(site: Site, input: Value, steps: list[Step]) -> Tensor | None:
    """Read the last dim of the input."""
    input = site.carried(input)
    last = input.ndim - 1
    site.without(input, range(last), "runs along a sequence")
    labels = site.vector(input, last)
    if labels is not None:
        read = Value(input.shape, (along(labels, last, input.shape),), node=input.node)
        site.read(read, steps[0].weight_ih if len(steps) == 1 else None, 1)
    return labels


def _bind(site: Site, step: Step, ins: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tie the weights of one step; return the labels of its state and of its cell."""
    if step.weight_hr is None:
        state = cell = site.open(step.weight_hh, 1, "out")
    else:
        state, cell = site.open(step.weight_hr, 0, "out"), site.open(step.weight_hr, 1, "out")
        site.bind(step.weight_hh, 1, state, "in")
        site.ledger.freeze(cell, site.node, _PROJECTED)
    _read_inside(site, step.weight_hh, state)
    rows = cell.repeat(step.weight_hh.shape[0] // len(cell))
    for weight in (step.weight_ih, step.weight_hh):
        site.bind(weight, 0, rows, "out")
    for bias in (step.bias_ih, step.bias_hh):
        site.bind(bias, 0, rows, "shift")
    if ins is not None:
        site.bind(step.weight_ih, 1, ins, "in")
    return state, cell


def _read_inside(site: Site, weight: Value, labels: Tensor) -> None:
    """Note that a weight reads channels that no node of the graph computes."""
    if len(labels) > 1:
        read = Value(weight.shape, (along(labels, 1, weight.shape),), weight.parameter, site.node)
        site.ledger.reads.append(Read(site.node, read, weight.parameter, 1))


def _start(site: Site, value: Value | None, rows: Tensor) -> None:
    """Couple a given state with the hidden channels of every layer and direction."""
    if value is None:
        return
    value = site.carried(value)
    layer = value.layer(value.ndim - 1)
    site.without(value, range(1, value.ndim - 1), "runs along a sequence")
    if layer is None:
        site.freeze(value, _FIXED)
        site.ledger.freeze(rows, site.node, _FIXED)
        return
    for other in value.layers:
        if other is not layer:
            site.ledger.freeze(other, site.node, "stands for a layer of a recurrent network")
    sizes = (len(rows), *[1] * (value.ndim - 2), rows.shape[1])
    site.ledger.couple(rows.reshape(sizes), layer, site.node)


def _results(site: Site, value: Any, labels: Tensor | None, rows: tuple[Tensor, Tensor]) -> Any:
    """Give the output its channels, and the last states theirs, in the nesting of the op."""
    output, last = value
    assert labels is not None, "there is at least one layer"
    made = _carrying(site, output, labels[None])
    if isinstance(last, tuple):
        return made, tuple(_carrying(site, x, r) for x, r in zip(last, rows, strict=True))
    return made, _carrying(site, last, rows[0])


def _carrying(site: Site, tensor: Tensor, rows: Tensor) -> Value:
    shape = tuple(tensor.shape)
    if rows.shape[1] == 1:
        return Value(shape, node=site.node)
    sizes = (len(rows), *[1] * (len(shape) - 2), rows.shape[1])
    return Value(shape, (rows.reshape(sizes).expand(shape),), node=site.node)


def cell(site: Site, input: Value, hx: Any = None, **weights: Value) -> Any:
    """Run one step; the state that is given and the one that goes on have the same channels."""
    step = Step(**weights)
    labels, _ = _bind(site, step, _entering(site, input, [step]))
    given = hx if isinstance(hx, tuple | list) else (hx,)
    for value in given:
        _start(site, value, labels[None])
    value = site.node.meta["val"]
    made = _carrying(site, value[0] if isinstance(value, tuple) else value, labels[None])
    return tuple(made for _ in value) if isinstance(value, tuple) else made


def _sizes(module: Any) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = module.weight_ih_l0.shape[0] // _GATES.get(module.mode, 1)
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]


def _cell_sizes(module: Any) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


RULES = (
    Rule(
        ("recurrent",),
        "recurrent",
        recurrent,
        (ModuleForm((nn.LSTM, nn.GRU, nn.RNN), ALL, sizes=_sizes),),
    ),
    Rule(
        ("recurrent_cell",),
        "recurrent",
        cell,
        (ModuleForm((nn.LSTMCell, nn.GRUCell, nn.RNNCell), ALL, sizes=_cell_sizes),),
    ),
)
