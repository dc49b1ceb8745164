"""What the zoo must show, and whether it does."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
TOLERANCE = 1e-9
SINGLE = 1e-5  # for models whose own code converts to single precision
BEHIND_PEER = 0.03
TIMM_MODULES = 96
ROUNDING = 1e-4


def exact(row: Record) -> bool:
    """Return whether a model was compressed, and equals the masked one at all it was run at."""
    found = row.get("exact", {})
    return bool(found.get("finished") and found.get("errors") and cause_of(found) is None)


def exported(row: Record) -> bool:
    """Return whether a model was exported, or cannot be exported by torch either."""
    found = row.get("onnx", {})
    if found.get("exported"):
        return (found.get("error") or 0) <= ROUNDING
    dense = found.get("dense")
    return dense is not None and not dense["exported"]


def peer_left(row: Record) -> float | None:
    """Return what Torch-Pruning leaves of the parameters, `None` where it does not work."""
    found = row.get("peer", {})
    left: float | None = found.get("params_left") if found.get("finished") else None
    return left


def as_small_as_peer(row: Record) -> bool:
    """Return whether no more is left than Torch-Pruning leaves, wherever that works."""
    peer = peer_left(row)
    own = row.get("exact", {}).get("params_left", 1.0)
    return peer is None or own <= peer + BEHIND_PEER


@dataclass(frozen=True)
class Verdict:
    """One thing that must hold.

    Attributes:
        what: What it is.
        done: For how many models it holds.
        needed: For how many it must.
        missing: The models for which it does not.
    """

    what: str
    done: int
    needed: int
    missing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return self.done >= self.needed

    def __str__(self) -> str:
        """Say it in one line."""
        state = "ok" if self.ok else "MISSING"
        return f"{state}: {self.what}: {self.done} of {self.done + len(self.missing)}" + (
            "" if self.ok else f", {self.needed} needed"
        )


def verdicts(rows: dict[str, Record]) -> list[Verdict]:
    """Judge all rows."""
    families = {
        "torchvision models compressed exactly": ("torchvision", None),
        "timm modules compressed exactly": ("timm", TIMM_MODULES),
        "transformers compressed exactly": ("transformers", None),
        "ultralytics models compressed exactly": ("ultralytics", None),
    }
    found = []
    for what, (library, enough) in families.items():
        own = {name: row for name, row in rows.items() if name.startswith(f"{library}/")}
        if own:
            found.append(_count(what, own, exact, enough))
    measured = {name: row for name, row in rows.items() if peer_left(row) is not None}
    if measured:
        found.append(_count("as small as Torch-Pruning's + 0.03", measured, as_small_as_peer))
    tried = {name: row for name, row in rows.items() if "onnx" in row}
    if tried:
        of = "" if len(tried) == len(rows) else f" (tried with {len(tried)} of {len(rows)} models)"
        found.append(_count(f"exported to ONNX and equal, if torch can{of}", tried, exported))
    return found


def _count(what: str, rows: dict[str, Record], holds: Any, enough: int | None = None) -> Verdict:
    missing = tuple(name for name, row in rows.items() if not holds(row))
    needed = len(rows) if enough is None else min(enough, len(rows))
    return Verdict(what, len(rows) - len(missing), needed, missing)


def failures(rows: dict[str, Record]) -> Iterable[tuple[str, str, str]]:
    """Yield model, task and cause of everything that went wrong."""
    for name, row in rows.items():
        for task, found in row.items():
            if isinstance(found, dict) and (cause := cause_of(found)):
                yield name, task, cause


def cause_of(found: Record) -> str | None:
    """Say in one line why a task failed."""
    crash = found.get("crash") or found.get("failure")
    if crash:
        where = f" at {crash['where']}" if crash.get("where") else ""
        return f"{crash['stage']}: {crash['type']}: {_first_line(crash['message'])}{where}"
    entries = found.get("errors", ())
    if not entries:
        return None
    if not any("error" in entry for entry in entries):
        return f"the masked model does not run: {_first_line(entries[0]['fixed'])}"
    return _not_exact(entries, found) or (
        "nothing can be removed" if found.get("params_left") == 1 else None
    )


def _not_exact(entries: list[Record], found: Record) -> str | None:
    own = [entry for entry in entries if entry["size"] == found.get("size")]
    notes = [entry["traced_note"] for entry in own if "traced_note" in entry]
    if notes:
        return f"the traced model does not run: {_first_line(notes[0])}"
    for key, what, rows in (("traced", "traced", own), ("error", "compressed", entries)):
        worst = max((entry.get(key, 0) for entry in rows), default=0)
        if worst > (SINGLE if found.get("single") else TOLERANCE):
            return f"the {what} model is off by {worst:.1e}"
    return None


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
