"""Network Slimming's tables, small: digits, a tiny network, one epoch a stage."""

import json
from pathlib import Path
from typing import Any

import pytest

from slimgraph.errors import SlimgraphError
from tools.experiments import slimming


def run(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run the command on ResNet-20; return its exit code and the document."""
    options = [
        "--data",
        "digits",
        "--epochs",
        "1",
        "--tune-epochs",
        "1",
        "--width",
        "0.5",
        "--shares",
        "0.4",
    ]
    places = ["--output", str(folder), "--cache", str(folder / "runs")]
    places += ["--page", str(folder / "page.md")]
    code = slimming.main(["resnet-20", *options, *places, *words])
    return code, json.loads((folder / "resnet-20.json").read_text(encoding="utf-8"))


def test_every_stage_is_a_row_and_passes_go_on_from_each_other(tmp_path: Path) -> None:
    code, document = run(tmp_path, "--passes", "2")
    assert code == 0
    rows = document["rows"]
    assert [(r["share"], r["pass"], r["stage"]) for r in rows] == [
        (0.0, 0, "baseline"), (0.4, 1, "sparse"), (0.4, 1, "compress"), (0.4, 1, "tune"),
        (0.5, 1, "sparse"), (0.5, 1, "compress"), (0.5, 1, "tune"),
        (0.5, 2, "sparse"), (0.5, 2, "compress"), (0.5, 2, "tune"),
    ]  # fmt: skip
    macs = [r["macs"] for r in rows]
    assert macs[0] == macs[1] == macs[4]
    assert macs[3] == macs[2] < macs[1]
    assert macs[9] < macs[6] < macs[4]
    assert all(0 <= r["error"] <= 1 for r in rows)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| 40%, pruned |" in page
    assert "| pass 2 of 2, 50% each, fine-tuned |" in page
    _, resumed = run(tmp_path, "--passes", "2", "--resume")
    assert resumed["rows"] == rows, "nothing is measured twice"
    with pytest.raises(SlimgraphError, match="other settings"):
        run(tmp_path, "--resume", "--strength", "0.1")


def test_a_run_that_cannot_be_done_is_a_row_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = run(tmp_path, "--passes", "1", "--strength", "1e30")
    assert code == 1
    assert document["rows"][-1]["stage"] == "failed"
    assert "NaN or infinite" in document["rows"][-1]["failed"]
    assert "failed:" in capsys.readouterr().out
    assert "- 40%, seed 0: `first.0.weight` holds NaN" in (tmp_path / "page.md").read_text(
        encoding="utf-8"
    )
