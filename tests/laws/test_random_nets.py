"""The laws over nets that nobody wrote: random steps, random masks; `tools.laws` runs more."""

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from tests.laws.recipes import FEW, PROPERTIES, RandomCase, check
from tests.nets.recipes.grown import BOUND, CHOICES, GROWTHS, NAMES, recipe_of
from tests.nets.recipes.net import Recipe, Step

PARTS, EACH = 10, 30  # 300 cases, shared out among the processes that run tests

steps = st.builds(
    Step,
    st.sampled_from(NAMES),
    st.lists(st.integers(0, BOUND - 1), max_size=CHOICES).map(tuple),
)
recipes = st.lists(steps, min_size=1, max_size=6).map(tuple)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_law_holds_on_random_nets(part: int) -> None:
    @seed(part)
    @settings(max_examples=EACH)
    @given(recipes, st.integers(0, 2**16))
    def holds(recipe: Recipe, number: int) -> None:
        check(RandomCase(recipe, number))

    holds()


def test_most_random_nets_shrink_and_can_keep_their_constants() -> None:
    cases = [RandomCase(recipe_of(seed), seed) for seed in range(20)]
    assert sum(not case.plan.kept for case in cases) <= 2
    refused = [PROPERTIES["constants are kept"](case) for case in cases]
    assert sum(note is not None for note in refused) <= len(cases) // 2, FEW


def test_recipes_use_every_growth() -> None:
    assert {step.op for number in range(60) for step in recipe_of(number)} == GROWTHS.keys()
