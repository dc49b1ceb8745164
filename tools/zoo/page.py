"""The page docs/zoo.md, made from the rows."""

from collections import Counter
from typing import Any

from tools.zoo.judge import cause_of, exact, exported, peer_left, verdicts

Record = dict[str, Any]
HEADINGS = (
    "model", "traced", "groups", "frozen", "params left", "Torch-Pruning", "exact to", "ONNX",
    "seconds", "peak MB",
)  # fmt: skip
INTRODUCTION = """# The zoo

Every model of torchvision that is not quantised, the smallest model of each module of timm, tiny
transformers with random configurations and the YOLO detectors, all with random weights: half of the
channels of each group that can shrink leave, chosen at random, and the smaller model is compared in
double precision with the masked one, at two sizes where the model has them and at batches of 2
and 3. This page is made by

```shell
python -m tools.zoo
```

- **traced**: the rung of the tracing ladder; `leaf` names how many submodules stayed whole.
- **groups**: of coupled channels, and how many of them can shrink.
- **frozen**: share of all channels that cannot leave; in brackets without the outputs' own.
- **params left** and **Torch-Pruning**: share of the parameters at half of the channels; `-` where
  Torch-Pruning fails or does not end.
- **exact to**: largest difference to the masked model, relative to the largest output; `float32`
  where the model's own code computes in single precision, `gentle` where its weights are weaker,
  since rounding alone would move the masked model's output by more than 1e-9.
- **ONNX**: largest relative difference of onnxruntime to torch in single precision;
  "torch fails too" where torch cannot export the model before compression.
- **seconds**: trace, analyse, choose and compress. **peak MB**: of the whole measurement.
"""


def page(document: Record) -> str:
    """Render a document of rows as Markdown."""
    rows: dict[str, Record] = document["rows"]
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    versions = ", ".join(f"{key} {value}" for key, value in document["versions"].items())
    lines = [INTRODUCTION, f"Measured on {machine}; {versions}.\n{_commits(rows)}"]
    lines.append("## What it shows\n")
    lines += [f"- {verdict}" for verdict in verdicts(rows)]
    for library in dict.fromkeys(name.partition("/")[0] for name in rows):
        own = {n: row for n, row in rows.items() if n.startswith(f"{library}/")}
        lines += ["", f"## {library}", "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
        lines += [_line(_cells(name.partition("/")[2], row)) for name, row in own.items()]
    lines += ["", "## What keeps channels", "", *_reasons(rows)]
    return "\n".join([*lines, *_failed(rows)]) + "\n"


def _commits(rows: dict[str, Record]) -> str:
    """Say which states of the code the rows were measured on."""
    tasks = (task for row in rows.values() for task in row.values() if isinstance(task, dict))
    found = Counter(task["commit"] for task in tasks if "commit" in task)
    named = ", ".join(f"{commit} ({count})" for commit, count in found.most_common())
    return f"Measurements by commit: {named}.\n" if named else ""


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(name: str, row: Record) -> list[str]:
    found = row.get("exact", {})
    seconds = sum(found.get("seconds", {}).get(s, 0) for s in _TIMED)
    peer = peer_left(row)
    return [
        f"`{name}`",
        _rung(found),
        f"{found['groups']} ({found['prunable_groups']})" if "groups" in found else "-",
        _frozen(found),
        f"{found['params_left']:.3f}" if "params_left" in found else "-",
        "-" if peer is None else f"{peer:.3f}",
        _exactness(found),
        _onnx(row.get("onnx", {})),
        f"{seconds:.2f}" if seconds else "-",
        f"{found['peak_mb']:.0f}" if "peak_mb" in found else "-",
    ]


_TIMED = ("trace", "analyze", "choose", "compress")


def _rung(found: Record) -> str:
    leaves = len(found.get("leaves", ()))
    return f"{found.get('rung', 'no')}{f', {leaves} leaf' if leaves else ''}"


def _frozen(found: Record) -> str:
    if "frozen_share" not in found:
        return "-"
    rest = max(found["frozen_share"] - found["frozen_by_output"], 0)
    return f"{found['frozen_share']:.2f} ({rest:.2f})"


def _exactness(found: Record) -> str:
    errors = [entry["error"] for entry in found.get("errors", ()) if "error" in entry]
    if found.get("crash") or not errors:
        return "fails"
    sizes = {entry["size"] for entry in found["errors"] if "error" in entry}
    notes = {
        "one size": len(sizes) == 1,
        "float32": found.get("single"),
        "gentle": found.get("gain", 1) < 1,
    }
    said = ", ".join(note for note, holds in notes.items() if holds)
    return f"{max(errors):.0e}{f' ({said})' if said else ''}"


def _onnx(found: Record) -> str:
    if found.get("exported"):
        return f"{found['error']:.0e}" if found.get("error") is not None else "written"
    dense = found.get("dense")
    if dense is not None and not dense["exported"]:
        return "torch fails too"
    return "fails" if found else "-"


def _reasons(rows: dict[str, Record]) -> list[str]:
    """Count the models in which a reason freezes channels."""
    models: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    for row in rows.values():
        for reason in row.get("exact", {}).get("reasons", ()):
            models[reason["reason"]] += 1
            channels[reason["reason"]] += reason["channels"]
    head = [_line(["reason", "models", "channels"]), _line(["---"] * 3)]
    return head + [
        _line([text.replace("|", "/"), str(count), str(channels[text])])
        for text, count in models.most_common(30)
    ]


def _failed(rows: dict[str, Record]) -> list[str]:
    """List the models that are not compressed exactly, or not exported, and why."""
    failed = {n: row.get("exact", {}) for n, row in rows.items() if not exact(row)}
    unwritten = {n: row["onnx"] for n, row in rows.items() if "onnx" in row and not exported(row)}
    if not failed and not unwritten:
        return []
    lines = ["", "## What does not work yet", ""]
    for name, found in (*failed.items(), *unwritten.items()):
        cause = (cause_of(found) or "nothing can be removed").replace("|", "/")
        lines.append(f"- `{name}`: {cause}")
    return lines
