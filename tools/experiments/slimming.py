"""Network Slimming's tables: error, parameters and work after each stage, and pass after pass.

    python -m tools.experiments.slimming                         # the paper's three networks
    python -m tools.experiments.slimming vgg-19-bn --resume
    python -m tools.experiments.slimming --pages                 # only the page

By the rule of the slimming code: sparsity training, once for all shares, the given share of all
channels leaves, fine-tuning; then several passes, each of half of the channels, the last two steps
and all passes by `slimgraph-train`. The baseline is trained as long without the penalty. A run that
was stopped goes on where it was. Exits with 1 if a run fails. The penalty is stronger than the
paper's, whose training is thirty times as long.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import slimgraph as sg
from slimgraph.cost import CostModel
from slimgraph.errors import SlimgraphError
from slimgraph.train.data import Data
from slimgraph.train.loop import train
from slimgraph.train.recipe import Recipe
from tools.experiments.journal import Journal, Record
from tools.experiments.networks import NETWORKS, build
from tools.experiments.options import add_training, parsed, parser, run, settings_of
from tools.experiments.slimming_page import PAGE, page
from tools.experiments.training import Penalty, Training, accuracy, dense, gathered

PAPER = ("vgg-19-bn", "preresnet-56", "densenet-40")
SHARES = (0.4, 0.6, 0.7)
RESULTS = Path(__file__).parent / "results" / "slimming"
AGAIN = 0.5  # the share that leaves in each of several passes


def recipe(asked: argparse.Namespace, name: str, share: float, passes: int, seed: int) -> Recipe:
    """Make the paper's recipe.

    Args:
        asked: The options.
        name: Of the network.
        share: Of all channels, that leaves in each pass.
        passes: How many; a single one is given a network that sparsity training is over for.
        seed: Of the run.
    """
    several = passes > 1
    return Recipe(
        passes=passes,
        sparse_epochs=asked.epochs if several else 0,
        tune_epochs=asked.tune_epochs,
        batch_size=Training.batch,
        schedule="cosine",
        weight_decay=Training.decay,
        penalty="slimming" if several else "none",
        strength=asked.strength,
        scale_init=0.5 if several else None,
        criterion="bn_scale",
        normalize="none",
        strategy="percentile",
        share=share,
        rule="slimming",
        max_removed=0.95,  # with the code's threshold whole layers could go
        selections=NETWORKS[name].selections,
        repair="none",
        seed=seed,
    )


def trained(
    name: str, asked: argparse.Namespace, data: Data, seed: int, stage: str
) -> tuple[nn.Module, Record]:
    """Train with the penalty (`sparse`) or as long without it (`baseline`); return its row, too."""
    training = Training(asked.epochs * max(len(data.train) // Training.batch, 1))
    penalty = Penalty("slimming", asked.strength, NETWORKS[name].selections)
    model = dense(
        name, data, training, seed, width=asked.width, folder=asked.cache,
        penalty=penalty if stage == "sparse" else None,
    )  # fmt: skip
    graph = sg.analyze(sg.trace(model, torch.zeros(1, *data.shape)))
    costs = CostModel(graph).totals(torch.ones_like(graph.frozen))
    error = 1 - accuracy(model, gathered(data.test, len(data.test), 250))
    return model, {"stage": stage, "error": error, "params": costs.params, "macs": costs.macs}


def measure(name: str, asked: argparse.Namespace, data: Data) -> None:
    """Do all runs of one network.

    Args:
        name: Of the network.
        asked: The options.
        data: Images.
    """
    settings = settings_of(name, asked, data) | {
        "strength": asked.strength,
        "selections": NETWORKS[name].selections,
    }
    journal = Journal(asked.output / f"{name}.json", settings, resume=asked.resume)
    for seed in asked.seeds:
        facts = {"share": 0.0, "passes": 0, "seed": seed}
        if not journal.has(**facts):
            journal.add(facts | {"pass": 0} | trained(name, asked, data, seed, "baseline")[1])
        runs = [(share, 1) for share in asked.shares]
        runs += [(AGAIN, asked.passes)] if asked.passes > 1 else []
        for share, passes in runs:
            facts = {"share": share, "passes": passes, "seed": seed}
            if not journal.has(**facts):
                rows = list(_run(name, asked, data, facts))
                journal.add_all([facts | row for row in rows])
                print(f"{name}, {facts}: {rows[-1]}", flush=True)


def _run(
    name: str, asked: argparse.Namespace, data: Data, facts: dict[str, Any]
) -> Iterator[Record]:
    """Train and compress; yield the end of every stage, or why it failed."""
    share, passes, seed = facts.values()
    own = recipe(asked, name, share, passes, seed)
    decides = (share, passes, seed, asked.epochs, asked.tune_epochs, asked.width, asked.strength)
    folder = asked.cache / "slimming" / "-".join((name, asked.data, *map(str, decides)))
    try:
        if passes > 1:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = build(name, data.shape, data.classes, asked.width)
        else:
            model, row = trained(name, asked, data, seed, "sparse")
            yield {"pass": 1} | row
        found = train(model, data, own, folder).rows
    except SlimgraphError as error:
        yield {"stage": "failed", "pass": 0, "failed": str(error).partition("\n")[0]}
        return
    for row, after in zip(found, [*found[1:], None], strict=True):
        if after is None or after["kind"] != row["kind"]:
            yield {
                "stage": row["kind"], "pass": row["pass"], "error": 1 - row["accuracy"],
                "params": row["params"], "macs": row["macs"],
            }  # fmt: skip


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    made = parser("slimming", __doc__, RESULTS)
    add_training(made)
    add: Any = made.add_argument
    add("--strength", type=float, default=2e-3, help="of the penalty on scales")
    add("--shares", type=float, nargs="+", default=SHARES)
    add("--tune-epochs", type=int, default=3, help="of fine-tuning")
    add("--passes", type=int, default=5, help="of the run of several; 1 for none")
    return parsed(made, words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write rows and page.

    Args:
        words: Of the command line.
    """
    asked = _arguments(words)
    found = run(asked, PAPER, measure, RESULTS, (PAGE, page))
    failed = [row for document in found.values() for row in document["rows"] if "failed" in row]
    for row in failed:
        print(f"failed: {row}")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
