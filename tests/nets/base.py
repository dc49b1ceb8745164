"""What the tiny nets are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Any
MakeInputs = Callable[[int, int], Inputs]


class Net(nn.Module):
    """A net whose submodules, parameters and buffers are what `parts` returns."""

    def __init__(self) -> None:
        super().__init__()
        for name, part in self.parts().items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def parts(self) -> dict[str, Any]:
        raise NotImplementedError


def conv(ins: int, outs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """Make a convolution that keeps the size of the image."""
    return nn.Conv2d(ins, outs, kernel, padding=kernel // 2, **options)


def block(ins: int, outs: int, **options: Any) -> nn.Sequential:
    """Make convolution, BatchNorm, ReLU."""
    return nn.Sequential(conv(ins, outs, **options), nn.BatchNorm2d(outs), nn.ReLU())


def bare(*shape: int) -> nn.Parameter:
    """Make a parameter of no module."""
    return nn.Parameter(torch.zeros(shape))


def image(channels: int = 3) -> MakeInputs:
    """Make a batch of square images."""
    return lambda batch, size: torch.randn(batch, channels, size, size)


def rows(features: int) -> MakeInputs:
    """Make a batch of vectors; they have no other size."""
    return lambda batch, _: torch.randn(batch, features)


@dataclass(frozen=True)
class Example:
    """A tiny net and how to call it.

    Attributes:
        make: Builds it.
        groups: The groups that can shrink, by name: how many of their channels are not frozen.
        inputs: `(batch, size) -> example inputs`.
        size: Pixels per side when traced.
        other: Another size the model can run at; `None` if its sizes are fixed.
        rest: Whether consumers other than weights read channels (a sum, GroupNorm), so that
            zero weights alone do not make them ignore a channel.
        keeps_zero: Whether a channel made of zeros stays zero until a weight reads it.
        batches: Batch sizes the model can run at: those it is traced at, then others.
        selections: Whether consumers of shared values select channels of them.
        reads: For parameters outside of torch.nn modules: along which dims they read channels.
    """

    make: Callable[[], nn.Module]
    groups: dict[str, int]
    inputs: MakeInputs = field(default_factory=image)
    size: int = 8
    other: int | None = 11
    rest: bool = False
    keeps_zero: bool = True
    batches: tuple[int, ...] = (1, 2, 3)
    selections: bool = False
    reads: dict[str, tuple[int, ...]] = field(default_factory=dict)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every floating-point parameter and buffer with numbers that hide no mistake."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point() or name.endswith("_mask"):
                continue
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(drawn.abs() + 0.5)
            elif tensor.ndim > 1:
                tensor.copy_(drawn / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(0.5 * drawn + (1.0 if "weight" in name else 0.0))
    return model.eval()


def build(example: Example, seed: int = 0) -> nn.Module:
    """Build an example's model with random weights in double precision, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return randomized(example.make(), seed)
