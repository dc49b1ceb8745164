"""A run: what every stage of it needs to know."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.data import DataLoader

from slimgraph.errors import SlimgraphError
from slimgraph.serialize import load
from slimgraph.train.data import Data, Examples
from slimgraph.train.recipe import Recipe

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    Attributes:
        data: What it trains on.
        recipe: How.
        folder: Where its files are.
        workers: Processes that read images, per process.
        say: Called with what goes on.
    """

    data: Data
    recipe: Recipe
    folder: Path
    workers: int
    say: Say

    @cached_property
    def accelerator(self) -> Any:
        """What spreads the work; a batch is shared out, so its size does not depend on it."""
        try:
            from accelerate import Accelerator
            from accelerate.utils import DataLoaderConfiguration
        except ImportError as error:
            raise SlimgraphError(
                "training needs accelerate", hint="pip install 'slimgraph[train]'"
            ) from error
        # Only a machine that says it has nothing but CPUs gets processes that talk by gloo.
        made = Accelerator(
            cpu=not torch.accelerator.is_available(),
            dataloader_config=DataLoaderConfiguration(split_batches=True),
        )
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        if wanted != made.num_processes:  # each would believe to be the first, and write
            raise SlimgraphError(
                f"{wanted} processes were launched, but accelerate works in {made.num_processes}",
                hint="launch with `torchrun --nproc-per-node N -m slimgraph.train`",
            )
        if self.recipe.batch_size % made.num_processes:
            raise SlimgraphError(
                f"a batch of {self.recipe.batch_size} cannot be shared out evenly to "
                f"{made.num_processes} processes",
                hint=f"make `batch_size` a multiple of {made.num_processes}",
            )
        return made

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return bool(self.accelerator.is_main_process)

    def speak(self, text: str) -> None:
        """Say something once, however many processes there are."""
        if self.first:
            self.say(text)

    def batches(self, images: Examples, *, drop_last: bool = False) -> DataLoader[Any]:
        """Return a loader of batches of the recipe's size, in order."""
        size = self.recipe.batch_size
        last = drop_last and len(images) >= size
        return DataLoader(images, size, num_workers=self.workers, drop_last=last)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What `run.json` says."""
        found: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        return found

    @cached_property
    def teacher(self) -> fx.GraphModule:
        """The dense model as it was before the first compression."""
        found = load(self.folder / "dense.slim").to(self.accelerator.device).eval()
        return found.requires_grad_(requires_grad=False)


def broadcast(tensors: list[Tensor]) -> None:
    """Give every process the numbers of the first."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, 0)
