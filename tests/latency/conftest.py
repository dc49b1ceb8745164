"""Times that do not depend on the machine: work in blocks of sixteen channels."""

from math import prod
from pathlib import Path
from typing import Any

import pytest

from slimgraph.latency import alternating, budget, build
from slimgraph.latency.kernels import Kernel, Profile, profile
from slimgraph.latency.table import Spec, Table

BLOCK = 16


def work(spec: Spec) -> float:
    """Return made-up milliseconds: what is multiplied, channels filled up to blocks."""
    nodes, inputs, output = spec
    filled = [size if dim != 1 else -(-size // BLOCK) * BLOCK for dim, size in enumerate(output)]
    read = inputs[0][1] if nodes[0].op_type == "Conv" and inputs[0] is not None else 1
    return 1e-6 * prod(filled) * read


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace measured times; return the folder of tables."""
    monkeypatch.setattr(Table, "_measured", lambda _self, spec, _constants: work(spec))
    monkeypatch.setenv("SLIMGRAPH_CACHE", str(tmp_path / "cache"))

    def counted(*args: Any, **options: Any) -> Profile:
        found = profile(*args, **options)
        kernels = tuple(Kernel(k.name, k.op, k.blocked, 1.0) for k in found.kernels)
        return Profile(kernels, float(len(kernels)))

    def by_size(models: Any, _threads: int = 1) -> list[alternating.Timed]:
        return [alternating.Timed(ms := path.stat().st_size / 1e3, (ms,)) for path, _ in models]

    monkeypatch.setattr(build, "profile", counted)
    monkeypatch.setattr(budget, "in_turns", by_size)
    return tmp_path / "cache"
