"""Train and eval mode in a traced model: what the two differ in follows the mode of its module.

A model is traced in eval mode, but what comes out is trained on. While it is traced, `training` of
each of its modules is a `Flag`. Where the flag is passed on (`F.dropout(x, p, self.training)`), the
graph calls a `TrainingMode` that lies in that module and says which mode it is in.
"""

from typing import Any, Self

from torch import fx, nn


class TrainingMode(nn.Module):
    """Says which mode it is in, as do all modules that `train()` and `eval()` reach."""

    def forward(self, training: Any = True, evaluating: Any = False) -> Any:  # noqa: FBT002
        """Return the first value in train mode, the second in eval mode."""
        return training if self.training else evaluating


class Flag:
    """`training` of a module while it is traced: as good as a bool, but it notes who asks.

    Args:
        owner: Name of the module.
        modes: Where it is noted.
    """

    def __init__(self, owner: str, modes: "Modes") -> None:
        self.owner = owner
        self.modes = modes

    def __bool__(self) -> bool:
        """Tell the mode that is traced."""
        self.modes.asked.add(self.owner)
        return self.owner in self.modes.trains

    def __index__(self) -> int:
        """Count as a number."""
        return int(bool(self))

    def __eq__(self, other: object) -> bool:
        """Compare as a bool does."""
        return bool(self) == other

    def __hash__(self) -> int:
        """Stand for the bool in a set."""
        return hash(bool(self))

    def __mul__(self, other: Any) -> Any:
        """Compute with it, as `p * self.training` does."""
        return bool(self) * other

    __rmul__ = __mul__


class Modes:
    """The modes of a model's modules while it is traced.

    Attributes:
        asked: Modules whose Python has looked at its mode.
        trains: Modules that are traced in train mode, to see what is different.
        unfollowed: Modules that compute something in train mode that the graph does not.
    """

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.trains: set[str] = set()
        self.unfollowed: set[str] = set()


def chosen(flag: Any, training: Any, evaluating: Any) -> Any:
    """Return one of two values by the mode of a module, in a graph as well.

    Args:
        flag: What `module.training` is.
        training: The value in train mode.
        evaluating: The value in eval mode.
    """
    if isinstance(flag, Flag):
        return Choice(flag.owner, training, evaluating)
    return training if flag else evaluating


class Choice(float):
    """A number that is another one in train mode: the tracer makes a node of it.

    Args:
        owner: Name of the module whose mode decides.
        training: The number in train mode.
        evaluating: The number in eval mode.
    """

    owner: str
    training: float

    def __new__(cls, owner: str, training: float, evaluating: float) -> Self:
        """Make a number that counts as the one in eval mode."""
        choice = super().__new__(cls, evaluating)
        choice.owner, choice.training = owner, training
        return choice


def present(argument: Any, root: nn.Module) -> Any:
    """Return an argument of a call, or what it is at present if it follows a mode."""
    if not isinstance(argument, fx.Node) or not follows_mode(argument, root):
        return argument
    return root.get_submodule(str(argument.target))(*argument.args, **argument.kwargs)


def follows_mode(node: fx.Node, root: nn.Module) -> bool:
    """Return whether a node tells a mode."""
    if node.op != "call_module":
        return False
    return isinstance(root.get_submodule(str(node.target)), TrainingMode)
