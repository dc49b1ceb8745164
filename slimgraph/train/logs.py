"""What a run says: a CSV file, TensorBoard on request."""

import csv
import io
from pathlib import Path
from typing import Any

from slimgraph.errors import SlimgraphError
from slimgraph.files import write_text

COLUMNS = (
    "stage", "pass", "kind", "epoch", "lr", "loss", "penalty", "accuracy", "channels", "params",
    "macs",
)  # fmt: skip


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


class Board:
    """TensorBoard's files, one point per stage; those after the last state are taken back.

    Args:
        folder: Where to.
        done: How many stages are over.

    Raises:
        SlimgraphError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, done: int) -> None:
        """Open a file."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SlimgraphError(
                "these logs need TensorBoard", hint="pip install tensorboard"
            ) from error
        self.writer: Any = SummaryWriter(str(folder), purge_step=done + 1)

    def add(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row."""
        for name in COLUMNS[4:]:
            if row.get(name) is not None:
                self.writer.add_scalar(name, row[name], row["stage"])

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


def line(row: dict[str, Any]) -> str:
    """Say a row in one line."""
    parts = [f"pass {row['pass']}, {row['kind']}"]
    if row["epoch"]:
        parts[0] += f" {row['epoch']}"
    parts += [f"{name} {row[name]:.4g}" for name in COLUMNS[4:7] if row.get(name) is not None]
    parts.append(f"accuracy {row['accuracy']:.4f}")
    parts += [f"{row[name]:,} {name}" for name in COLUMNS[8:]]
    return ", ".join(parts)
