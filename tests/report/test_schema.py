import copy
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.report import sample


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema)


def objects(value: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a report but the free-form settings."""
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            if key != "settings":
                yield from objects(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from objects(item, f"{path}[]")


def test_the_schema_is_a_schema_and_has_a_versioned_id(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == "urn:slimgraph:report:1"


def test_every_sample_is_valid(schema: dict[str, Any], report: dict[str, Any]) -> None:
    validator(schema).validate(report)


def test_no_object_takes_an_unknown_key(schema: dict[str, Any], compressed: dict[str, Any]) -> None:
    report = copy.deepcopy(compressed)
    places = dict(objects(report))
    assert "$.groups[].couplings[]" in places
    assert "$.export.latency_ms" in places
    for path, place in places.items():
        place["surprise"] = 1
        assert not validator(schema).is_valid(report), path
        del place["surprise"]
    assert validator(schema).is_valid(report)


def test_no_object_may_lack_a_key(schema: dict[str, Any], compressed: dict[str, Any]) -> None:
    report = copy.deepcopy(compressed)
    for path, place in dict(objects(report)).items():
        for key in list(place):
            value = place.pop(key)
            assert not validator(schema).is_valid(report), f"{path}.{key}"
            place[key] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "slimgraph.report/2"),
        (("groups", 0, "keep"), [2]),
        (("groups", 0, "size"), -1),
        (("groups", 0, "frozen_channels"), [3]),
        (("groups", 0, "frozen_channels"), [[3]]),
        (("groups", 0, "frozen_channels"), [[3, 4, 5]]),
        (("groups", 0, "scores"), ["high"]),
        (("layers", 0, "in"), [3]),
        (("layers", 0, "in"), [3, 2, 1]),
        (("layers", 0, "out"), [None, 1]),
        (("nodes", 0, "kind"), "magic"),
        (("totals", "before"), None),
    ],
)
def test_wrong_values_are_refused(
    schema: dict[str, Any], path: tuple[Any, ...], value: Any
) -> None:
    report = sample.network().report()
    place: Any = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not validator(schema).is_valid(report)
