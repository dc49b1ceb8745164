"""The one-shot experiment, small: digits, a tiny network, few ways."""

import json
from pathlib import Path
from typing import Any

import pytest

from slimgraph.errors import SlimgraphError
from tools.experiments import one_shot
from tools.experiments.networks import NETWORKS

FEW = [
    "--data", "digits", "--epochs", "3", "--width", "0.25", "--shares", "0.5", "--criteria", "l2",
    "obs", "--repairs", "none", "reconstruct", "--images", "128", "--held-out",
    "100", "--test", "200", "--tune-steps", "4",
]  # fmt: skip


def run(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run the command on ResNet-20; return its exit code and the document."""
    places = ["--output", str(folder), "--cache", str(folder / "nets")]
    places += ["--page", str(folder / "page.md")]
    code = one_shot.main(["resnet-20", *FEW, *places, *words])
    return code, json.loads((folder / "resnet-20.json").read_text(encoding="utf-8"))


def test_it_measures_every_way_once_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = run(tmp_path, "--peers")
    ways = [(r["criterion"], r["repair"]) for r in document["rows"] if r["tuned"] is None]
    assert ways == [
        ("dense", "none"), ("l2", "none"), ("l2", "reconstruct"), ("obs", "none"),
        ("obs", "reconstruct"),
    ]  # fmt: skip
    found = dict(zip(ways, document["rows"], strict=False))
    assert found["dense", "none"]["accuracy"] > 0.8
    assert all(0.4 < found[way]["macs"] <= 0.5 for way in ways[1:])
    assert found["obs", "reconstruct"]["accuracy"] > found["obs", "none"]["accuracy"]
    assert [r["tuned"] for r in document["rows"][len(ways) :]] == [0, 1, 2]
    assert {"commit", "machine", "versions", "date"} <= document["runs"][0].keys()
    assert code == 1, "nothing was measured of the peer"
    assert "MISSED: resnet-20: at half the work" in capsys.readouterr().out
    assert "## resnet-20" in (tmp_path / "page.md").read_text(encoding="utf-8")

    kept = document["rows"][:3]
    (tmp_path / "resnet-20.json").write_text(json.dumps(document | {"rows": kept}), "utf-8")
    _, resumed = run(tmp_path, "--peers", "--resume")
    assert [r | {"seconds": 0, "run": 0} for r in resumed["rows"]] == [
        r | {"seconds": 0} for r in document["rows"]
    ], "the trained network is kept, and the rest measured anew to the same numbers"
    assert [r["run"] for r in resumed["rows"][2:4]] == [0, 1]
    with pytest.raises(SlimgraphError, match="other settings"):
        run(tmp_path, "--peers", "--resume", "--images", "64")


def test_torch_pruning_is_measured_in_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    words = (
        "--peers",
        "l2, inner local",
        "taylor, inner global",
        "--criteria",
        "l2",
        "--repairs",
        "none",
    )
    _, document = run(tmp_path, *words)
    rows = [r for r in document["rows"] if r["tool"] == "torch-pruning" and r["tuned"] is None]
    assert not [r["failed"] for r in rows if "failed" in r]
    assert [(r["criterion"], r["repair"]) for r in rows] == [
        ("l2, inner local", "none"), ("l2, inner local", "recalibrate"),
        ("taylor, inner global", "none"), ("taylor, inner global", "recalibrate"),
    ]  # fmt: skip
    assert all(0.4 <= r["macs"] <= 0.6 for r in rows)
    assert len({r["macs"] for r in rows[:2]}) == 1, "repair changes no shapes"
    tuned = [r["tool"] for r in document["rows"] if r["tuned"] is not None]
    assert tuned == ["slimgraph"] * 3 + ["torch-pruning"] * 3


@pytest.mark.parametrize("words", [["resnet-21"], ["--images", "2000"]])
def test_wrong_options_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        one_shot.main(words)


def test_every_network_has_a_file_and_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_shot.main(["--pages", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert all(f"MISSED: {name}:" in said for name in NETWORKS)
