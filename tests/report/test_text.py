import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from slimgraph.report import table
from slimgraph.report.text import render_text
from slimgraph.report.wording import NOTHING, change, count, shape, shorten, size
from tests.report import sample


@pytest.mark.parametrize("width", [60, 80, 100, 132])
def test_no_line_is_wider_than_the_terminal(report: dict[str, Any], width: int) -> None:
    lines = render_text(report, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert not any(line.endswith(" ") for line in lines)


def test_names_reach_the_terminal_without_acting_on_it() -> None:
    text = render_text(sample.hostile(), 200)
    assert set(map(str.isprintable, text.splitlines())) == {True}
    for said in ("[red]markup[/red]", r"new\nline\ttab", r"\x1b[31mescape", sample.HOSTILE[4]):
        assert said in text


def test_the_table_at_eighty_columns() -> None:
    lines = render_text(sample.network(2, 1).report(), 80).splitlines()
    start = lines.index("")
    assert lines[:start] == ["SketchNet", f"{shape([1, 3, 32, 32])} → {shape([1, 10, 1, 1])}"]
    assert lines[start + 1 : start + 5] == [
        "             before    after   remains",
        "parameters   68.8 k   17.0 k    24.7 %",
        "MACs         36.6 M   10.3 M    28.2 %",
        "channels        390      201    51.5 %",
    ]
    head = next(i for i, line in enumerate(lines) if line.startswith("group"))
    assert lines[head : head + 3] == [
        "group               channels       params         MACs  members  frozen by",
        "stem.conv               6/16    432→  162   442k→ 166k        6",
        "layer1.0.conv1          7/24  3.46k→  378  3.54M→ 387k        5",
    ]
    assert lines[-4].endswith("4  all: output")
    assert lines[-2:] == [
        "frozen channels stay, because",
        "  classifier.fc: reaches the model's output (output, net.py:280)",
    ]


def test_a_wide_terminal_writes_numbers_with_spaces() -> None:
    assert " 6 / 16 " in render_text(sample.network().report(), 100)
    assert "6/16" in render_text(sample.network().report(), 99)


def test_a_choice_is_told_in_a_line(compressed: dict[str, Any]) -> None:
    trace = {"strategy": "stepwise", "options": {"drop": 0.02}, "decisions": [{}, {}]}
    settings = {"constants": "zero", "trace": trace, "recipe": {"passes": 2, "lr": 0.1}}
    text = render_text({**compressed, "settings": settings}, 100)
    for line in (
        "  settings: constants zero\n",
        "  recipe: passes 2, lr 0.1\n",
        "  choice: stepwise (drop 0.02), decisions: 2\n",
    ):
        assert line in text


def test_settings_file_and_parity_are_told(compressed: dict[str, Any]) -> None:
    text = render_text(compressed, 100)
    for line in (
        "  settings: criterion l2, budget macs 0.5, round_to 8, seed 0, keep \N{EN DASH}\n",
        "  file: out.onnx, 1.23 MB, 42 nodes, opset 20\n",
        "  parity: output agrees, largest difference 1.2e-06 (tolerance 1e-04)\n",
        "  latency: 1.23 ms median of 20 runs, 1.11 to 1.87, threads: 1\n",
    ):
        assert line in text


def test_a_parity_that_is_no_number_is_told(compressed: dict[str, Any]) -> None:
    check = compressed["export"]["parity"][0] | {"max_abs": None, "ok": False}
    export = compressed["export"] | {"parity": [check]}
    text = render_text(compressed | {"export": export}, 100)
    assert "parity: output DISAGREES, largest difference not finite (tolerance 1e-04)" in text


def test_nothing_compressed_shows_totals_only() -> None:
    text = render_text(sample.network().report(keep=None), 80)
    assert "remains" not in text
    assert "→" not in text.partition("group ")[2]


def test_one_reason_for_many_nodes_is_one_line() -> None:
    report = sample.chain(2).report()
    reasons = [
        {"node": f"norm_{i}", "source": f"net.py:{i % 2}", "message": "has no rule"}
        for i in range(30)
    ]
    report["groups"][0] |= {"reasons": reasons, "frozen": 3}
    text = render_text(report, 80)
    assert "3: norm_0 +29" in text
    assert "  conv0: has no rule (norm_0 and 29 more, net.py:0, net.py:1)\n" in text


def test_a_long_reason_leaves_room_for_names() -> None:
    report = sample.chain(1).report()
    report["groups"][0]["name"] = "features.denseblock3.denselayer16.conv2"
    report["groups"][0]["reasons"][0]["node"] = "features_denseblock3_denselayer16_roll"
    assert "features.…layer16.conv2 " in render_text(report, 80)


def test_a_model_without_groups_says_so() -> None:
    assert "no groups: the model has no channels" in render_text(sample.no_groups(), 80)


def test_the_table_is_a_rich_renderable(compressed: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(table(compressed))
    assert "\x1b[1m" in capture.get()


def test_numbers_read_as_people_write_them() -> None:
    assert [count(n) for n in (None, 0, 999, 1000, 9_999, 99_999)] == [
        *(NOTHING, "0", "999", "1.00 k", "10.0 k", "100 k")
    ]
    assert count(4_089_184_256) == "4.09 G"
    assert [size(n) for n in (None, 12, 1_234_567)] == [NOTHING, "12 B", "1.23 MB"]
    assert change(64, None) == "64"
    assert change(9_408, 0) == "9.41 k → 0"


@pytest.mark.parametrize("width", range(12))
def test_shortened_names_fit(width: int) -> None:
    for name in sample.HOSTILE:
        assert cell_len(shorten(name, width)) <= width


def test_it_says_how_the_model_was_traced_and_what_stays_opaque() -> None:
    net = sample.network()
    net.leaves = ["neck"]
    text = render_text(net.report(), 100)
    assert "  traced: by its own Python, with opaque parts\n  opaque: neck: neck resists\n" in text
    assert "traced" not in render_text(sample.network().report(), 100)
