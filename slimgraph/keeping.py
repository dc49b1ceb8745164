"""The two meanings of removal: a channel counts as zero, or as the constant it was left at."""

from typing import Literal, get_args

import torch
from torch import Tensor

from slimgraph.connections import Connections
from slimgraph.constants import Constants
from slimgraph.effects import Effect, find_effects, find_varying
from slimgraph.errors import MaskError
from slimgraph.kept import KeptChannels
from slimgraph.zeroing import switched_off

Semantics = Literal["zero", "keep"]


def check_semantics(constants: str) -> None:
    """Refuse what is neither of the two.

    Raises:
        MaskError: It is something else.
    """
    if constants not in get_args(Semantics):
        raise MaskError(f"`constants` is {constants!r}", hint='use "zero" or "keep"')


def effects_of_mask(kept: KeptChannels, constants: Semantics) -> tuple[Effect, ...]:
    """Find what consumers still get of the channels that a mask removes.

    Args:
        kept: What stays.
        constants: Nothing for "zero"; for "keep" the constants of the model in which the channels
            are switched off.

    Raises:
        VaryingChannelError: Such a channel is not constant where it is read.
    """
    return () if constants == "zero" else find_effects(kept, _when_switched_off(kept))


def varying_channels(kept: KeptChannels) -> Tensor:
    """Mark the channels that a mask removes but whose effect cannot be kept. Shape: (channels,).

    Args:
        kept: What stays.
    """
    return find_varying(kept, _when_switched_off(kept))


def _when_switched_off(kept: KeptChannels) -> Constants:
    """Find what is constant once channels that leave are switched off."""
    reference = switched_off(kept)
    connections = Connections(kept.graph, reference)
    nothing = torch.zeros(len(kept.channels), dtype=torch.bool)

    def made(weight: str, dim: int) -> Tensor:
        return connections.ends(weight, dim, nothing)

    return Constants(kept.graph, made, reference)
