"""The page docs/results/one-shot.md, made from the rows."""

from collections.abc import Iterator
from typing import Any

from tools.experiments.journal import ROOT, circumstances_said
from tools.experiments.networks import NETWORKS
from tools.experiments.verdicts import (
    DEFAULT,
    DENSE,
    HALF,
    OURS,
    THEIRS,
    Cell,
    Way,
    best,
    cells,
    goals,
    share_closed,
)

Record = dict[str, Any]
PAGE = ROOT / "docs" / "results" / "one-shot.md"
INTRODUCTION = """# One-shot compression without training

What is left of a network's accuracy when it loses channels, before any fine-tuning. Each criterion
chooses under a budget of multiply-accumulates, and each repair makes up for what went, with at most
1,024 images; only Taylor scores, of both tools, see labels. This page is made by

```shell
python -m tools.experiments.one_shot
```

- Work is counted the same way for both tools: multiply-accumulates of convolutions and products in
  the forward pass of the network that comes out.
- Torch-Pruning takes a share of channels, of every layer (local) or ranked over all (global); the
  one that comes nearest to the work is taken, be it above. Since it cannot follow a shortcut that
  fills up with zeros, it is also told to leave alone all layers that a shortcut couples (inner). It
  is measured with and without statistics of norms taken anew by the same images.
- Large networks are measured in fewer ways, which the tables show; a goal that was not measured is
  missed.
- The best way is found on held-out images, for each tool; what the tables show are test images.
- Repairs of weights (project, reconstruct, prune_in_turn) end with statistics of norms taken anew.
  The default of `slim(..., data=)` is obs + reconstruct. `prune_in_turn` chooses by itself; only
  the numbers of channels come from the scores.
"""


def page(documents: dict[str, Record], picture: str | None = None) -> str:
    """Render what was measured as Markdown.

    Args:
        documents: Of the journal, by the name of the network.
        picture: The figure's file, beside the page, if there is one.
    """
    rows = {name: document["rows"] for name, document in documents.items()}
    every = {name: rows.get(name, []) for name in NETWORKS}  # what was not measured is missed
    verdicts = [f"- {goal}".replace("MISSED", "**MISSED**") for goal in goals(every)]
    lines = [INTRODUCTION, "## Goals\n", *verdicts, "", "## At half the work\n"]
    lines += ["Test accuracy in percent.\n", *best_ways(rows)]
    lines += [f"\n![Accuracy against work, network by network]({picture})"] if picture else []
    for name, document in documents.items():
        lines += ["", f"## {name}\n", *network(_said(document["settings"]), document)]
    return "\n".join(lines) + "\n"


def _line(cells_: Any) -> str:
    return f"| {' | '.join(cells_)} |"


def _table(head: list[str], body: Iterator[list[str]]) -> list[str]:
    return [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, body)]


def _percent(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    spread = f" ± {100 * cell.spread:.2f}" if cell.spread else ""
    return f"{100 * cell.accuracy:.2f}{spread}"


def best_ways(networks: dict[str, list[Record]]) -> list[str]:
    """Compare the best ways at half the work, network by network.

    Args:
        networks: Rows by the name of the network.
    """

    def body() -> Iterator[list[str]]:
        for name, rows in networks.items():
            found = cells(rows)
            ways = [best(found, OURS, HALF), best(found, THEIRS, HALF)]
            full = found.get(Way(DENSE, "dense", "none", 1.0))
            own, peer = (found[way] if way else None for way in ways)
            share = share_closed(rows)
            yield [
                name, _percent(full), _percent(own), str(ways[0] or "-"),
                _percent(found.get(Way(OURS, *DEFAULT, HALF))), _percent(peer), str(ways[1] or "-"),
                "-" if share is None else f"{share:.0%}",
            ]  # fmt: skip

    head = ["network", "dense", "slimgraph", "by", "default", "Torch-Pruning", "by", "gap closed"]
    return _table(head, body())


def network(said: str, document: Record) -> list[str]:
    """Show how accuracy falls with work, and every way at the least work.

    Args:
        said: The settings, in words.
        document: Of the journal.
    """
    rows, runs = document["rows"], document["runs"]
    found = cells(rows)
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"{said}; seeds {', '.join(map(str, seeds))}.\n",
        *(f"{circumstances_said(run)}\n" for run in _used(rows, runs)),
        *_frontier(found),
        "",
    ]
    for share in sorted({way.share for way in found if way.tool != DENSE})[:1]:
        lines += [f"Every way at {share:.0%} of the work:\n", *_ways(found, share)]
    failed = [row for row in rows if "failed" in row]
    lines += ["", *(_failure(row) for row in failed)] if failed else []
    return lines


def _said(settings: Record) -> str:
    training, selections = settings["training"], settings["selections"]
    return (
        f"{settings['data']}, width {settings['width']}, {training['steps']} steps of "
        f"{training['batch']} images; {settings['images']} images for scores and repair"
        f"{'; readers of a value lose channels of their own' if selections else ''}"
    )


def _used(rows: list[Record], runs: list[Record]) -> list[Record]:
    """Leave out runs that measured nothing."""
    return [run for index, run in enumerate(runs) if any(row["run"] == index for row in rows)]


def _frontier(found: dict[Way, Cell]) -> list[str]:
    def body() -> Iterator[list[str]]:
        for share in sorted({way.share for way in found if way.tool != DENSE}, reverse=True):
            ways = [best(found, tool, share) for tool in (OURS, THEIRS)]
            own, peer = (found[way] if way else None for way in ways)
            bare = _bare(found, share)
            yield [
                f"{share:.0%}", _percent(own), str(ways[0] or "-"),
                _percent(found.get(Way(OURS, *DEFAULT, share))),
                _percent(peer), str(ways[1] or "-"),
                f"{peer.macs:.1%}" if peer else "-", _percent(bare),
            ]  # fmt: skip

    head = ["work", "slimgraph", "by", "default", "Torch-Pruning", "by", "its work", "not repaired"]
    return _table(head, body())


def _bare(found: dict[Way, Cell], share: float) -> Cell | None:
    """Return the best of the peer's that nothing was done to."""
    own = {w: c for w, c in found.items() if w.repair == "none"}
    way = best(own, THEIRS, share)
    return None if way is None else own[way]


def _ways(found: dict[Way, Cell], share: float) -> list[str]:
    ways = [way for way in found if way.share == share and way.tool != DENSE]
    repairs = list(dict.fromkeys(way.repair for way in ways))
    names = list(dict.fromkeys((way.tool, way.criterion) for way in ways))

    def body() -> Iterator[list[str]]:
        for tool, criterion in sorted(names):
            own = (found.get(Way(tool, criterion, repair, share)) for repair in repairs)
            yield [f"{tool}, {criterion}", *map(_percent, own)]

    return _table(["way", *repairs], body())


def _failure(row: Record) -> str:
    reason = row["failed"].replace("|", "/").replace("`", "'")
    return f"- {row['tool']}, {row['criterion']} + {row['repair']} at {row['share']}: `{reason}`"
