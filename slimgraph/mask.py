"""Masks: the decision which channels stay. True means keep."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from slimgraph.display import Rows, Shown
from slimgraph.errors import (
    EmptiedGroupError,
    FrozenChannelError,
    MaskConflictError,
    MaskError,
    MaskLengthError,
)
from slimgraph.graph import DependencyGraph

OnConflict = Literal["error", "keep", "drop"]


class Mask(Shown, Mapping[str, Tensor]):
    """Which channels to keep, by group name or module name.

    Args:
        entries: Name to a bool tensor over the channels of that group, or over the output
            channels of that module. True = keep. What is not named stays.
        on_conflict: What holds where two entries speak of one channel and disagree.

    Raises:
        MaskError: An entry is not a vector of bools, or `on_conflict` is unknown.
    """

    def __init__(self, entries: Mapping[str, Any], on_conflict: OnConflict = "error") -> None:
        if on_conflict not in ("error", "keep", "drop"):
            raise MaskError(
                f"`on_conflict` is {on_conflict!r}", hint='use "error", "keep" or "drop"'
            )
        self.on_conflict = on_conflict
        self._entries = {str(name): _as_bool(str(name), entry) for name, entry in entries.items()}

    def __getitem__(self, name: str) -> Tensor:
        """Return the entry of that name."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._entries)

    def __repr__(self) -> str:
        """Say it in one line."""
        total = sum(entry.numel() for entry in self._entries.values())
        kept = sum(int(entry.sum()) for entry in self._entries.values())
        return f"Mask({len(self)} entries, keeps {kept} of {total} channels)"

    def to_rows(self) -> Rows:
        """List how many channels each entry keeps."""
        rows = [(name, str(int(entry.sum())), str(len(entry))) for name, entry in self.items()]
        return Rows(repr(self), ("name", "kept", "of"), rows)

    def save(self, path: str | Path) -> None:
        """Write the mask as safetensors."""
        from slimgraph import container

        container.write(path, "mask", {"on_conflict": self.on_conflict}, dict(self._entries))

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """Read what `save` wrote.

        Raises:
            FileError: The file is not a mask.
        """
        from slimgraph import container

        payload, tensors = container.read(path, "mask")
        return cls(tensors, payload.get("on_conflict", "error"))

    @classmethod
    def of_channels(cls, graph: DependencyGraph, keep: Tensor) -> "Mask":
        """Make a mask of group entries from one bool per channel of the model.

        Args:
            graph: The groups.
            keep: Bool tensor over all channels, as `keep_channels` returns. Shape: (channels,).
        """
        entries = {group.name: keep[group.components] for group in graph.groups}
        return cls({name: entry for name, entry in entries.items() if not bool(entry.all())})


def _as_bool(name: str, entry: Any) -> Tensor:
    tensor = torch.as_tensor(entry).detach().cpu()
    binary = tensor.dtype == torch.bool or bool(((tensor == 0) | (tensor == 1)).all())
    if tensor.ndim != 1 or not binary:
        raise MaskError(
            f"the mask of `{name}` is a {tensor.dtype} tensor of shape {tuple(tensor.shape)}",
            hint="give one bool per channel, True = keep",
        )
    return tensor.bool()


def as_mask(mask: Mapping[str, Any]) -> Mask:
    """Accept a plain dict wherever a mask is meant."""
    if isinstance(mask, Mask):
        return mask
    if not isinstance(mask, Mapping):
        raise MaskError(
            f"expected a mask, not `{type(mask).__name__}`",
            hint="give a `slimgraph.Mask` or a dict from name to bool tensor",
        )
    return Mask(mask)


def keep_channels(graph: DependencyGraph, mask: Mapping[str, Any]) -> Tensor:
    """Resolve a mask to one bool per channel of the model, and check it.

    Args:
        graph: The groups.
        mask: By group or module name, True = keep.

    Returns:
        Bool tensor over all channels. Shape: (channels,).

    Raises:
        UnknownGroupError: A name that makes no channels.
        MaskLengthError: An entry of the wrong length.
        MaskConflictError: Entries disagree and `on_conflict` is "error".
        FrozenChannelError: A channel that has to stay would leave.
        EmptiedGroupError: A group would lose its last channel.
    """
    mask = as_mask(mask)
    named = {name: _channels(graph, name, entry) for name, entry in mask.items()}
    flags = torch.zeros((2, len(graph.frozen)), dtype=torch.bool)
    dropped, kept = flags
    if named:
        channels, entries = torch.cat([*named.values()]), torch.cat([*mask.values()])
        flags[entries.long(), channels] = True
        if mask.on_conflict == "error" and bool((kept & dropped).any()):
            raise _conflict(mask, named, len(kept))
    keep = graph.settled(~dropped | kept if mask.on_conflict == "keep" else ~dropped)
    _check_frozen(graph, keep)
    index = graph.group_index.clamp(min=0)
    left = torch.bincount(index, keep & (graph.group_index >= 0), minlength=len(graph.groups))
    for group, count in zip(graph.groups, left.tolist(), strict=True):
        if not count:
            raise EmptiedGroupError(
                f"the mask removes all {group.size} channels of group `{group.name}`",
                hint="keep at least one channel",
            )
    return keep


def _channels(graph: DependencyGraph, name: str, entry: Tensor) -> Tensor:
    """Return the channels that a mask entry speaks of."""
    channels = graph.components(name, len(entry))
    if len(channels) != len(entry):
        raise MaskLengthError(
            f"the mask of `{name}` has {len(entry)} entries, "
            f"but `{name}` has {len(channels)} channels"
        )
    return channels


def _conflict(mask: Mask, named: Mapping[str, Tensor], count: int) -> MaskConflictError:
    """Name the first entry that disagrees with one before it, or with itself."""
    flags = torch.zeros((2, count), dtype=torch.bool)
    for name, channels in named.items():
        flags[mask[name].long(), channels] = True
        clash = channels[flags.all(0)[channels]]
        if len(clash):
            break
    others = [
        other for other in mask if other != name and bool(torch.isin(clash, named[other]).any())
    ]
    also = f" and `{others[0]}`" if others else " and itself"
    return MaskConflictError(
        f"the mask entries `{name}`{also} disagree about {len(clash)} channels that can only "
        "leave together",
        hint='make them agree, or say `Mask(..., on_conflict="keep")` or "drop"',
    )


def _check_frozen(graph: DependencyGraph, keep: Tensor) -> None:
    if not bool((graph.frozen & ~keep).any()):
        return
    for group in graph.groups:
        lost = group.frozen & ~keep[group.components]
        if bool(lost.any()):
            why = f": {group.reasons[0]}" if group.reasons else ""
            raise FrozenChannelError(
                f"channel {int(lost.nonzero()[0])} of group `{group.name}` cannot leave{why}",
                hint="leave this channel out of the mask; `graph.explain(name)` lists all reasons",
            )
