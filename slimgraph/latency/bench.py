"""Files side by side: how long runs take, in turns, and which operators take it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from slimgraph.display import Rows
from slimgraph.errors import SlimgraphError
from slimgraph.latency.alternating import Timed, in_turns
from slimgraph.latency.kernels import Profile, profile
from slimgraph.runtime import Inputs, open_session

MOST_OPERATORS = 12  # in the table of the terminal
_KINDS = {
    "float": np.float32, "float16": np.float16, "double": np.float64, "int64": np.int64,
    "int32": np.int32, "bool": np.bool_, "uint8": np.uint8, "int8": np.int8,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measured:
    """One file.

    Attributes:
        path: Of the file.
        bytes: Its size, with that of weights in a file beside it.
        timed: Its runs.
        profile: Where their time goes.
    """

    path: Path
    bytes: int
    timed: Timed
    profile: Profile


@dataclass(frozen=True, eq=False)
class Comparison:
    """Files that were timed in turns.

    Attributes:
        files: In the order they were given; ratios are to the first.
        threads: How many an operator could use.
        batch: Of inputs whose first dim is free.
    """

    files: tuple[Measured, ...]
    threads: int
    batch: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data: times in milliseconds, sizes in bytes."""
        first = self.files[0].timed
        return {
            "threads": self.threads, "batch": self.batch,
            "models": [
                {
                    "file": str(each.path), "bytes": each.bytes, "ms": each.timed.ms,
                    "quartiles_ms": each.timed.quartiles, "ratio": each.timed.share_of(first),
                    "ratio_quartiles": each.timed.shares_of(first),
                    "operators": [vars(kernel) for kernel in each.profile.kernels],
                }
                for each in self.files
            ],
        }  # fmt: skip

    def __rich__(self) -> Group:
        """Show the times, and the operators that take most of them."""
        return Group(_table(self._times()), *(_table(self._operators(f)) for f in self.files))

    def _times(self) -> Rows:
        first = self.files[0].timed
        rows = []
        for each in self.files:
            low, high = each.timed.quartiles
            least, most = each.timed.shares_of(first)
            rows.append((
                each.path.name, f"{each.timed.ms:.3f}", f"{low:.3f} to {high:.3f}",
                f"{each.timed.share_of(first):.3f}", f"{least:.3f} to {most:.3f}",
                f"{each.bytes / 1e6:.2f}",
            ))  # fmt: skip
        title = f"onnxruntime, {self.threads} threads, batch {self.batch}, in turns"
        heads = ("file", "ms", "quartiles", "of the first", "quartiles", "MB")
        return Rows(title, heads, rows)

    def _operators(self, file: Measured) -> Rows:
        whole = sum(kernel.ms for kernel in file.profile.kernels)
        longest = sorted(file.profile.kernels, key=lambda kernel: -kernel.ms)
        rows = [
            (k.name, k.op, f"{k.ms:.3f}", f"{k.ms / whole:.1%}", "blocked" if k.blocked else "")
            for k in longest[:MOST_OPERATORS]
        ]
        title = f"{file.path.name}: {len(longest)} operators, the longest"
        return Rows(title, ("operator", "type", "ms", "share", "layout"), rows)


def _table(shown: Rows) -> Table:
    table = Table(title=Text(shown.title), title_justify="left", box=None, header_style="dim")
    for heading in shown.headings:
        table.add_column(heading, overflow="fold")
    for row in shown.rows:
        table.add_row(*map(Text, row))
    return table


def bench(
    files: Sequence[Path],
    *,
    threads: int = 1,
    batch: int = 1,
    rounds: int = 15,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Time ONNX files in turns, and profile each.

    Args:
        files: At least one.
        threads: How many an operator may use.
        batch: First dim of inputs that leave it free.
        rounds: How often each file has its turn.
        progress: Called with the name of every step when it starts.

    Raises:
        SlimgraphError: A number is out of range, a file is missing, or an input has a free dim
            beside its first.
        OnnxExportError: onnxruntime cannot load or run a file.
    """
    say = progress or (lambda _: None)
    if threads < 1 or batch < 1 or rounds < 1:
        raise SlimgraphError(
            "`threads`, `batch` and `rounds` must be at least 1", hint="leave them out"
        )
    for path in files:
        if not path.is_file():
            raise SlimgraphError(f"there is no file `{path}`", hint="give ONNX files")
    jobs: list[tuple[Path | bytes, Inputs]] = [(path, inputs_of(path, batch)) for path in files]
    say("time in turns")
    timed = in_turns(jobs, threads, rounds)
    found = []
    for path, (_, inputs), own in zip(files, jobs, timed, strict=True):
        say(f"profile {path.name}")
        beside = path.with_name(f"{path.name}.data")
        size = path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
        found.append(Measured(path, size, own, profile(path, inputs, threads)))
    return Comparison(tuple(found), threads, batch)


def inputs_of(path: Path, batch: int = 1) -> Inputs:
    """Draw inputs of the types and shapes that a file asks for; integers are zeros.

    Args:
        path: An ONNX file.
        batch: First dim where it is free.

    Raises:
        SlimgraphError: Another dim is free, or a type is unknown.
    """
    chance = np.random.default_rng(0)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for wanted in open_session(path).get_inputs():
        sizes = list(wanted.shape)
        if sizes and not isinstance(sizes[0], int):
            sizes[0] = batch
        kind = _KINDS.get(wanted.type.removeprefix("tensor(").removesuffix(")"))
        if kind is None or not all(isinstance(size, int) for size in sizes):
            raise SlimgraphError(
                f"input `{wanted.name}` of `{path.name}` has the shape {wanted.shape} and the type "
                f"{wanted.type}, which inputs cannot be drawn for",
                hint="export the file with fixed sizes; only the first dim may be free",
            )
        drawn = chance.standard_normal(sizes)
        found[wanted.name] = (drawn if np.issubdtype(kind, np.floating) else 0 * drawn).astype(kind)
    return found
