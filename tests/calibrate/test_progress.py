"""Word of how far a run is: a bar on a terminal, lines to whoever asks, else nothing."""

import pytest

from slimgraph.calibrate.ranks import tracked


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes what it writes to for a terminal
    monkeypatch.setenv("TERM", "xterm")
    assert list(tracked([1, 2, 3], "count things", None)) == [1, 2, 3]
    said = capsys.readouterr()
    assert "count things" in said.err
    assert not said.out


def test_nothing_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert list(tracked(iter([1, 2]), "count things", None)) == [1, 2]
    said = capsys.readouterr()
    assert not said.err
    assert not said.out


def test_lines_to_whoever_asks() -> None:
    lines: list[str] = []
    assert list(tracked("ab", "count", lines.append)) == ["a", "b"]
    assert lines == ["count, 1", "count, 2"]
