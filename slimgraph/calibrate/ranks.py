"""Sums over the ranks of a distributed run, and word of how far a run is."""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

import torch.distributed
from rich.console import Console
from rich.progress import track
from torch import Tensor

Item = TypeVar("Item")
Progress = Callable[[str], None] | None


def all_reduce(*sums: Tensor) -> None:
    """Add up tensors over all ranks, in place, if there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        on_gpu = torch.distributed.get_backend() == "nccl"  # which takes no others
        for each in sums:
            if each.numel():
                placed = each.cuda() if on_gpu else each
                torch.distributed.all_reduce(placed)
                each.copy_(placed)


def tracked(items: Iterable[Item], what: str, progress: Progress) -> Iterator[Item]:
    """Yield items, such as batches, and say how far it is.

    Args:
        items: With a length or without.
        what: Is being done with them.
        progress: Called with a line per item. `None` shows a bar, on a terminal's stderr only.
    """
    if progress is None:
        console = Console(stderr=True)
        total = len(items) if isinstance(items, Sized) else None
        hidden = not console.is_terminal
        yield from track(items, what, total, console=console, transient=True, disable=hidden)
        return
    for index, item in enumerate(items):
        progress(f"{what}, {index + 1}")
        yield item


def silent(_: str) -> None:
    """Say nothing: a `progress` for what is one step of something that has its own."""
