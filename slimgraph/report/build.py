"""The report: everything slimgraph knows of a model and a decision, as plain data."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

import slimgraph
from slimgraph.cost import CostModel
from slimgraph.graph import DependencyGraph
from slimgraph.groups import Group, module_of
from slimgraph.op_names import canonical
from slimgraph.report.frozen import FrozenChannels, runs
from slimgraph.report.histograms import histogram

SCHEMA = "slimgraph.report/1"


def build(
    graph: DependencyGraph,
    keep: Tensor | None = None,
    scores: Tensor | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe groups, nodes and layers, before and, if something leaves, after.

    Args:
        graph: The analysed model.
        keep: Bool tensor, True = keep, or `None` if nothing is decided. Shape: (channels,).
        scores: One number per channel. Shape: (channels,).
        settings: How the decision was made; JSON data.

    Returns:
        JSON data that follows docs/report.schema.json.
    """
    builder = _Builder(graph, keep, scores)
    return {
        "schema": SCHEMA,
        "slimgraph": slimgraph.__version__,
        "torch": torch.__version__,
        "model": builder.model(),
        "totals": builder.totals(),
        "groups": [builder.group(i, group) for i, group in enumerate(graph.groups)],
        "nodes": [builder.node(node) for node in graph.traced.graph.nodes],
        "layers": builder.layers(),
        "settings": settings or {},
        "histograms": builder.histograms((settings or {}).get("criterion", "score")),
        "curve": None,
        "errors": None,
        "export": None,
    }


