"""Dense networks, trained once and kept, and short fine-tuning that is equal for all."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

import slimgraph as sg
from slimgraph.regularize import Regularizer
from slimgraph.train.data import Data
from tools.experiments.networks import build

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Training:
    """How a network is trained: SGD with momentum, one cycle of the learning rate.

    Attributes:
        steps: How many; an epoch has as many as full batches.
        batch: Images per step.
        rate: The highest learning rate, for networks with norms.
        bare_rate: The same for those without.
        decay: Weight decay.
    """

    steps: int
    batch: int = 128
    rate: float = 0.1
    bare_rate: float = 0.02
    decay: float = 5e-4


@dataclass(frozen=True)
class Penalty:
    """What pulls channels toward zero while a network trains.

    Attributes:
        kind: `slimming`, `oicsr`, `lasso` (each layer on its own) or `l1`.
        strength: Its weight.
        selections: Whether readers of a value have groups of their own.
    """

    kind: str
    strength: float
    selections: bool = False

    def on(self, model: nn.Module, example: Tensor) -> Regularizer:
        """Make the regulariser; scales of norms start at a half, as in the slimming paper.

        Args:
            model: In train mode or not; its parameters are penalised.
            example: One image.
        """
        traced = sg.trace(model, example)
        graph = sg.analyze(sg.with_selections(traced) if self.selections else traced)
        if self.kind == "slimming":
            return sg.regularize.NetworkSlimming(graph, self.strength, init=0.5)
        kinds: dict[str, Callable[..., Regularizer]] = {
            "oicsr": sg.regularize.OICSR,
            "lasso": sg.regularize.GroupLasso,
            "l1": sg.regularize.L1,
        }
        return kinds[self.kind](graph, self.strength)


def has_norms(model: nn.Module) -> bool:
    """Tell whether a model has statistics of batches."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def train(
    model: nn.Module, data: Data, training: Training, seed: int, penalty: Penalty | None = None,
    watch: Callable[[int], object] | None = None,
) -> None:  # fmt: skip
    """Train a model in place; the same seed gives the same numbers.

    Args:
        model: Any classifier.
        data: Of which `train` is seen.
        training: How.
        seed: For the order of images and what is drawn to change them.
        penalty: Beside the task, if any.
        watch: Called with the number of epochs that are over, at first with 0.
    """
    pull = None if penalty is None else penalty.on(model, torch.zeros(1, *data.shape))
    rate = training.rate if has_norms(model) else training.bare_rate
    optimizer = torch.optim.SGD(
        model.parameters(), rate, 0.9, weight_decay=training.decay, nesterov=True
    )
    schedule = OneCycleLR(optimizer, rate, max(training.steps, 2), pct_start=0.2)
    model.train().to(memory_format=torch.channels_last)  # faster on a CPU
    done = 0
    full = len(data.train) >= training.batch  # a norm cannot learn from a last batch of one image
    loader = DataLoader(data.train, training.batch, shuffle=True, drop_last=full)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while done < training.steps:
            if watch is not None:
                watch(done // len(loader))
            for images, labels in loader:
                optimizer.zero_grad()
                answers = model(images.to(memory_format=torch.channels_last))
                F.cross_entropy(answers, labels).backward()
                if pull is None:
                    optimizer.step()
                else:
                    pull.step(optimizer)
                schedule.step()
                done += 1
                if done == training.steps:
                    break
    model.eval().to(memory_format=torch.contiguous_format)
    if watch is not None:
        watch(-(-done // len(loader)))


def dense(
    name: str, data: Data, training: Training, seed: int, *, width: float | None, folder: Path,
    penalty: Penalty | None = None,
) -> nn.Module:  # fmt: skip
    """Load a trained network, or train it and keep it.

    Args:
        name: One of `NETWORKS`.
        data: What it learns.
        training: How.
        seed: Also for its first weights.
        width: See `build`.
        folder: Where networks are kept, by all that decides how they come out.
        penalty: Beside the task, if any.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(name, data.shape, data.classes, width)
    facts: dict[str, Any] = {
        "name": name, "training": asdict(training), "seed": seed, "shape": list(data.shape),
        "images": len(data.train), "sizes": [list(p.shape) for p in model.parameters()],
    } | ({} if penalty is None else {"penalty": asdict(penalty)})  # fmt: skip
    code = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}-{code}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        train(model, data, training, seed, penalty)
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        save_file(model.state_dict(), draft)
        draft.replace(path)
    return model.eval()


def gathered(examples: Any, count: int, batch: int, seed: int | None = None) -> Batches:
    """Put images into memory, as batches with labels.

    Args:
        examples: A data set.
        count: How many, at most.
        batch: Images per batch.
        seed: Draws which images; the first ones without.
    """
    if seed is None:
        order = list(range(len(examples)))
    else:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(examples), generator=generator).tolist()
    pairs = [examples[index] for index in order[:count]]
    images = torch.stack([image for image, _ in pairs]).split(batch)
    labels = torch.tensor([label for _, label in pairs]).split(batch)
    return list(zip(images, labels, strict=True))


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches) -> float:
    """Return the share of images that are answered right."""
    model.eval()
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return right / sum(len(labels) for _, labels in batches)
