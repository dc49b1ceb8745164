"""Out-in-channel sparsity against separated: error at a third to two thirds of the work.

    python -m tools.experiments.oicsr                # ResNet-20, as in docs
    python -m tools.experiments.oicsr cifarnet --resume
    python -m tools.experiments.oicsr --pages        # only the page

A network is trained with each penalty, then channels leave in order of their energy until a share
of the multiply-accumulates remains, at most three quarters of any group, and it is fine-tuned. The
network that OICSR trained is also pruned by the energy of each layer on its own. Rows are written
as they come. Exits with 1 if nothing was measured.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.graph import DependencyGraph
from slimgraph.train.data import Data
from tools.experiments.journal import Journal, Record
from tools.experiments.oicsr_page import PAGE, page
from tools.experiments.options import add_training, parsed, parser, run, settings_of
from tools.experiments.training import Batches, Penalty, Training, accuracy, dense, gathered, train

RESULTS = Path(__file__).parent / "results" / "oicsr"
NETWORK = "resnet-20"
STRENGTHS = {"oicsr": (3e-3, 1e-2), "lasso": (3e-3, 1e-2), "l1": (1e-4, 5e-4)}
SHARES = (0.7, 0.5, 0.3)
MAX_REMOVED = 0.75
POINTS = 20
TUNE_RATE = 0.02


def penalties(chosen: Sequence[str]) -> Iterator[Penalty | None]:
    """Yield no penalty, and each kind at each strength."""
    yield None
    for kind in chosen:
        yield from (Penalty(kind, strength) for strength in STRENGTHS[kind])


def concentration(energies: Tensor) -> list[float]:
    """Return which share of all energy the strongest channels hold.

    Args:
        energies: Of channels, in any order. Shape: (channels,).

    Returns:
        For the strongest 1/20, 2/20, ... of all channels.
    """
    falling = energies.double().sort(descending=True).values.cumsum(0)
    places = [max(round(len(falling) * k / POINTS), 1) - 1 for k in range(1, POINTS + 1)]
    return [round(float(falling[place] / falling[-1]), 4) for place in places]


def pruned(graph: DependencyGraph, criterion: str, share: float) -> nn.Module:
    """Let the channels of least energy go, whatever layer they are in."""
    keep = sg.select(
        graph,
        sg.score(graph, criterion, normalize="none"),
        sg.Budget.of(macs=share),
        order="score",
        max_removed=MAX_REMOVED,
    )
    return sg.compress(graph, sg.Mask.of_channels(graph, keep))


def measure(name: str, asked: argparse.Namespace, data: Data) -> None:
    """Do the experiment on one network.

    Args:
        name: Of the network.
        asked: The options.
        data: Images.
    """
    settings = settings_of(name, asked, data) | {"max_removed": MAX_REMOVED}
    journal = Journal(asked.output / f"{name}.json", settings, resume=asked.resume)
    test = gathered(data.test, len(data.test), 250)
    for seed in asked.seeds:
        for penalty in penalties(asked.penalties):
            kind, strength = (penalty.kind, penalty.strength) if penalty else ("none", 0.0)
            facts = {"penalty": kind, "strength": strength, "seed": seed}
            for criterion in ("oicsr", "l2") if kind in ("oicsr", "lasso") else ("oicsr",):
                own = facts | {"criterion": criterion}
                if not journal.has(**own):
                    rows = _rows(name, asked, data, test, own, penalty)
                    journal.add_all([own | row for row in rows])
                    print(f"{name}: {own}: done", flush=True)


def _rows(
    name: str, asked: argparse.Namespace, data: Data, test: Batches, facts: Record,
    penalty: Penalty | None,
) -> Iterator[Record]:  # fmt: skip
    """Train, then prune and fine-tune at each share; yield how each came out."""
    steps, seed = len(data.train) // Training.batch or 1, facts["seed"]
    model = dense(
        name, data, Training(asked.epochs * steps), seed, width=asked.width, folder=asked.cache,
        penalty=penalty,
    )  # fmt: skip
    graph = sg.analyze(sg.trace(model, torch.zeros(1, *data.shape)))
    energies = sg.score(graph, "oicsr", normalize="none")[~graph.frozen]
    yield {
        "share": 1.0, "stage": "trained", "error": 1 - accuracy(model, test),
        "concentration": concentration(energies),
    }  # fmt: skip
    for share in asked.shares:
        small = pruned(graph, facts["criterion"], share)
        yield {"share": share, "stage": "pruned", "error": 1 - accuracy(small, test)}
        train(small, data, Training(asked.tune_epochs * steps, rate=TUNE_RATE), seed)
        params = sum(p.numel() for p in small.parameters())
        error = 1 - accuracy(small, test)
        yield {"share": share, "stage": "fine-tuned", "error": error, "params": params}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write rows and page.

    Args:
        words: Of the command line.
    """
    made = parser("oicsr", __doc__, RESULTS)
    add_training(made)
    made.set_defaults(epochs=3)
    add: Any = made.add_argument
    add("--shares", type=float, nargs="+", default=SHARES, help="of the work that remain")
    add("--penalties", nargs="+", choices=STRENGTHS, default=list(STRENGTHS))
    add("--tune-epochs", type=int, default=1, help="of fine-tuning")
    asked = parsed(made, words)
    return 0 if run(asked, [NETWORK], measure, RESULTS, (PAGE, page)) else 1


if __name__ == "__main__":
    sys.exit(main())
