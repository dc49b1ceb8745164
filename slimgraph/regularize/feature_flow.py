"""Feature flow: the path of features from layer to layer, kept short and straight."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, fx, nn

from slimgraph.cloning import clone
from slimgraph.errors import SlimgraphError
from slimgraph.graph import DependencyGraph
from slimgraph.op_names import canonical


class FeatureFlow:
    """Length and curvature of the trajectory of features, added to the loss.

    `length * sum_l |x_{l+1} - x_l| + curvature * sum_l |x_{l+1} - 2 x_l + x_{l-1}|`, where `|.|`
    is the mean over batch and elements of the absolute value (or of the square). Only neighbours
    of the same shape enter, so a stage of a residual network is a trajectory. Train
    `regularizer.model`, a copy that shares all weights and notes the features as it runs; the
    model that was traced has no hooks at any time.

    Args:
        graph: The groups of the traced model.
        length: Weight of the first term, k1.
        curvature: Weight of the second term, k2.
        nodes: Names of the nodes whose values are the features, in order; by default all sums of
            two features, or the activations where there are none.
        order: 1 for absolute values, 2 for squares.

    Raises:
        SlimgraphError: There are no two features of one shape, or no node of that name.

    Source: Wu et al., Feature Flow Regularization, arXiv 2106.02914. Only its abstract was
    available: the norm, the size of the weights, and what counts as a feature are best readings.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        length: float = 1e-4,
        curvature: float = 1e-4,
        *,
        nodes: Sequence[str] | None = None,
        order: int = 1,
    ) -> None:
        """Make the copy that notes its features."""
        if order not in (1, 2):
            raise SlimgraphError(f"the order {order} is neither 1 nor 2", hint="use 1 or 2")
        self.length, self.curvature, self.order = length, curvature, order
        self.model: fx.GraphModule = clone(graph.traced)
        self.nodes = tuple(nodes) if nodes is not None else _features(graph)
        named = {node.name: node for node in self.model.graph.nodes}
        missing = next((name for name in self.nodes if name not in named), None)
        if missing is not None:
            raise SlimgraphError(
                f"there is no node `{missing}`", hint="`traced.graph.print_tabular()` lists them"
            )
        shapes = [tuple(named[name].meta["val"].shape[1:]) for name in self.nodes]
        if not any(one == two for one, two in pairwise(shapes)):
            raise SlimgraphError(
                "no two neighbouring features have one shape", hint="name others by `nodes=[...]`"
            )
        self.tap = _Tap()
        self.model.add_submodule("feature_flow", self.tap)
        for index, name in enumerate(self.nodes):
            node = named[name]
            with self.model.graph.inserting_after(node):
                tapped = self.model.graph.call_module("feature_flow", (node, index))
            tapped.meta = dict(node.meta)
            node.replace_all_uses_with(
                tapped, delete_user_cb=lambda user, own=tapped: user is not own
            )
        self.model.recompile()

    def __call__(self) -> Tensor:
        """Return the penalty of the last forward pass, a scalar with a gradient.

        Raises:
            SlimgraphError: `regularizer.model` has not run.
        """
        features = [self.tap.seen[index] for index in sorted(self.tap.seen)]
        if len(features) < len(self.nodes):
            raise SlimgraphError(
                "no forward pass has noted its features", hint="train `regularizer.model`"
            )
        steps = [y - x if x.shape == y.shape else None for x, y in pairwise(features)]
        bends = [b - a for a, b in pairwise(steps) if a is not None and b is not None]
        found = features[0].new_zeros(())
        for step in steps:
            found = found if step is None else found + self.length * self._size(step)
        for bend in bends:
            found = found + self.curvature * self._size(bend)
        return found

    def _size(self, difference: Tensor) -> Tensor:
        return difference.abs().mean() if self.order == 1 else difference.square().mean()


class _Tap(nn.Module):
    """Passes features on and remembers them until the next forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, Tensor] = {}

    def forward(self, feature: Tensor, index: int) -> Tensor:
        self.seen[index] = feature
        return feature


def _features(graph: DependencyGraph) -> tuple[str, ...]:
    """Name the sums of features, or the activations of a net without any."""
    nodes = list(graph.traced.graph.nodes)
    sums = [
        n for n in nodes if canonical(n.target) in ("add", "iadd") and len(n.all_input_nodes) > 1
    ]
    if len(sums) > 1:
        return tuple(node.name for node in sums)
    modules = dict(graph.traced.named_modules())
    activations = (nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ReLU6, nn.LeakyReLU)
    names = ("relu", "gelu", "silu", "hardswish", "relu6", "leaky_relu")
    return tuple(
        node.name
        for node in nodes
        if (node.op == "call_module" and isinstance(modules[str(node.target)], activations))
        or (node.op == "call_function" and canonical(node.target) in names)
    )
