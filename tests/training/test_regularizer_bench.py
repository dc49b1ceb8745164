"""The benchmark of regularisers measures all of them, and says which are too slow."""

from tools.bench import regularizers


def _document(steps: dict[str, regularizers.Record]) -> regularizers.Record:
    return {
        "date": "2026-01-01T00:00:00+00:00", "machine": {"processor": "one", "cores": 2},
        "versions": {"torch": "2"}, "batch": 2, "side": 32, "rounds": 1, "steps": steps,
    }  # fmt: skip


def test_every_form_of_every_regulariser_is_compared_with_the_plain_step() -> None:
    found = regularizers.measure(rounds=2, batch=2, side=32)
    assert found["none"]["ratio"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    named = {name.partition(",")[0] for name in found}
    assert named == {
        "none", "OICSR", "GroupLasso", "L1", "NetworkSlimming", "GroupPull", "GReg-1", "GReg-2",
        "FeatureFlow",
    }  # fmt: skip
    for row in found.values():
        assert row["seconds"] > 0
        assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]


def test_the_page_says_which_steps_miss_the_goal() -> None:
    rows = {
        name: {"seconds": 1.0, "ratio": {"median": ratio, "min": ratio, "max": ratio}}
        for name, ratio in (("quick", 1.05), ("slow", 1.2))
    }
    lines = regularizers.page(_document(rows)).splitlines()
    assert next(line for line in lines if line.startswith("| quick")).endswith("| reached |")
    assert next(line for line in lines if line.startswith("| slow")).endswith("| **missed** |")
