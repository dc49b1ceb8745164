"""Two reports side by side: what is left of the model in each, and where they differ."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from slimgraph.errors import FileError
from slimgraph.report import wording
from slimgraph.report.formats import SCHEMA

Record = dict[str, Any]
_MOST = 40  # groups that are shown; JSON has them all


def load(path: Path) -> Record:
    """Read a report that was written as JSON.

    Raises:
        FileError: The file cannot be read, is no report, or is one of another version.
    """
    hint = f"write one with `--report {path.stem}.json`"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"cannot read `{path}`: {error.strerror}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"`{path}` is no JSON, so it is no report", hint=hint) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise FileError(f"`{path}` is no report of schema `{SCHEMA}`", hint=hint)
    try:
        Comparison(("", ""), (data, data)).as_json()
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"`{path}` is a damaged report", hint=hint) from error
    return dict(data)


@dataclass(frozen=True)
class Comparison:
    """What two reports say of one model, or of two.

    Groups are the same if their names are; the others are counted only.

    Attributes:
        names: Of the reports.
        reports: What `graph.to_dict()` returned, or the same read back from JSON.
    """

    names: tuple[str, str]
    reports: tuple[Record, Record]

    @cached_property
    def totals(self) -> dict[str, tuple[int, int]]:
        """What is left in each, by unit."""
        left = [r["totals"]["after"] or r["totals"]["before"] for r in self.reports]
        return {unit: (left[0][unit], left[1][unit]) for unit in ("channels", "params", "macs")}

    @cached_property
    def settings(self) -> dict[str, tuple[Any, Any]]:
        """What they were asked for, where that differs; `None` where one has no such setting."""
        one, other = (
            {k: v for k, v in report["settings"].items() if k != "trace"} for report in self.reports
        )
        keys = dict.fromkeys([*one, *other])
        return {k: (one.get(k), other.get(k)) for k in keys if one.get(k) != other.get(k)}

    @cached_property
    def errors(self) -> dict[str, tuple[float | None, float | None]]:
        """The error after each step that both know, if they measured the same."""
        first, second = (report.get("errors") for report in self.reports)
        if not first or not second or first["measure"] != second["measure"]:
            return {}
        one, other = ({s["step"]: s["error"] for s in e["steps"]} for e in (first, second))
        return {step: (error, other[step]) for step, error in one.items() if step in other}

    @cached_property
    def groups(self) -> dict[str, tuple[int, int, int]]:
        """Channels kept in each and size in the first, the greatest differences first."""
        one, other = ({g["name"]: g for g in report["groups"]} for report in self.reports)
        found = {n: (_kept(g), _kept(other[n]), g["size"]) for n, g in one.items() if n in other}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1][0] - item[1][1])))

    @cached_property
    def alone(self) -> tuple[list[str], list[str]]:
        """Groups that only one of them has."""
        first, second = ([g["name"] for g in r["groups"]] for r in self.reports)
        return [n for n in first if n not in second], [n for n in second if n not in first]

    def as_json(self) -> Record:
        """Return all of it as JSON data; pairs are in the order of the files."""
        return {
            "reports": list(self.names),
            "models": [report["model"]["name"] for report in self.reports],
            "totals": {unit: list(pair) for unit, pair in self.totals.items()},
            "settings": {name: list(pair) for name, pair in self.settings.items()},
            "errors": {step: list(pair) for step, pair in self.errors.items()},
            "groups": {name: list(row) for name, row in self.groups.items()},
            "alone": list(map(list, self.alone)),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables, with an empty line between them."""
        models = dict.fromkeys(wording.printable(r["model"]["name"]) for r in self.reports)
        yield Text(" and ".join(models), style="bold")
        yield Text()
        yield self._totals()
        if self.settings:
            yield Text()
            yield self._settings()
        if self.errors:
            yield Text()
            yield self._errors()
        yield Text()
        yield from self._groups()

    def _table(self, first: str, *more: str) -> Table:
        grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        grid.add_column(first, overflow="fold")
        for name in (*self.names, *more):
            grid.add_column(Text(wording.printable(name)), justify="right", overflow="fold")
        return grid

    def _totals(self) -> Table:
        grid = self._table("what is left", "second / first")
        for unit, (one, other) in self.totals.items():
            grid.add_row(unit, wording.count(one), wording.count(other), wording.share(other, one))
        return grid

    def _errors(self) -> Table:
        grid = self._table("error")
        for step, pair in self.errors.items():
            grid.add_row(Text(wording.printable(step)), *map(wording.number, pair))
        return grid

    def _settings(self) -> Table:
        grid = self._table("setting")
        for name, pair in self.settings.items():
            grid.add_row(*(Text(wording.printable(_said(text))) for text in (name, *pair)))
        return grid

    def _groups(self) -> Iterator[Table | Text]:
        different = {name: row for name, row in self.groups.items() if row[0] != row[1]}
        if different:
            grid = self._table("channels kept", "of")
            for name, row in list(different.items())[:_MOST]:
                grid.add_row(Text(wording.printable(name)), *map(str, row))
            yield grid
        if len(different) > _MOST:
            yield Text(f"and {len(different) - _MOST} more groups that differ", style="dim")
        same = len(self.groups) - len(different)
        yield Text(f"{same} of {len(self.groups)} common groups keep equally many", style="dim")
        for name, own in zip(self.names, self.alone, strict=True):
            if own:
                found = f"{wording.printable(name)} alone has {len(own)} groups: another model"
                yield Text(found, style="dim")


def _kept(group: Record) -> int:
    kept = group["kept"]
    return int(group["size"] if kept is None else kept)


def _said(value: Any) -> str:
    if value is None:
        return wording.NOTHING
    return value if isinstance(value, str) else json.dumps(value)
