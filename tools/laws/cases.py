"""One case: a net from a seed, all properties, and the shortest recipe that fails alike."""

import re
import traceback
import warnings
from typing import Any, NamedTuple

import torch

from tests.laws.recipes import PROPERTIES, RandomCase, check
from tests.nets.recipes.grown import recipe_of
from tests.nets.recipes.net import Recipe, Step

_MOST_TRIES = 300


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        seed: It makes the net, its weights and the masks.
        notes: What was refused, as it may be.
        failure: What is wrong, as JSON data; `None` if nothing is.
    """

    seed: int
    notes: list[str]
    failure: dict[str, Any] | None = None


def run_case(seed: int) -> Outcome:
    """Check all properties of one net; of a failure, find a small net that fails alike."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    warnings.simplefilter("error")  # what no rule knows is a failure
    recipe = recipe_of(seed)
    try:
        return Outcome(seed, check(RandomCase(recipe, seed)))
    except Exception as error:
        text = "".join(traceback.format_exception(error))[-2000:]
        text = re.sub(r'File "[^"]*/', 'File "', text)  # no folders of this machine
    name, kind = _complaint(recipe, seed) or ("the net is untouched", "AssertionError")
    small = _shrunken(recipe, seed, (name, kind))
    failure = {
        "seed": seed, "property": name, "error": kind, "traceback": text,
        "recipe": [[step.op, list(step.choices)] for step in small],
    }  # fmt: skip
    return Outcome(seed, [], failure)


def _complaint(recipe: Recipe, seed: int) -> tuple[str, str] | None:
    """Name the first property that does not hold, and how it fails but for names and numbers."""
    case = RandomCase(recipe, seed)
    for name, holds in PROPERTIES.items():
        try:
            holds(case)
        except Exception as error:
            first = next(iter(str(error).splitlines()), "")
            return name, f"{type(error).__name__}: " + re.sub(
                r"%\w+|`[^`]*`|\d[\d.e-]*", "#", first
            )
    return None


def _shrunken(recipe: Recipe, seed: int, wanted: tuple[str, str]) -> Recipe:
    """Drop steps and decisions as long as the failure stays what it is."""
    tries, before = 0, None
    while before != recipe and tries < _MOST_TRIES:
        before = recipe
        for shorter in _shorter(recipe):
            tries += 1
            if tries < _MOST_TRIES and _complaint(shorter, seed) == wanted:
                recipe = shorter
                break
    return recipe


def _shorter(recipe: Recipe) -> list[Recipe]:
    """List recipes with one step less, then those with one decision less."""
    found = [recipe[:i] + recipe[i + 1 :] for i in reversed(range(len(recipe)))]
    for i, (op, choices) in enumerate(recipe):
        plainer = [choices[:-1]] if choices else []
        plainer += [(*choices[:k], 0, *choices[k + 1 :]) for k in range(len(choices)) if choices[k]]
        found += [(*recipe[:i], Step(op, own), *recipe[i + 1 :]) for own in plainer]
    return found
