"""What was measured: rows in a JSON file, written after each, with what they were measured on."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from slimgraph.errors import SlimgraphError
from slimgraph.files import write_text
from tools.bench.compile import processor

Record = dict[str, Any]
ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torch-pruning", "numpy", "scipy", "scikit-learn")


def commit() -> str:
    """Name the state of the code."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def circumstances() -> Record:
    """Say on what code, versions and machine a run measures, and when it began."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        },
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
    }  # fmt: skip


def circumstances_said(run: Record) -> str:
    """Say in one sentence what `circumstances` returned.

    Args:
        run: What it returned.
    """
    machine, versions = run["machine"], run["versions"]
    named = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"Measured {run['date'][:10]} at {run['commit']} on {machine['processor']}, "
        f"{machine['cores']} cores, {machine['threads']} threads; {named}."
    )


class Journal:
    """The rows of one experiment.

    Args:
        path: Of the JSON file.
        settings: What all rows share, as JSON data; rows of other settings are never mixed in.
        resume: Keep the rows there are. Without, the file begins anew.

    Raises:
        SlimgraphError: The rows there are come from other settings.
    """

    def __init__(self, path: Path, settings: Record, *, resume: bool) -> None:
        self.path = path
        self.document: Record = {"settings": settings, "runs": [], "rows": []}
        if resume and path.exists():
            self.document = json.loads(path.read_text(encoding="utf-8"))
            if self.document["settings"] != json.loads(json.dumps(settings)):
                raise SlimgraphError(
                    f"`{path.name}` holds rows of other settings",
                    hint="give the same options, another `--output`, or no `--resume`",
                )
        self.document["runs"].append(circumstances())

    @property
    def rows(self) -> list[Record]:
        """What was measured; `run` says which of `runs` measured it."""
        found: list[Record] = self.document["rows"]
        return found

    def has(self, **facts: Any) -> bool:
        """Tell whether there is a row with these entries."""
        return any(all(row.get(k) == v for k, v in facts.items()) for row in self.rows)

    def add(self, row: Record) -> None:
        """Write one more row to the file, at once."""
        self.add_all([row])

    def add_all(self, rows: list[Record]) -> None:
        """Write rows that belong together to the file, at once."""
        run = len(self.document["runs"]) - 1
        self.rows.extend(row | {"run": run} for row in rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.document, indent=1) + "\n")
