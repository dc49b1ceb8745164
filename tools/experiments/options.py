"""Options that experiments share."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from slimgraph.files import write_text
from slimgraph.train.data import Data, load_data
from tools.experiments.journal import ROOT, Record
from tools.experiments.networks import NETWORKS

CACHE = ROOT / "build" / "experiments"


def parser(
    module: str, documentation: str | None, results: Path, names: Iterable[str] = NETWORKS
) -> argparse.ArgumentParser:
    """Make the parser of an experiment on networks.

    Args:
        module: Its name, as in `python -m tools.experiments.NAME`.
        documentation: Of the module; its first line is the description.
        results: The folder of its JSON files.
        names: Of the networks it knows.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m tools.experiments.{module}",
        description=(documentation or "").partition("\n")[0],
    )
    add: Any = made.add_argument
    add("networks", nargs="*", help=f"of {', '.join(names)}; by default all of the experiment")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--resume", action="store_true", help="keep the rows there are")
    add("--pages", action="store_true", help="measure nothing, write the page")
    add("--output", type=Path, default=results, help="folder of the JSON files")
    add("--cache", type=Path, default=CACHE, help="folder of the trained networks")
    add("--page", type=Path, help="where to write the page; docs, with the default output")
    return made


def add_training(made: argparse.ArgumentParser) -> None:
    """Add the options that say what is trained, and on what."""
    add: Any = made.add_argument
    add("--data", default="fashion-mnist", help="as for slimgraph-train")
    add("--root", help="the folder of its files")
    add("--epochs", type=int, default=5, help="of the dense network's training")
    add("--width", type=float, help="share of the papers' channels")


def parsed(
    made: argparse.ArgumentParser, words: Sequence[str] | None, names: Iterable[str] = NETWORKS
) -> argparse.Namespace:
    """Parse the words, and check the names of networks.

    Args:
        made: By `parser`.
        words: Of the command line.
        names: Of the networks it knows.
    """
    asked = made.parse_args(words)
    for name in asked.networks:
        if name not in names:
            made.error(f"unknown network `{name}`: use one of {', '.join(names)}")
    return asked


def documents(asked: argparse.Namespace, names: Iterable[str] = NETWORKS) -> dict[str, Record]:
    """Read what was measured.

    Args:
        asked: The options.
        names: Of networks.

    Returns:
        Documents of the journal, by the name of the network.
    """
    paths = {name: asked.output / f"{name}.json" for name in names}
    return {n: json.loads(p.read_text("utf-8")) for n, p in paths.items() if p.exists()}


def settings_of(name: str, asked: argparse.Namespace, data: Data) -> Record:
    """Return what all rows of a network share.

    Args:
        name: Of the network.
        asked: The options.
        data: Images.
    """
    return {
        "network": name, "width": asked.width or NETWORKS[name].width, "data": asked.data,
        "epochs": asked.epochs, "tune_epochs": asked.tune_epochs, "images": len(data.train),
    }  # fmt: skip


def run(
    asked: argparse.Namespace,
    networks: Iterable[str],
    measure: Callable[[str, argparse.Namespace, Data], None],
    results: Path,
    page: tuple[Path, Callable[[dict[str, Record]], str]],
) -> dict[str, Record]:
    """Measure networks, unless only the page is asked for, and write the page.

    Args:
        asked: The options.
        networks: By default.
        measure: Does one of them.
        results: The folder of rows by default.
        page: Where it is in docs, and what renders it.

    Returns:
        Documents of the journal, by the name of the network.
    """
    if not asked.pages:
        data = load_data(asked.data, asked.root)
        for name in asked.networks or networks:
            measure(name, asked, data)
    found = documents(asked)
    write_page(asked, results, page[0], page[1](found))
    return found


def write_page(asked: argparse.Namespace, results: Path, page: Path, text: str) -> None:
    """Write the page where the options say; nowhere, if rows went to a folder of one's own.

    Args:
        asked: The options.
        results: The folder by default.
        page: In docs.
        text: Markdown.
    """
    target = asked.page or (page if asked.output == results else None)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
