"""Report dicts of small imagined networks, built one op at a time as an analysis would."""

import random
from dataclasses import dataclass
from typing import Any

import torch

from slimgraph.report.frozen import runs

HOSTILE = (
    "</script><script>alert(1)</script>",
    'quote"back\\slash',
    "new\nline\ttab",
    "<img src=x onerror=alert(1)>",
    "größe_層_🎈",
    "line\u2028separator\u202ebidi",
    "[red]markup[/red]",
    "\x1b[31mescape",
    "&lt;entity&amp;",
    "a" * 60 + ".middle." + "z" * 60,
    "lone\ud800surrogate",
    "$title $$ {} %s \\N",
)


@dataclass(frozen=True)
class Value:
    """What a node yields: its name, the group of each run of channels, the runs, the extent."""

    node: str
    groups: tuple[int, ...]
    runs: tuple[int, ...]
    extent: int

    @property
    def channels(self) -> int:
        return sum(self.runs)


class Sketch:
    """Notes nodes, layers and groups; `report` turns the notes into a report dict."""

    def __init__(self, name: str = "Sketch", extent: int = 32) -> None:
        self.name = name
        self.leaves: list[str] = []
        self.nodes: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []
        self.groups: dict[int, dict[str, Any]] = {}
        self.merged: dict[int, int] = {}
        self.image = self._node("x", "placeholder", "input", Value("", (), (3,), extent), [])

    def conv(self, name: str, x: Value, out: int, kernel: int = 3, stride: int = 1) -> Value:
        """A convolution, its BatchNorm and ReLU; its output channels open a group."""
        group = len(self.groups)
        self.groups[group] = {
            "name": name,
            "size": out,
            "modules": [name],
            "couplings": [],
            "reasons": [],
            "members": [
                {"param": f"{name}.weight", "dim": 0, "role": "out"},
                {"param": f"{name}.bn.weight", "dim": 0, "role": "scale"},
                {"param": f"{name}.bn.bias", "dim": 0, "role": "shift"},
                {"param": f"{name}.bn.running_mean", "dim": 0, "role": "statistic"},
            ],
        }
        for source in set(map(self._find, x.groups)):
            member = {"param": f"{name}.weight", "dim": 1, "role": "in"}
            self.groups[source]["members"].append(member)
        value = Value("", (group,), (out,), max(1, x.extent // stride))
        result = self._node(name, "call_module", "contraction", value, [x], module=name)
        self.layers.append(
            {"module": name, "x": x, "out": group, "size": out, "area": kernel**2}
            | {"extent": value.extent, "source": self.nodes[-1]["source"]}
        )
        normed = self._node(f"{name}.bn", "call_module", "norm", result, [result], module=name)
        return self._node(f"{name}.relu", "call_module", "element-wise", normed, [normed])

    def add(self, name: str, left: Value, right: Value, op: str = "add") -> Value:
        """An element-wise op of two values: it ties their groups."""
        for a, b in zip(left.groups, right.groups, strict=True):
            self._tie(self._find(a), self._find(b), name, op)
        kind = "element-wise"
        return self._node(name, "call_function", kind, left, [left, right], target=op)

    def cat(self, name: str, values: list[Value]) -> Value:
        """A concatenation: the result carries the groups of all, side by side."""
        groups = tuple(g for value in values for g in value.groups)
        runs = tuple(r for value in values for r in value.runs)
        value = Value("", groups, runs, values[0].extent)
        return self._node(name, "call_function", "movement", value, values, target="cat")

    def pool(self, name: str, x: Value, extent: int) -> Value:
        """Pooling down to `extent`."""
        value = Value("", x.groups, x.runs, extent)
        return self._node(name, "call_module", "pool", value, [x])

    def output(self, x: Value) -> None:
        """The model's output: freezes what reaches it."""
        self._node("output", "output", "output", x, [x])
        for group in set(map(self._find, x.groups)):
            reason = {"node": "output", "source": "net.py:280"}
            reason["message"] = "reaches the model's output"
            whole = [[0, self.groups[group]["size"] - 1]]
            self.groups[group]["reasons"].append(reason | {"channels": whole})

    def freeze(self, name: str, x: Value, channels: list[list[int]], message: str) -> None:
        """An op that freezes some channels of a value of one group."""
        self._node(name, "call_function", "unknown", x, [x])
        reason = {"node": name, "source": self.nodes[-1]["source"], "message": message}
        self.groups[self._find(x.groups[0])]["reasons"].append(reason | {"channels": channels})

    def report(self, *, keep: float | None = 0.5, scores: bool = True) -> dict[str, Any]:
        """The report; `keep` is the share of channels kept, None for a model not compressed."""
        chance = random.Random(0)
        ids = {group: i for i, group in enumerate(g for g in self.groups if self._find(g) == g)}
        groups = [self._group(g, ids[g], keep, chance, scores=scores) for g in ids]
        layers = [self._layer(layer, ids, groups) for layer in self.layers]
        for group in groups:
            rows = [row for row in layers if row["module"] in group["modules"]]
            for cost in ("params", "macs"):
                pair = [sum(row[cost][i] or 0 for row in rows) for i in (0, 1)]
                group[cost] = {"before": pair[0], "after": None if keep is None else pair[1]}
        nodes = [
            node | {"groups": sorted({ids[self._find(g)] for g in node["groups"]})}
            for node in self.nodes
        ]
        return {
            "schema": "slimgraph.report/1",
            "slimgraph": "0.1.0",
            "torch": "2.14.1",
            "model": {
                "name": self.name,
                "inputs": [{"name": "x", "shape": self.nodes[0]["shape"], "dtype": "float32"}],
                "outputs": [{"shape": self.nodes[-1]["shape"], "dtype": "float32"}],
                "rung": 2 if self.leaves else 1,
                "leaves": [{"module": m, "reason": f"{m} resists"} for m in self.leaves],
            },
            "totals": {
                "before": _totals(groups, "before"),
                "after": None if keep is None else _totals(groups, "after"),
            },
            "groups": groups,
            "nodes": nodes,
            "layers": layers,
            "settings": {} if keep is None else SETTINGS,
            "histograms": [HISTOGRAM] if scores else [],
            "curve": None if keep is None else CURVE,
            "errors": None if keep is None else ERRORS,
            "export": None if keep is None else EXPORT,
        }

    def _group(
        self, group: int, number: int, keep: float | None, chance: random.Random, *, scores: bool
    ) -> dict[str, Any]:
        notes = self.groups[group]
        size = notes["size"]
        held = [run for reason in notes["reasons"] for run in reason["channels"]]
        stays = [any(a <= i <= b for a, b in held) for i in range(size)]
        frozen = all(stays)
        values = [round(chance.gammavariate(2.5, 0.1), 6) for _ in range(size)]
        kept = size
        if keep is not None and not frozen:
            kept = max(1, sum(stays), round(size * keep ** chance.uniform(0, 2)))
        ranked = sorted(range(size), key=lambda i: (not stays[i], -values[i]))[:kept]
        return notes | {
            "id": number,
            "kept": None if keep is None else kept,
            "prunable": not frozen,
            "frozen": sum(stays),
            "frozen_channels": runs(torch.tensor(stays)),
            "scores": values if scores and not frozen else None,
            "keep": None if keep is None else [int(i in set(ranked)) for i in range(size)],
            "blocks": [4, size // 4] if notes["name"].endswith("heads") else None,
        }

    def _layer(
        self, layer: dict[str, Any], ids: dict[int, int], groups: list[dict[str, Any]]
    ) -> dict[str, Any]:
        def kept(group: int) -> int | None:
            return groups[ids[self._find(group)]]["kept"]  # type: ignore[no-any-return]

        x, out = layer["x"], kept(layer["out"])
        inner = [kept(g) for g in x.groups]
        after_in = None if out is None else sum(k or 0 for k in inner) if inner else x.channels
        params = [x.channels * layer["size"] * layer["area"], None]
        if out is not None and after_in is not None:
            params[1] = after_in * out * layer["area"]
        pixels = layer["extent"] ** 2
        return {
            "module": layer["module"],
            "type": "Conv2d" if layer["extent"] > 1 else "Linear",
            "group": groups[ids[self._find(layer["out"])]]["name"],
            "in": [x.channels, after_in],
            "out": [layer["size"], out],
            "params": params,
            "macs": [None if p is None else p * pixels for p in params],
            "source": layer["source"],
        }

    def _node(
        self,
        name: str,
        op: str,
        kind: str,
        value: Value,
        inputs: list[Value],
        module: str | None = None,
        target: str = "",
    ) -> Value:
        self.nodes.append(
            {
                "name": name.replace(".", "_"),
                "op": op,
                "target": target or name,
                "kind": kind,
                "module": name.rpartition(".")[0] if module is None else module,
                "source": f"net.py:{len(self.nodes) + 10}" if op != "placeholder" else "",
                "inputs": [x.node for x in inputs],
                "shape": [1, value.channels, value.extent, value.extent],
                "groups": list(value.groups),
            }
        )
        return Value(self.nodes[-1]["name"], value.groups, value.runs, value.extent)

    def _find(self, group: int) -> int:
        while group in self.merged:
            group = self.merged[group]
        return group

    def _tie(self, kept: int, gone: int, node: str, op: str) -> None:
        if kept != gone:
            kept, gone = min(kept, gone), max(kept, gone)
            self.merged[gone] = kept
            for key in ("modules", "members", "couplings", "reasons"):
                self.groups[kept][key] += self.groups[gone][key]
        self._couple(kept, node, op, self.groups[kept]["modules"][-2:])

    def _couple(self, group: int, node: str, op: str, modules: list[str]) -> None:
        source = f"net.py:{len(self.nodes) + 10}"
        note = {"node": node.replace(".", "_"), "op": op, "source": source, "modules": modules}
        self.groups[group]["couplings"].append(note)


SETTINGS = {"criterion": "l2", "budget": {"macs": 0.5}, "round_to": 8, "seed": 0, "keep": []}
HISTOGRAM = {
    "criterion": HOSTILE[0],
    "log": True,
    "edges": [10 ** (i / 6) for i in range(-18, 7)],
    "kept": [0] * 8 + [1, 2, 4, 8, 12, 20, 28, 30, 24, 17, 9, 6, 3, 2, 1, 1],
    "removed": [1, 0, 2, 4, 6, 9, 14, 16, 15, 9, 6, 3, 1] + [0] * 11,
    "zeros": {"kept": 0, "removed": 3},
    "unscored": 1,
}
CURVE = {
    "measure": "held-out accuracy",
    "unit": "macs",
    "points": [
        {"share": share, "before": before, "after": after}
        for share, before, after in [
            (1.0, 0.93, 0.93), (0.9, 0.9, 0.925), (0.79, 0.81, 0.91), (0.6, 0.5, 0.88),
            (0.41, 0.2, 0.71), (0.3, 0.11, 0.52),
        ]
    ],
}  # fmt: skip
ERRORS = {
    "measure": HOSTILE[3],
    "on": "held-out images",
    "steps": [
        {"step": "dense", "error": 0.07},
        {"step": "compressed", "error": 0.5},
        {"step": "repaired", "error": 0.12},
        {"step": "fine-tuned", "error": None},
    ],
}
EXPORT = {
    "path": "out.onnx",
    "bytes": 1_234_567,
    "nodes": 42,
    "opset": 20,
    "parity": [
        {"output": "output", "max_abs": 1.2e-6, "max_rel": 3.4e-6, "tolerance": 1e-4, "ok": True}
    ],
    "latency_ms": {"median": 1.23, "min": 1.11, "max": 1.87, "runs": 20, "threads": 1},
}


def _totals(groups: list[dict[str, Any]], side: str) -> dict[str, int]:
    channels = sum(group["size" if side == "before" else "kept"] for group in groups)
    costs = {cost: sum(group[cost][side] for group in groups) for cost in ("params", "macs")}
    return {"channels": channels} | costs


def network(blocks: int = 2, layers: int = 3) -> Sketch:
    """A stem, residual blocks, an SE gate, a dense block, branches and a classifier."""
    net = Sketch("SketchNet")
    x = net.conv("stem.conv", net.image, 16)
    for i in range(blocks):
        y = net.conv(f"layer1.{i}.conv1", x, 24)
        y = net.conv(f"layer1.{i}.conv2", y, 32)
        if x.channels != y.channels:
            x = net.conv(f"layer1.{i}.downsample", x, 32, kernel=1)
        x = net.add(f"layer1.{i}.add", y, x)
    gate = net.conv("se.squeeze", net.pool("se.pool", x, 1), 8, kernel=1)
    x = net.add("se.mul", x, net.conv("se.expand", gate, 32, kernel=1), op="mul")
    x = dense_block(net, x, "dense", layers, 12)
    x = net.pool("transition.pool", net.conv("transition.conv", x, 40, 1), 8)
    x = net.cat("mixed.cat", [_branch(net, x, i) for i in range(4)])
    x = net.conv("attention.heads", x, 64, kernel=1)
    net.output(net.conv("classifier.fc", net.pool("pool", x, 1), 10, kernel=1))
    return net


def dense_block(net: Sketch, x: Value, name: str, layers: int, growth: int) -> Value:
    """Each layer reads the concatenation of all before it."""
    features = [x]
    for i in range(layers):
        y = net.cat(f"{name}.layer{i}.cat", features)
        y = net.conv(f"{name}.layer{i}.conv1", y, 4 * growth, kernel=1)
        features.append(net.conv(f"{name}.layer{i}.conv2", y, growth))
    return net.cat(f"{name}.cat", features)


def _branch(net: Sketch, x: Value, convs: int) -> Value:
    for i in range(max(convs, 1)):
        x = net.conv(f"mixed.branch{convs}.{i}", x, 16)
    return x


def densenet(blocks: tuple[int, ...] = (6, 12, 48, 32)) -> Sketch:
    """As deep as densenet201: about 700 nodes, 2000 edges."""
    net = Sketch("DenseSketch", 224)
    x = net.pool("features.pool0", net.conv("features.conv0", net.image, 64, 7, 2), 56)
    for i, layers in enumerate(blocks, 1):
        x = dense_block(net, x, f"features.denseblock{i}", layers, 32)
        if i < len(blocks):
            x = net.conv(f"features.transition{i}.conv", x, x.channels // 2, 1)
            x = net.pool(f"features.transition{i}.pool", x, x.extent // 2)
    net.output(net.conv("classifier", net.pool("avgpool", x, 1), 1000, 1))
    return net


def chain(convs: int) -> Sketch:
    """A plain chain: one group per convolution."""
    net = Sketch("Chain")
    x = net.image
    for i in range(convs):
        x = net.conv(f"conv{i}", x, 4)
    net.output(x)
    return net


def partly_frozen(message: str = "is read by itself") -> Sketch:
    """Of one group some channels have to stay, one of them for two reasons."""
    net = Sketch("PartlyFrozen")
    x = net.conv("stem", net.image, 16)
    net.freeze("sort", x, [[0, 3], [9, 9]], "is mixed with other channels")
    net.freeze("pick", x, [[3, 3]], message)
    net.output(net.conv("head", x, 5))
    return net


def hostile() -> dict[str, Any]:
    """A report whose every name is chosen to break out of some notation."""
    net = Sketch(HOSTILE[0])
    x = net.conv("stem", net.image, 8)
    for name in HOSTILE:
        x = net.add(f"{name}.add", net.conv(name, x, 8), net.conv(f"{name}.side", x, 8))
    net.output(x)
    net.leaves = list(HOSTILE)
    return net.report()


def no_groups() -> dict[str, Any]:
    """A model without any channel: the input goes straight to the output."""
    net = Sketch("Identity")
    net.output(net.image)
    return net.report(keep=None)


def variants() -> dict[str, dict[str, Any]]:
    """Every sample by name."""
    return {
        "compressed": network().report(),
        "analysed": network().report(keep=None, scores=False),
        "scored": network().report(keep=None),
        "no scores": network().report(scores=False),
        "partly frozen": partly_frozen().report(),
        "hostile": hostile(),
        "no groups": no_groups(),
        "one group": chain(1).report(),
        "300 groups": chain(300).report(),
    }
