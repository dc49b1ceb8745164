"""Make every parameter and buffer as small as the plan says."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from slimgraph.pass_manager import Pass, PassResult, clone
from slimgraph.plan import Plan, like, put_all
from slimgraph.shapes import modules_of, names_of, stored_tensors
from slimgraph.slicing import Slicer


@dataclass(frozen=True)
class SliceParameters(Pass):
    """Slice tensors, and set the size attributes of the modules that hold them.

    The graph stays as it is; `conv1.weight` of shape `(64, 3, 7, 7)` becomes `(40, 3, 7, 7)` and
    `conv1.out_channels` becomes 40. Tensors that keep their size are copied, so the result
    shares nothing with its source.

    Attributes:
        plan: What to keep.
    """

    plan: Plan
    name: ClassVar[str] = "slice-parameters"
    edits_graph: ClassVar[bool] = False
    keeps_outputs: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule) -> PassResult:
        """Slice a clone."""
        return self.rewrite_own(clone(graph_module))

    def rewrite_own(self, graph_module: fx.GraphModule) -> PassResult:
        """Replace every tensor by its kept part, one after the other."""
        modules = modules_of(graph_module)
        stored = stored_tensors(graph_module, modules)
        sliced: dict[str, Tensor] = {}
        resized: list[str] = []
        slicer = Slicer()
        for names in names_of(stored).values():
            planned = next((name for name in names if name in self.plan.kept), names[0])
            old = stored[planned]
            new = like(old, slicer.slice(old, self.plan.kept.get(planned, ())))
            sliced.update(dict.fromkeys(names, new))
            resized += names if planned in self.plan.kept else ()
        put_all(modules, sliced)
        self.plan.resize_modules(modules, resized)
        return PassResult(graph_module, modified=True)
