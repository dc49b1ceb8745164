"""One-shot compression without training: each criterion with each repair, beside Torch-Pruning.

    python -m tools.experiments.one_shot                      # all networks, as in docs
    python -m tools.experiments.one_shot resnet-20 --resume   # one, where it was stopped
    python -m tools.experiments.one_shot --pages              # only the page, from what there is
    python -m tools.experiments.figures                       # the figure; then --pages once more

A network is trained on Fashion-MNIST, or loaded if it has been before. Then it is made smaller
in each way, with at most 1,024 images; labels are only for Taylor scores, of both tools. The best
way of each tool, found on held-out images, is fine-tuned for as many steps as the other's. Rows are
written as they come, one file per network. Exits with 1 if a goal is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from slimgraph.errors import SlimgraphError
from slimgraph.train.data import Data, load_data
from tools.experiments.frontier import NAME as FIGURE
from tools.experiments.journal import Journal, Record
from tools.experiments.networks import NETWORKS
from tools.experiments.one_shot_page import PAGE, page
from tools.experiments.options import add_training, documents, parsed, parser, write_page
from tools.experiments.peer import PEERS, Peer
from tools.experiments.subject import OWN, REPAIRS, Subject, macs, shrunk
from tools.experiments.training import Training, accuracy, dense, gathered, has_norms, train
from tools.experiments.verdicts import (
    DENSE,
    HALF,
    OURS,
    THEIRS,
    Way,
    best,
    cells,
    goals,
)

RESULTS = Path(__file__).parent / "results" / "one-shot"
MOST_IMAGES = 1024
TUNE_RATE = 0.02


@dataclass(frozen=True)
class Plan:
    """What is measured on each network.

    Attributes:
        shares: Of the multiply-accumulates that remain.
        criteria: Of ours.
        repairs: Of ours.
        peers: What Torch-Pruning does, each with and without statistics of norms taken anew.
        tune_steps: Of the fine-tuning, at half the work; 0 for none.
        tunings: How often, each with a seed of its own.
    """

    shares: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5)
    criteria: tuple[str, ...] = OWN
    repairs: tuple[str, ...] = REPAIRS
    peers: tuple[str, ...] = PEERS
    tune_steps: int = 100
    tunings: int = 3

    def ways(self, subject: Subject) -> Iterator[Way]:
        """Yield all ways, the smallest networks first."""
        again = ("none", "recalibrate") if has_norms(subject.model) else ("none",)
        peers = [peer for peer in self.peers if subject.coupled or "inner" not in peer]
        for share in sorted(self.shares):
            for criterion in peers:
                yield from (Way(THEIRS, criterion, repair, share) for repair in again)
            for criterion in self.criteria:
                for repair in subject.repairs(criterion):
                    if repair in self.repairs:
                        yield Way(OURS, criterion, repair, share)


class Bench:
    """One network on the bench: it makes smaller ones, and measures them.

    Args:
        subject: The network.
        seed: It was trained with.
        journal: Where rows go.
        say: Called with a line per row.
    """

    def __init__(
        self, subject: Subject, seed: int, journal: Journal, say: Callable[[str], None]
    ) -> None:
        self.subject, self.seed, self.journal, self.say = subject, seed, journal, say
        self.peer = Peer(subject)

    def make(self, way: Way) -> nn.Module:
        """Make a smaller network."""
        if way.tool == DENSE:
            return self.subject.model
        if way.tool == THEIRS:
            return self.peer.shrunk(way.criterion, way.repair, way.share)
        return shrunk(self.subject, way.criterion, way.repair, way.share)

    def row(self, way: Way, tuned: int | None = None, after: Callable[..., None] | None = None
            ) -> None:  # fmt: skip
        """Measure a way, unless there is a row of it.

        Args:
            way: To measure.
            tuned: The seed of the fine-tuning, if there is one.
            after: Changes the network before it is measured.
        """
        facts = {**way._asdict(), "seed": self.seed, "tuned": tuned}
        if self.journal.has(**facts):
            return
        begun = time.monotonic()
        try:
            model = self.make(way)
            if after is not None:
                after(model)
            found = self._measured(model)
        except Exception as error:
            first = str(error).partition("\n")[0]
            refused = isinstance(error, SlimgraphError)
            found = {"failed": f"{type(error).__name__}: {first}", "refused": refused}
        self.journal.add(facts | found | {"seconds": round(time.monotonic() - begun, 2)})
        result = found.get("failed") or f"{found['accuracy']:.2%}"
        self.say(f"{way.tool}, {way}, {way.share}{'' if tuned is None else ', tuned'}: {result}")

    def _measured(self, model: nn.Module) -> Record:
        return {
            "macs": macs(model, self.subject.example) / self.subject.macs,
            "params": sum(p.numel() for p in model.parameters()),
            "held_out": accuracy(model, self.subject.held_out),
            "accuracy": accuracy(model, self.subject.test),
        }

    def tune(self, plan: Plan, data: Data) -> None:
        """Fine-tune the best network of each tool at half the work, all in the same way."""
        own = [row for row in self.journal.rows if row["seed"] == self.seed]
        training = Training(plan.tune_steps, rate=TUNE_RATE, bare_rate=TUNE_RATE / 4)
        for tool in (OURS, THEIRS):
            way = best(cells(own), tool, HALF)
            for seed in range(plan.tunings if way is not None and plan.tune_steps else 0):
                assert way is not None, "else there is nothing to do"
                self.row(way, seed, lambda model, s=seed: train(model, data, training, s))


def measure(name: str, asked: argparse.Namespace, plan: Plan, data: Data) -> Journal:
    """Do the experiment on one network, with each seed.

    Args:
        name: Of the network.
        asked: The options.
        plan: What is measured.
        data: Images.
    """
    training = Training(asked.epochs * (len(data.train) // Training.batch or 1))
    settings = {
        "network": name, "width": asked.width or NETWORKS[name].width, "data": asked.data,
        "training": asdict(training), "images": asked.images, "held_out": asked.held_out,
        "test": asked.test, "tune_steps": plan.tune_steps,
        "selections": NETWORKS[name].selections,
    }  # fmt: skip
    journal = Journal(asked.output / f"{name}.json", settings, resume=asked.resume)
    for seed in asked.seeds:
        model = dense(name, data, training, seed, width=asked.width, folder=asked.cache)
        subject = Subject(
            model,
            gathered(data.calibration, asked.images, 128, seed),
            gathered(data.held_out, asked.held_out, 250),
            gathered(data.test, asked.test, 250),
            NETWORKS[name].selections,
            seed,
        )
        bench = Bench(subject, seed, journal, lambda line: print(f"{name}: {line}", flush=True))
        bench.row(Way(DENSE, "dense", "none", 1.0))
        for way in plan.ways(subject):
            bench.row(way)
        bench.tune(plan, data)
    return journal


def image_count(text: str) -> int:
    """Read a number of images that is not more than an engineer would have at hand."""
    count = int(text)
    if not 1 <= count <= MOST_IMAGES:
        raise argparse.ArgumentTypeError(f"{count} is not from 1 to {MOST_IMAGES}")
    return count


def add_choices(made: argparse.ArgumentParser, shares: Sequence[float] = Plan.shares) -> None:
    """Add the options that say what is measured.

    Args:
        made: A parser.
        shares: Of the work, by default.
    """
    add: Any = made.add_argument
    add("--shares", type=float, nargs="+", default=shares, help="of the work that remain")
    add("--criteria", nargs="+", choices=OWN, default=OWN)
    add("--repairs", nargs="+", choices=REPAIRS, default=REPAIRS)
    add("--peers", nargs="*", choices=PEERS, default=PEERS)
    add("--tune-steps", type=int, default=Plan.tune_steps)


def plan_of(asked: argparse.Namespace) -> Plan:
    """Return what the options ask for."""
    return Plan(
        tuple(asked.shares), tuple(asked.criteria), tuple(asked.repairs), tuple(asked.peers),
        asked.tune_steps,
    )  # fmt: skip


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    made = parser("one_shot", __doc__, RESULTS)
    add_training(made)
    add: Any = made.add_argument
    add("--images", type=image_count, default=MOST_IMAGES, help="for scores and repair")
    add("--held-out", type=int, default=2000, help="images that the best way is found on")
    add("--test", type=int, default=10_000, help="images that are reported")
    add_choices(made)
    return parsed(made, words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write rows and page, and say which goals are reached.

    Args:
        words: Of the command line.
    """
    asked = _arguments(words)
    plan = plan_of(asked)
    if not asked.pages:
        data = load_data(asked.data, asked.root)
        for name in asked.networks or NETWORKS:
            measure(name, asked, plan, data)
    found = documents(asked)
    folder = asked.page.parent if asked.page else PAGE.parent
    picture = f"{FIGURE}.svg"
    there = (folder / picture).exists()
    write_page(asked, RESULTS, PAGE, page(found, picture if there else None))
    chosen = asked.networks or NETWORKS
    reached = goals({n: found[n]["rows"] if n in found else [] for n in chosen})
    print(*reached, sep="\n")
    return 0 if all(goal.reached for goal in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
