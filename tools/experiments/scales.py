"""What Network Slimming does to the scales of norms, and how much can leave afterwards.

    python -m tools.experiments.scales                # VGG-19, as in docs
    python -m tools.experiments.scales --resume
    python -m tools.experiments.scales --pages        # only the page
    python -m tools.experiments.figures               # the figures

A network is trained with the L1 penalty at several strengths; the scales of all norms are counted,
those of one layer are kept after every epoch. From the strongest penalty, more and more channels
leave by a threshold over all scales, with fine-tuning and without. Rows are written as they come.
Exits with 1 if nothing was measured.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.select import Limits, Percentile
from slimgraph.train.data import Data
from tools.experiments.journal import Journal, Record
from tools.experiments.networks import NETWORKS, build
from tools.experiments.options import add_training, parsed, parser, run, settings_of
from tools.experiments.scales_page import PAGE, page
from tools.experiments.training import Batches, Penalty, Training, accuracy, gathered, train

RESULTS = Path(__file__).parent / "results" / "scales"
NETWORK = "vgg-19-bn"
STRENGTHS = (0.0, 2e-4, 1e-3, 5e-3)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BINS = 40
TUNE_RATE = 0.02


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """List the norms in order."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def scales(model: nn.Module) -> Tensor:
    """Return the sizes of all scales of norms, one after the other. Shape: (channels,)."""
    return torch.cat([norm.weight.detach().abs() for norm in norms(model)])


def histogram(values: Tensor) -> Record:
    """Count values in bins of equal width from zero to the largest."""
    top = float(values.max())
    counts = torch.histc(values, BINS, 0.0, top)
    return {"top": top, "counts": [int(count) for count in counts]}


def measure(name: str, asked: argparse.Namespace, data: Data) -> None:
    """Train with each strength, and prune the last one.

    Args:
        name: Of the network.
        asked: The options.
        data: Images.
    """
    settings = settings_of(name, asked, data)
    journal = Journal(asked.output / f"{name}.json", settings, resume=asked.resume)
    test = gathered(data.test, len(data.test), 250)
    for seed in asked.seeds:
        for strength in asked.strengths:
            facts = {"strength": strength, "seed": seed}
            if not journal.has(**facts):
                rows = _rows(name, asked, data, test, facts)
                journal.add_all([facts | row for row in rows])
                print(f"{name}: {facts}: done", flush=True)


def _rows(
    name: str, asked: argparse.Namespace, data: Data, test: Batches, facts: Record
) -> Iterator[Record]:
    """Train with one strength; prune it, if it is the largest or there is none."""
    steps, seed = len(data.train) // Training.batch or 1, facts["seed"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(name, data.shape, data.classes, asked.width)
    middle = norms(model)[len(norms(model)) // 2]
    history: list[list[float]] = []

    def watch(_epoch: int) -> None:
        history.append([round(float(scale), 4) for scale in middle.weight.detach().abs()])

    penalty = Penalty("slimming", facts["strength"], NETWORKS[name].selections)
    train(model, data, Training(asked.epochs * steps), seed, penalty, watch)
    yield {
        "share": 0.0, "error": 1 - accuracy(model, test), "scales": histogram(scales(model)),
        "epochs": history,
    }  # fmt: skip
    if facts["strength"] in (0.0, max(asked.strengths)):
        yield from _pruned(model, asked, data, test, seed)


def _pruned(
    model: nn.Module, asked: argparse.Namespace, data: Data, test: Batches, seed: int
) -> Iterator[Record]:
    """Take away more and more; yield the errors with fine-tuning and without."""
    graph = sg.analyze(sg.trace(model, torch.zeros(1, *data.shape)))
    scores = sg.score(graph, "bn_scale", normalize="none")
    tuning = Training(asked.tune_epochs * (len(data.train) // Training.batch or 1), rate=TUNE_RATE)
    for share in asked.shares:
        keep = Percentile(share=share, limits=Limits(max_removed=0.95)).choose(graph, scores).keep
        small = sg.compress(graph, sg.Mask.of_channels(graph, keep))
        row: Record = {"share": share, "error": 1 - accuracy(small, test)}
        tuned = copy.deepcopy(small)
        train(tuned, data, tuning, seed)
        row["params"] = sum(p.numel() for p in tuned.parameters())
        yield row | {"tuned": 1 - accuracy(tuned, test)}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write rows and page.

    Args:
        words: Of the command line.
    """
    made = parser("scales", __doc__, RESULTS)
    add_training(made)
    add: Any = made.add_argument
    add("--strengths", type=float, nargs="+", default=STRENGTHS, help="of the penalty")
    add("--shares", type=float, nargs="+", default=SHARES, help="of all channels that leave")
    add("--tune-epochs", type=int, default=1, help="of fine-tuning")
    asked = parsed(made, words)
    return 0 if run(asked, [NETWORK], measure, RESULTS, (PAGE, page)) else 1


if __name__ == "__main__":
    sys.exit(main())
