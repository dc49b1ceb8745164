"""Tensors that an op makes of sizes alone; nothing in them is a channel of another value."""

from typing import Any

from slimgraph.labels import Value
from slimgraph.rules import Rule, Site


def created(site: Site, *args: Any, **kwargs: Any) -> Value:
    """Start no channels; the tensor a size or dtype is taken from keeps its own."""
    return site.value()


RULES = (Rule(("new_empty", "new_full", "new_ones", "new_zeros"), "creation", created),)
