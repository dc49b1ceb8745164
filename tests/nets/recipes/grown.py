"""All growths, and recipes drawn from a seed."""

import random

from tests.nets.base import randomized
from tests.nets.recipes import maps, strays, tokens
from tests.nets.recipes.net import Growth, Recipe, RecipeNet, Step

GROWTHS: dict[str, Growth] = maps.GROWTHS | tokens.GROWTHS | strays.GROWTHS
# Two that lead back and forth, and the richest, are drawn twice as often as others.
NAMES = (*GROWTHS, "attention", "pieces", "join", "to tokens", "to a map")
EVERY = GROWTHS | {"finish": maps.finish}
CHOICES = 8  # numbers a step can have; most growths use fewer
BOUND = 60  # divisible by most numbers of options


def recipe_of(seed: int, most: int = 7) -> Recipe:
    """Draw a recipe."""
    drawn = random.Random(seed)
    return tuple(
        Step(drawn.choice(NAMES), tuple(drawn.randrange(BOUND) for _ in range(CHOICES)))
        for _ in range(drawn.randint(1, most))
    )


def grown(recipe: Recipe, seed: int = 0, **spelling: bool) -> RecipeNet:
    """Build the net of a recipe with random weights, in eval mode and double precision."""
    net = RecipeNet(recipe, EVERY, **spelling)
    randomized(net, seed)
    return net