class _Builder:
    """Holds the costs before and after while a report is put together."""

    def __init__(self, graph: DependencyGraph, keep: Tensor | None, scores: Tensor | None) -> None:
        self.graph = graph
        self.keep = keep
        self.scores = scores
        self.cost = CostModel(graph)
        self.frozen = FrozenChannels(graph)
        self.full = torch.ones(len(graph.frozen), dtype=torch.bool)
        self.couplings: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for node, groups, modules in graph.couplings():
            for index in groups:
                self.couplings[index].append(
                    {
                        "node": node.name,
                        "op": _op(node),
                        "source": node.meta.get("source", ""),
                        "modules": sorted(modules),
                    }
                )
        before = self._modules(self.full)
        after = None if keep is None else self._modules(keep)
        self.module_costs = {
            name: (costs, None if after is None else after[name]) for name, costs in before.items()
        }

    def _modules(self, keep: Tensor) -> dict[str, dict[str, Any]]:
        """Sum parameters and multiply-accumulates per module."""
        found: dict[str, dict[str, Any]] = {}
        for name, shape in self.cost.extents(keep).items():
            costs = found.setdefault(module_of(name), {"params": 0, "macs": 0, "shape": None})
            size = torch.Size(shape).numel()
            costs["params"] += size
            if name in self.cost.positions:
                costs["macs"] += round(size * self.cost.positions[name])
                costs["shape"] = self._widths(name, keep)
        return found

    def _widths(self, weight: str, keep: Tensor) -> tuple[int, int]:
        """Return the input and output channels of a weight."""
        counts = []
        shape = self.cost.shapes[weight]
        outputs = self.graph.ledger.axes.get((weight, 1))
        out = 1 if outputs is not None and outputs.role == "out" else 0
        for dim in (1 - out, out):
            axis = self.graph.ledger.axes.get((weight, dim))
            if axis is None:
                counts.append(shape[dim])
            else:
                counts.append(int(keep[self.graph.component[axis.labels]].sum()))
        return counts[0], counts[1]

    def model(self) -> dict[str, Any]:
        """Describe inputs and outputs, and how the model was traced."""
        nodes = list(self.graph.traced.graph.nodes)
        inputs = [
            {"name": node.name, **_tensor(node.meta["val"])}
            for node in nodes
            if node.op == "placeholder" and isinstance(node.meta["val"], Tensor)
        ]
        returned = tree_leaves(nodes[-1].meta["val"])
        outputs = [_tensor(value) for value in returned if isinstance(value, Tensor)]
        meta = self.graph.traced.meta
        leaves = meta.get("leaves", {}).items()
        return {
            "name": type(self.graph.traced).__name__,
            "inputs": inputs,
            "outputs": outputs,
            "rung": meta.get("rung", 1),
            "leaves": [{"module": name, "reason": reason} for name, reason in leaves],
        }

    def totals(self) -> dict[str, Any]:
        """Count channels, parameters and multiply-accumulates."""
        after = None if self.keep is None else self.cost.totals(self.keep)._asdict()
        return {"before": self.cost.totals(self.full)._asdict(), "after": after}

    def histograms(self, criterion: str) -> list[dict[str, Any]]:
        """Count the scores that were given."""
        if self.scores is None:
            return []
        return [histogram(self.graph, criterion, self.scores, self.keep)]

    def group(self, index: int, group: Group) -> dict[str, Any]:
        """Describe one group."""
        keep = None if self.keep is None else self.keep[group.components]
        scores = None if self.scores is None else self.scores[group.components]
        roles = {(a.parameter, a.dim): a.role for a in self.graph.ledger.axes.values()}
        return {
            "id": index,
            "name": group.name,
            "size": group.size,
            "kept": None if keep is None else int(keep.sum()),
            "prunable": group.prunable,
            "frozen": int(group.frozen.sum()),
            "frozen_channels": runs(group.frozen),
            "reasons": self.frozen.reasons(group),
            "modules": list(group.modules),
            "members": [
                {"param": m.parameter, "dim": m.dim, "role": roles[m]} for m in group.members
            ],
            "params": self._summed(group, "params"),
            "macs": self._summed(group, "macs"),
            "scores": None if scores is None else [_number(s) for s in scores.tolist()],
            "keep": None if keep is None else keep.int().tolist(),
            "blocks": self._blocks(group),
            "couplings": self.couplings[index],
        }

    def _summed(self, group: Group, unit: str) -> dict[str, int | None]:
        pairs = [self.module_costs[name] for name in group.modules if name in self.module_costs]
        after = None if self.keep is None else sum(new[unit] for _, new in pairs if new)
        return {"before": sum(old[unit] for old, _ in pairs), "after": after}

    def _blocks(self, group: Group) -> list[int] | None:
        own = set(group.components.tolist())
        for block in self.graph.ledger.blocks:
            rows = self.graph.component[block.labels].flatten(0, -2)
            if set(rows.flatten().tolist()) == own:
                return list(rows.shape)
        return None

    def node(self, node: fx.Node) -> dict[str, Any]:
        """Describe one node of the graph."""
        value = node.meta["val"]
        groups = {
            index
            for item in self.graph.values_at(node)
            for layer in item.layers
            for index in self.graph.groups_of(layer)
        }
        return {
            "name": node.name,
            "op": node.op,
            "target": _target(node),
            "kind": self.graph.kinds.get(node, "unknown"),
            "module": _module(node),
            "source": node.meta.get("source", ""),
            "inputs": [source.name for source in node.all_input_nodes],
            "shape": list(value.shape) if isinstance(value, Tensor) else None,
            "groups": sorted(groups),
        }

    def layers(self) -> list[dict[str, Any]]:
        """Describe every module or parameter that costs multiply-accumulates."""
        found: list[dict[str, Any]] = []
        for read in self.graph.ledger.reads:
            name = "" if read.weight is None else module_of(read.weight)
            if name not in self.module_costs or any(each["module"] == name for each in found):
                continue  # read by no weight, or by a buffer
            before, after = self.module_costs[name]
            new = after or {"shape": (None, None), "params": None, "macs": None}
            found.append(
                {
                    "module": name,
                    "type": _type(self.graph.traced, read.node),
                    "group": self.graph.group_name(name),
                    "in": [before["shape"][0], new["shape"][0]],
                    "out": [before["shape"][1], new["shape"][1]],
                    "params": [before["params"], new["params"]],
                    "macs": [before["macs"], new["macs"]],
                    "source": read.node.meta.get("source", ""),
                }
            )
        return found


def _tensor(value: Tensor) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}


def _number(score: float) -> float | None:
    return score if score < float("inf") else None


def _op(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else canonical(node.target)


def _target(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return node.target
    return canonical(node.target)


def _module(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack), "")) if stack else ""


def _type(traced: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))).__name__
    return canonical(node.target)
