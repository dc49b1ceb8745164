import json
import math
from typing import Any

import jsonschema

from slimgraph.report import render
from tests.report import sample


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def test_json_says_what_the_report_says(report: dict[str, Any]) -> None:
    assert json.loads(render(report, "json")) == report


def test_the_order_of_keys_does_not_depend_on_the_report(compressed: dict[str, Any]) -> None:
    text = render(compressed, "json")
    assert render(reversed_keys(compressed), "json") == text
    assert text.startswith('{\n  "schema": "slimgraph.report/1",\n  "slimgraph": "0.1.0",\n')


def test_lists_of_numbers_stay_on_one_line(compressed: dict[str, Any]) -> None:
    lines = render(compressed, "json").splitlines()
    scores = compressed["groups"][0]["scores"]
    assert f'      "scores": {json.dumps(scores)},' in lines


def test_what_is_no_number_in_json_becomes_null(schema: dict[str, Any]) -> None:
    report = sample.chain(2).report()
    report["groups"][0]["scores"] = [math.nan, math.inf, -math.inf, 1.0]
    read = json.loads(render(report, "json"))
    assert read["groups"][0]["scores"] == [None, None, None, 1.0]
    jsonschema.validate(read, schema)
