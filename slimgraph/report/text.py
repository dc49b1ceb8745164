"""The report as tables for a terminal of any width from 60 columns."""

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult, RichCast
from rich.table import Table
from rich.text import Text

from slimgraph.report import wording

_ROOMY = 100  # columns from which numbers are written with spaces


def render_text(report: dict[str, Any], width: int | None = None) -> str:
    """Render the report as plain text.

    Args:
        report: The report dict.
        width: Columns; the terminal's by default, 80 where there is none.

    Returns:
        The text, without colour codes.
    """
    return printed(overview(report), width)


def printed(shown: RichCast | ConsoleRenderable, width: int | None = None) -> str:
    """Return what a console would show, without colour codes; `width` as for `render_text`."""
    width = width or shutil.get_terminal_size((80, 24)).columns
    console = Console(
        file=io.StringIO(), width=width, color_system=None, legacy_windows=False, highlight=False
    )
    with console.capture() as capture:
        console.print(shown)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def table(report: dict[str, Any]) -> "GroupTable":
    """Return the table of groups, for a rich console or an object's `__rich__`."""
    return GroupTable(report)


def overview(report: dict[str, Any]) -> "Overview":
    """Return header, groups and reasons, for a rich console or an object's `__rich__`."""
    return Overview(report)


@dataclass(frozen=True)
class Overview:
    """Everything: totals, groups, why channels are frozen."""

    report: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts, with an empty line between them."""
        yield Totals(self.report)
        yield Text()
        yield GroupTable(self.report)
        if any(group["reasons"] for group in self.report["groups"]):
            yield Text()
            yield Reasons(self.report)


@dataclass(frozen=True)
class Totals:
    """The model, its totals before and after, the settings and the exported file."""

    report: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        model, width = self.report["model"], options.max_width
        yield Text(wording.shorten(model["name"], width), style="bold")
        ends = [
            ", ".join(wording.shape(end["shape"]) for end in model[side])
            for side in ("inputs", "outputs")
        ]
        yield Text(wording.shorten(" → ".join(ends), width), style="dim")
        yield Text()
        yield self._totals()
        lines = [*self._tracing(), *self._settings(), *self._errors(), *self._export()]
        if lines:
            yield Text()
            yield from (_hanging(line, width) for line in lines)

    def _totals(self) -> Table:
        rows = wording.totals(self.report)
        compressed = self.report["totals"]["after"] is not None
        grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        grid.add_column("")
        for name in ("before", "after", "remains") if compressed else ("total",):
            grid.add_column(name, justify="right", header_style="dim")
        for name, before, after in rows:
            cells = [wording.count(before)]
            if compressed:
                cells += [wording.count(after), wording.share(after, before)]
            grid.add_row(name, *cells)
        return grid

    def _tracing(self) -> Iterator[str]:
        model = self.report["model"]
        if model["rung"] > 1:
            yield f"traced: {wording.RUNGS[model['rung']]}"
        for leaf in model["leaves"]:
            yield f"opaque: {wording.leaf(leaf)}"

    def _settings(self) -> Iterator[str]:
        told = dict(self.report["settings"])
        trace, recipe = told.pop("trace", None), told.pop("recipe", None)
        lines = {"settings": told, "recipe": recipe}
        for name, pairs in lines.items():
            if pairs:
                facts = ", ".join(f"{key} {_plain(value)}" for key, value in pairs.items())
                yield f"{name}: {facts}"
        if trace:
            options = ", ".join(f"{key} {_plain(value)}" for key, value in trace["options"].items())
            yield f"choice: {trace['strategy']} ({options}), decisions: {len(trace['decisions'])}"

    def _errors(self) -> Iterator[str]:
        errors = self.report.get("errors")
        if errors:
            steps = (f"{each['step']} {wording.number(each['error'])}" for each in errors["steps"])
            yield f"{errors['measure']}, {errors['on']}: {', '.join(steps)}"

    def _export(self) -> Iterator[str]:
        export = self.report["export"]
        if not export:
            return
        facts = [wording.size(export["bytes"]), f"{export['nodes']} nodes"]
        yield f"file: {export['path']}, {', '.join(facts)}, opset {export['opset']}"
        for check in export["parity"]:
            verdict = "agrees" if check["ok"] else "DISAGREES"
            yield (
                f"parity: {check['output']} {verdict}, largest difference "
                f"{_difference(check['max_abs'])} (tolerance {check['tolerance']:.0e})"
            )
        if export["latency_ms"]:
            latency = export["latency_ms"]
            yield (
                f"latency: {latency['median']:.2f} ms median of {latency['runs']} runs, "
                f"{latency['min']:.2f} to {latency['max']:.2f}, threads: {latency['threads']}"
            )


@dataclass(frozen=True)
class GroupTable:
    """One line per group; its columns take what the width allows."""

    report: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, or a sentence if there is nothing to list."""
        groups = self.report["groups"]
        if not groups:
            yield Text("no groups: the model has no channels that a parameter creates")
            return
        roomy = options.max_width >= _ROOMY
        titles = ["channels", "parameters" if roomy else "params", "MACs", "members"]
        columns = _columns(groups, roomy=roomy)
        used = sum(
            2 + _widest([title, *cells]) for title, cells in zip(titles, columns, strict=True)
        )
        whys = [_why(group) for group in groups]
        name_width, why_width = _split(options.max_width - used, groups, whys)

        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        grid.add_column("group", no_wrap=True, style="bold")
        for title in titles:
            grid.add_column(title, justify="right", no_wrap=True)
        if why_width:
            grid.add_column("frozen by", no_wrap=True, style="yellow")
        for group, why, *cells in zip(groups, whys, *columns, strict=True):
            name = Text(wording.shorten(group["name"], name_width))
            last = [Text(wording.shorten(why, why_width))] if why_width else []
            grid.add_row(name, *map(Text, cells), *last)
        yield grid


