"""Groups of channels that can only leave together, and explanations of why."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from slimgraph.display import Rows, Shown
from slimgraph.labels import Axis
from slimgraph.remedies import remedy


class Member(NamedTuple):
    """One dim of a parameter or buffer that a group's channels occupy."""

    parameter: str
    dim: int


class Reason(NamedTuple):
    """Why channels cannot leave: the node that keeps them, and the line of the model."""

    node: str
    source: str
    message: str

    def __str__(self) -> str:
        """Say it in one line."""
        place = f"%{self.node} ({self.source})" if self.source else f"%{self.node}"
        return f"{self.message} at {place}"

    @property
    def remedy(self) -> str:
        """What would free them."""
        return remedy(self.message)


@dataclass(frozen=True, eq=False, repr=False)
class Group(Shown):
    """Channels that share parameters; each leaves on its own, with all that is tied to it.

    Attributes:
        name: The module that makes the channels first; a parameter's name if there is none.
        size: Number of channels.
        members: Where they are stored: `(parameter or buffer, dim)`.
        modules: Modules whose output channels they are.
        frozen: Bool tensor of shape `(size,)`: channels that have to stay.
        reasons: Why these have to stay.
        components: Their indices among all channels of the model. Shape `(size,)`.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    modules: tuple[str, ...]
    frozen: Tensor
    reasons: tuple[Reason, ...]
    components: Tensor

    @property
    def prunable(self) -> bool:
        """Whether any channel can leave."""
        return self.size > 1 and not bool(self.frozen.all())

    def __repr__(self) -> str:
        """Say it in one line."""
        state = "prunable" if self.prunable else "frozen"
        return f"Group({self.name!r}, size={self.size}, {len(self.members)} members, {state})"

    def to_rows(self) -> Rows:
        """List where the channels are stored, and why some have to stay."""
        rows = [(f"{member.parameter}[{member.dim}]", "") for member in self.members]
        rows += [(f"{int(self.frozen.sum())} frozen", str(reason)) for reason in self.reasons]
        return Rows(repr(self), ("member", "why frozen"), rows)


class Step(NamedTuple):
    """One link of an explanation."""

    left: str
    right: str
    node: str
    source: str

    def __str__(self) -> str:
        """Say it in one line."""
        where = f"%{self.node} ({self.source})" if self.source else f"%{self.node}"
        return f"`{self.left}` and `{self.right}` are tied by {where}"


@dataclass(frozen=True)
class Explanation:
    """The answer to `graph.explain`; print it."""

    question: str
    steps: tuple[Step, ...] = ()
    reasons: tuple[Reason, ...] = ()

    def __str__(self) -> str:
        """Give the answer, one line per step, and per reason one more with what would free it."""
        lines = [f"  {step}" for step in self.steps]
        for reason in self.reasons:
            lines += [f"  {reason}", f"    to free it: {reason.remedy}"]
        return "\n".join([self.question, *lines])

    __repr__ = __str__


def module_of(parameter: str) -> str:
    """Return the module part of a parameter's name, or the name if it stands alone.

    Example:
        >>> module_of("layer1.0.conv1.weight"), module_of("pos_embed")
        ('layer1.0.conv1', 'pos_embed')
    """
    owner, _, name = parameter.rpartition(".")
    return owner if name in ("weight", "bias") and owner else parameter


def unique_names(opened: list[list[Axis]]) -> list[str]:
    """Name each group by the module that makes its channels, else by a parameter of no module."""
    names: list[str] = []
    for axes in opened:
        axis = next((axis for axis in axes if axis.role == "out"), axes[0])
        name = module_of(axis.parameter)
        names.append(name if name not in names else f"{axis.parameter}[{axis.dim}]")
    return names
