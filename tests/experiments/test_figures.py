"""The figure of the one-shot experiment shows the rows, and is the same for the same rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.experiments import figures, frontier, one_shot
from tools.experiments.verdicts import cells

LINES = {
    "slimgraph/obs/reconstruct": (0.85, 0.88), "slimgraph/l2/none": (0.3, 0.6),
    "slimgraph/l2/reconstruct": (0.7, 0.8), "torch-pruning/l2, local/none": (0.2, 0.5),
    "torch-pruning/l2, local/recalibrate": (0.5, 0.75),
}  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Make rows at 0.5 and 0.9 of the work."""
    found = [("dense/dense/none", 1.0, 0.9)]
    found += [(w, s, a) for w, pair in LINES.items() for s, a in zip((0.5, 0.9), pair, strict=True)]
    return [
        dict(zip(("tool", "criterion", "repair"), way.split("/"), strict=True))
        | {"share": share, "seed": 0, "tuned": None, "run": 0, "macs": share - 0.01}
        | {"held_out": right, "accuracy": right}
        for way, share, right in found
    ]


def test_lines_are_the_best_at_the_work_they_take() -> None:
    found = frontier.curves(rows())
    assert found["slimgraph, best"] == [(0.49, 0.85), (0.89, 0.88)]
    assert found["slimgraph, default"] == found["slimgraph, best"]
    assert found["Torch-Pruning, best"] == [(0.49, 0.5), (0.89, 0.75)]
    assert found["Torch-Pruning, not repaired"] == [(0.49, 0.2), (0.89, 0.5)]
    by_criterion = frontier.frontiers(cells(rows()), "slimgraph")
    assert by_criterion["l2"] == [(0.49, 0.7), (0.89, 0.8)]
    assert set(frontier.STYLES) == set(found)


def test_it_is_drawn_twice_the_same_and_the_page_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    words = ["--results", str(tmp_path), "--output", str(tmp_path)]
    assert figures.main(words) == 1
    settings = {
        "data": "digits", "width": 1.0, "images": 8, "selections": False,
        "training": {"steps": 1, "batch": 1},
    }  # fmt: skip
    run = {"date": "2020", "commit": "a", "versions": {}, "machine": dict.fromkeys(
        ("processor", "cores", "threads"), 1)}  # fmt: skip
    document = {"settings": settings, "runs": [run], "rows": rows()}
    folder = tmp_path / "one-shot"
    folder.mkdir()
    for name in ("resnet-20", "cifarnet"):
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    contents = []
    for _ in range(2):
        assert figures.main(words) == 0
        contents.append([(tmp_path / f"{frontier.NAME}.{k}").read_bytes() for k in ("svg", "png")])
    assert contents[0] == contents[1]
    assert "wrote one-shot-frontier.svg" in capsys.readouterr().out
    page = tmp_path / "page.md"
    one_shot.main(["--pages", "--output", str(folder), "--page", str(page)])
    assert f"]({frontier.NAME}.svg)" in page.read_text(encoding="utf-8")
