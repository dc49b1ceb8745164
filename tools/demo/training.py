"""Train a network so that it can lose channels: what it does not need fades on the way."""

from collections.abc import Iterator

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch import nn
from torch.nn.functional import cross_entropy

from tools.demo.data import Digits

BATCH = 64


def scale_penalty(model: nn.Module) -> torch.Tensor:
    """Return the sum of the absolute scales of all batch normalisations.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming,
    ICCV 2017.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return torch.stack([norm.weight.abs().sum() for norm in norms]).sum()


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Return the images moved by up to one pixel, all by the same."""
    rows, columns = (int(i) for i in torch.randint(-1, 2, (2,)))
    return images.roll((rows, columns), dims=(2, 3))


def train(
    model: nn.Module,
    digits: Digits,
    console: Console,
    *,
    epochs: int = 16,
    sparsity: float = 1e-2,
    decay: float = 2e-2,
    rate: float = 0.1,
) -> None:
    """Train `model` in place, with a progress bar.

    The scale penalty silences channels, the weight decay then shrinks all that feeds or reads
    them: what a criterion finds least important in the end is really not needed.

    Args:
        model: The network.
        digits: The images; only the training part is seen.
        console: Where the bar goes.
        epochs: How often every image is seen.
        sparsity: Weight of the scale penalty beside the cross entropy (dimensionless).
        decay: Weight decay (dimensionless).
        rate: The highest learning rate of the one cycle (dimensionless).
    """
    count = len(digits.train_labels)
    steps = epochs * (count // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    model.train()
    with _bar(console) as progress:
        for rows in progress.track(_batches(count, steps), total=steps, description="training"):
            scores = model(shifted(digits.train_images[rows]))
            loss = cross_entropy(scores, digits.train_labels[rows])
            optimizer.zero_grad()
            (loss + sparsity * scale_penalty(model)).backward()
            optimizer.step()
            schedule.step()


def _batches(count: int, steps: int) -> Iterator[torch.Tensor]:
    """Yield the rows of each step: shuffled, every image once before any comes again."""
    for _ in range(steps // (count // BATCH)):
        yield from torch.randperm(count).split(BATCH)[: count // BATCH]


def _bar(console: Console) -> Progress:
    columns = TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn()
    return Progress(*columns, TimeElapsedColumn(), console=console)
