"""What `slim` does between grouping and compressing: from its options to the channels that stay."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from slimgraph.graph import DependencyGraph
from slimgraph.importance import score
from slimgraph.mask import keep_channels
from slimgraph.select import Budget, Choice, Limits, select

HOW = ("order", "heads", "round_to", "max_removed", "keep")
_TIME = ("latency", "threads")
CHOICE = (*_TIME, "criterion", "normalize", "seed", "data", *HOW)  # options of `slim`


def choose(
    graph: DependencyGraph,
    mask: Mapping[str, Any] | Choice | None,
    budget: dict[str, float],
    choice: dict[str, Any],
    say: Callable[[str], None],
) -> tuple[Tensor | None, Tensor | None, dict[str, Any]]:
    """Return which channels stay, their scores if there are any, and how they were chosen.

    Args:
        graph: The groups.
        mask: A decision already made.
        budget: By unit.
        choice: The options of `slim`.
        say: Called with the name of every step when it starts.
    """
    settings: dict[str, Any] = {"budget": budget, "keep": list(choice["keep"])}
    data = choice["data"]
    if data is not None:
        settings["repair"] = "reconstruct, recalibrate"
    if isinstance(mask, Choice):
        found = settings | {"criterion": "the given choice", "trace": mask.trace.to_dict()}
        return keep_channels(graph, mask.mask), None, found
    if mask is not None:
        return keep_channels(graph, mask), None, settings | {"criterion": "the given mask"}
    if not budget and choice["latency"] is None:
        return None, None, settings | {"criterion": "dead channels only"}
    how = {name: choice[name] for name in ("criterion", "normalize", "seed")}
    if how["criterion"] == "auto":
        how["criterion"] = "l2" if data is None else "obs"
    scores = score(graph, **how, data=data)
    told = {name: value for name, value in choice.items() if name not in ("data", *_TIME)}
    told |= how | settings
    return selected(graph, scores, budget, choice, told, say), scores, told


def selected(
    graph: DependencyGraph,
    scores: Tensor,
    budget: dict[str, float],
    choice: dict[str, Any],
    told: dict[str, Any],
    say: Callable[[str], None],
) -> Tensor:
    """Choose under the budgets.

    Args:
        graph: The groups.
        scores: Higher = keep. Shape: (channels,).
        budget: By unit.
        choice: The options of `slim`.
        told: What the report says of the choice; what a budget of time came to is added.
        say: Called with the name of every step when it starts.
    """
    options = {name: choice[name] for name in HOW}
    caps = Budget.of(**budget) if budget else None
    if choice["latency"] is None:
        assert caps is not None
        return select(graph, scores, caps, **options)
    from slimgraph.latency import TimeBudget, choose_in_time

    time = TimeBudget.of(choice["latency"], choice["threads"])
    limits = Limits(**{name: value for name, value in options.items() if name != "order"})
    found = choose_in_time(graph, scores, time, limits=limits, caps=caps, progress=say)
    told["budget"] = budget | {"latency": choice["latency"]}
    told["latency"] = found.to_dict() | {"threads": choice["threads"]}
    return found.keep