@dataclass(frozen=True)
class Reasons:
    """Why channels are frozen: one line per group and reason, with the nodes it holds for."""

    report: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        yield Text("frozen channels stay, because", style="bold")
        for group in self.report["groups"]:
            said: dict[str, list[dict[str, Any]]] = {}
            for reason in group["reasons"]:
                said.setdefault(reason["message"], []).append(reason)
            for message, reasons in said.items():
                text = f"{group['name']}: {message} ({_places(reasons)})"
                yield _hanging(text, options.max_width)


def _places(reasons: list[dict[str, Any]]) -> str:
    """The node and its line; of several nodes the first, their number and all their lines."""
    node = reasons[0]["node"]
    if len(reasons) > 1:
        node = f"{node} and {len(reasons) - 1} more"
    lines = dict.fromkeys(reason["source"] for reason in reasons if reason["source"])
    return ", ".join([node, *lines])


def _hanging(text: str, width: int) -> Text:
    """One line, indented; what does not fit goes on, indented further."""
    text = wording.printable(text)
    lines, rest = [], f"  {text}"
    while cell_len(rest) > width:
        cut = _cut(rest, width)
        lines.append(rest[:cut].rstrip())
        rest = f"      {rest[cut:].lstrip()}"
    return Text("\n".join([*lines, rest]))


def _cut(text: str, width: int) -> int:
    """Where to break: after the last space that leaves a full line, else where the width ends."""
    end = next(i for i in range(len(text), 0, -1) if cell_len(text[:i]) <= width)
    space = text.rfind(" ", width // 2, end)
    return end if space < 0 else space + 1


def _columns(groups: list[dict[str, Any]], *, roomy: bool) -> list[list[str]]:
    """The cells of the number columns, one list per column."""
    channels = [(group["kept"], group["size"]) for group in groups]
    kept = [("" if k is None else str(k), str(size)) for k, size in channels]
    columns = [_joined(kept, "/", roomy=roomy)]
    for cost in ("params", "macs"):
        costs = [(group[cost]["before"], group[cost]["after"]) for group in groups]
        pairs = [(wording.count(b), "" if a is None else wording.count(a)) for b, a in costs]
        columns.append(_joined(pairs, "→", roomy=roomy))
    return [*columns, [str(len(group["members"])) for group in groups]]


def _joined(pairs: list[tuple[str, str]], sign: str, *, roomy: bool) -> list[str]:
    """Join pairs so that the signs stand under each other; half a pair stands alone."""
    if not roomy:
        pairs = [(left.replace(" ", ""), right.replace(" ", "")) for left, right in pairs]
    width = max(cell_len(right) for _, right in pairs)
    sign = f" {sign} " if roomy else sign
    return [f"{a}{sign}{b:>{width}}" if a and b else a or b for a, b in pairs]


def _why(group: dict[str, Any]) -> str:
    frozen = wording.frozen_share(group)
    nodes = list(dict.fromkeys(reason["node"] for reason in group["reasons"]))
    more = f" +{len(nodes) - 1}" if len(nodes) > 1 else ""
    return f"{frozen}: {nodes[0]}{more}" if frozen and nodes else frozen


def _split(free: int, groups: list[dict[str, Any]], whys: list[str]) -> tuple[int, int]:
    """Share the free columns between names and frozen-by; the latter gets 2 in 5 at most."""
    names = _widest(["group", *(wording.printable(group["name"]) for group in groups)])
    if not any(whys):
        return max(8, min(names, free - 2)), 0
    free -= 4
    wanted = _widest(["frozen by", *map(wording.printable, whys)])
    why = max(9, min(wanted, max(free * 2 // 5, free - names)))
    return max(8, min(names, free - why)), why


def _widest(texts: list[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _difference(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value)) or wording.NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)
