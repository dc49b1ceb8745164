"""What penalties do, small: digits, a tiny network, one epoch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.experiments import figures, oicsr, scales

SMALL = ["resnet-20", "--data", "digits", "--epochs", "1", "--width", "0.5"]


def run(module: Any, folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    """Run an experiment; return the document and the page."""
    own = folder / module.RESULTS.name
    places = ["--output", str(own), "--cache", str(folder / "nets"), "--page", str(own / "p.md")]
    assert module.main([*SMALL, *places, *words]) == 0
    text = (own / "resnet-20.json").read_text(encoding="utf-8")
    return json.loads(text), (own / "p.md").read_text(encoding="utf-8")


def test_concentration_is_the_share_of_the_strongest() -> None:
    energies = torch.tensor([1.0, 5.0, *[0.0] * 17, 4.0])
    assert oicsr.concentration(energies)[:4] == [0.5, 0.9, 1.0, 1.0]
    assert oicsr.concentration(torch.ones(40)) == [round(k / 20, 4) for k in range(1, 21)]


def test_penalties_are_compared_at_the_same_work(tmp_path: Path) -> None:
    words = ("--penalties", "oicsr", "lasso", "--shares", "0.5")
    document, page = run(oicsr, tmp_path, *words)
    rows = document["rows"]
    ways = [(r["penalty"], r["strength"], r["criterion"]) for r in rows if r["stage"] == "trained"]
    pairs = [(k, s, c) for k in ("oicsr", "lasso") for s in (3e-3, 1e-2) for c in ("oicsr", "l2")]
    assert ways == [("none", 0.0, "oicsr"), *pairs]
    trained = {(r["penalty"], r["strength"]): r["error"] for r in rows if r["stage"] == "trained"}
    assert len(set(trained.values())) > 1, "penalties change what is learnt"
    assert {r["stage"] for r in rows if r["share"] == 0.5} == {"pruned", "fine-tuned"}
    assert "| OICSR 0.003 | each layer |" in page
    again, _ = run(oicsr, tmp_path, *words, "--resume")
    assert again["rows"] == rows, "nothing is measured twice"


def test_scales_shrink_under_the_penalty_and_figures_show_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    document, page = run(scales, tmp_path, "--strengths", "0", "0.5", "--shares", "0.3", "0.6")
    rows = {(row["strength"], row["share"]): row for row in document["rows"]}
    assert list(rows) == [(s, share) for s in (0.0, 0.5) for share in (0.0, 0.3, 0.6)]
    free, pulled = (rows[strength, 0.0]["epochs"] for strength in (0.0, 0.5))
    assert len(free) == len(pulled) == 2, "before the first epoch and after it"
    assert set(free[0]) == set(pulled[0]) == {0.5}
    assert sum(pulled[-1]) < sum(free[-1]) / 2
    channels = sum(rows[0.0, 0.0]["scales"]["counts"])
    assert channels == sum(rows[0.5, 0.0]["scales"]["counts"]) > 100
    assert rows[0.5, 0.6]["params"] < rows[0.5, 0.3]["params"]
    assert "| 0.5 | 60% |" in page
    contents = []
    for _ in range(2):
        assert figures.main(["--results", str(tmp_path), "--output", str(tmp_path)]) == 0
        contents.append([path.read_bytes() for path in sorted(tmp_path.glob("scales-*.*"))])
    assert len(contents[0]) == 6
    assert contents[0] == contents[1]
