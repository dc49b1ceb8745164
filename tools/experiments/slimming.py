"""Network Slimming's tables: error, parameters and work after each stage, and pass after pass.

    python -m tools.experiments.slimming                         # the paper's three networks
    python -m tools.experiments.slimming vgg-19-bn --resume
    python -m tools.experiments.slimming --pages                 # only the page

Runs of `slimgraph-train`, by the rule of the slimming code: sparsity training, the given share of
all channels leaves, fine-tuning; then several passes, each of half of the channels. The baseline is
trained as long without the penalty. A run that was stopped goes on where it was. Exits with 1 if a
run fails.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import slimgraph as sg
from slimgraph.cost import CostModel
from slimgraph.errors import SlimgraphError
from slimgraph.files import write_text
from slimgraph.train.data import Data, load_data
from slimgraph.train.loop import train
from slimgraph.train.recipe import Recipe
from tools.experiments.journal import ROOT, Journal, Record
from tools.experiments.networks import NETWORKS, build
from tools.experiments.slimming_page import PAGE, page
from tools.experiments.training import Training, accuracy, dense, gathered

PAPER = ("vgg-19-bn", "preresnet-56", "densenet-40")
SHARES = (0.4, 0.6, 0.7)
RESULTS = Path(__file__).parent / "results" / "slimming"
CACHE = ROOT / "build" / "experiments"
AGAIN = 0.5  # the share that leaves in each of several passes


def recipe(asked: argparse.Namespace, name: str, share: float, passes: int, seed: int) -> Recipe:
    """Make the paper's recipe.

    Args:
        asked: The options.
        name: Of the network.
        share: Of all channels, that leaves in each pass.
        passes: How many.
        seed: Of the run.
    """
    return Recipe(
        passes=passes,
        sparse_epochs=asked.epochs,
        tune_epochs=asked.epochs,
        batch_size=Training.batch,
        strength=asked.strength,
        scale_init=0.5,
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


def baseline(name: str, asked: argparse.Namespace, data: Data, seed: int) -> Record:
    """Train as long as the others before they lose anything, without the penalty."""
    training = Training(asked.epochs * max(len(data.train) // Training.batch, 1), decay=1e-4)
    model = dense(name, data, training, seed, width=asked.width, folder=asked.cache)
    graph = sg.analyze(sg.trace(model, torch.zeros(1, *data.shape)))
    costs = CostModel(graph).totals(torch.ones_like(graph.frozen))
    error = 1 - accuracy(model, gathered(data.test, len(data.test), 250))
    return {"stage": "baseline", "error": error, "params": costs.params, "macs": costs.macs}


def measure(name: str, asked: argparse.Namespace, data: Data) -> None:
    """Do all runs of one network.

    Args:
        name: Of the network.
        asked: The options.
        data: Images.
    """
    settings = {
        "network": name, "width": asked.width or NETWORKS[name].width, "data": asked.data,
        "epochs": asked.epochs, "strength": asked.strength, "images": len(data.train),
        "selections": NETWORKS[name].selections,
    }  # fmt: skip
    journal = Journal(asked.output / f"{name}.json", settings, resume=asked.resume)
    for seed in asked.seeds:
        facts = {"share": 0.0, "passes": 0, "seed": seed}
        if not journal.has(**facts):
            journal.add(facts | {"pass": 0} | baseline(name, asked, data, seed))
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
    own = recipe(asked, name, facts["share"], facts["passes"], facts["seed"])
    with torch.random.fork_rng():
        torch.manual_seed(facts["seed"])
        model = build(name, data.shape, data.classes, asked.width)
    decides = (*facts.values(), asked.epochs, asked.width, asked.strength)
    places = (name, asked.data, *map(str, decides))
    try:
        found = train(model, data, own, asked.cache / "slimming" / "-".join(places)).rows
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
    parser = argparse.ArgumentParser(
        prog="python -m tools.experiments.slimming",
        description=(__doc__ or "").partition("\n")[0],
    )
    add: Any = parser.add_argument
    add("networks", nargs="*", help="by default the paper's")
    add("--data", default="fashion-mnist", help="as for slimgraph-train")
    add("--root", help="the folder of its files")
    add("--epochs", type=int, default=8, help="of each stage")
    add("--strength", type=float, default=1e-4, help="of the penalty on scales")
    add("--width", type=float, help="share of the papers' channels")
    add("--shares", type=float, nargs="+", default=SHARES)
    add("--passes", type=int, default=5, help="of the run of several; 1 for none")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--resume", action="store_true", help="keep the rows there are")
    add("--pages", action="store_true", help="measure nothing, write the page")
    add("--output", type=Path, default=RESULTS, help="folder of the JSON files")
    add("--cache", type=Path, default=CACHE, help="folder of the runs")
    add("--page", type=Path, help="where to write the page; docs, with the default output")
    asked = parser.parse_args(words)
    for name in asked.networks:
        if name not in NETWORKS:
            parser.error(f"unknown network `{name}`: use one of {', '.join(NETWORKS)}")
    return asked


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write rows and page.

    Args:
        words: Of the command line.
    """
    asked = _arguments(words)
    if not asked.pages:
        data = load_data(asked.data, asked.root)
        for name in asked.networks or PAPER:
            measure(name, asked, data)
    paths = {name: asked.output / f"{name}.json" for name in NETWORKS}
    documents = {n: json.loads(p.read_text("utf-8")) for n, p in paths.items() if p.exists()}
    target = asked.page or (PAGE if asked.output == RESULTS else None)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, page(documents))
    failed = [row for document in documents.values() for row in document["rows"] if "failed" in row]
    for row in failed:
        print(f"failed: {row}")
    return 1 if failed or not documents else 0


if __name__ == "__main__":
    sys.exit(main())
