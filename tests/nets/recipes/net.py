"""Recipes: random nets as plain data, so that a failing one shrinks.

A recipe is a list of steps, each the name of a growth and a few numbers. Every list means a
well-typed net: a growth reads its decisions off the numbers, modulo how many options it has, and
0 where they end, which is the plainest option. So steps and numbers may be dropped at will.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 8
WIDTHS = (4, 6, 8, 12)
FIT = {"map": 32, "tokens": 24, "vector": 48}  # values do not get wider than this


class Step(NamedTuple):
    """One growth of a net and the decisions it makes."""

    op: str
    choices: tuple[int, ...] = ()


Recipe = tuple[Step, ...]


class Kind(NamedTuple):
    """What a value is: a map (B, C, S, S), tokens (B, S * S, C) or a vector (B, C)."""

    form: str
    width: int
    side: int


Function = Callable[..., Any]
Growth = Callable[["RecipeNet"], object]


class RecipeNet(nn.Module):
    """The net that a recipe means.

    Args:
        recipe: The steps.
        growths: What their names mean.
        functional: Call functions of the modules' parameters instead of the modules.
        renamed: Give the modules and parameters other names, one level deeper.
    """

    def __init__(
        self,
        recipe: Recipe,
        growths: dict[str, Growth],
        *,
        functional: bool = False,
        renamed: bool = False,
    ) -> None:
        super().__init__()
        self.functional, self.renamed = functional, renamed
        if renamed:
            self.deep = nn.Module()
        self.handles: list[str] = []
        self.kinds = [Kind("map", 3, SIDE)]
        self.program: list[tuple[Function, tuple[int, ...]]] = []
        self.fixed = False
        self.choices: Iterator[int] = iter(())
        growths["convolution"](self)
        for step in recipe:
            self.choices = iter(step.choices)
            growths[step.op](self)
        self.choices = iter(())
        growths["finish"](self)

    @property
    def home(self) -> nn.Module:
        """What holds the modules and parameters."""
        return self.deep if self.renamed else self

    def choose(self, options: Sequence[Any]) -> Any:
        """Take the next decision."""
        return options[next(self.choices, 0) % len(options)]

    def keep(self, held: Any, kind: str = "part") -> str:
        """Store a module, parameter or buffer; return what finds it again."""
        index = len(self.handles)
        name = f"other{99 - index}" if self.renamed else f"{kind}{index}"
        if isinstance(held, Tensor) and not isinstance(held, nn.Parameter):
            self.home.register_buffer(name, held)
        else:
            setattr(self.home, name, held)
        self.handles.append(name)
        return name

    def held(self, name: str) -> Any:
        """Return a module, parameter or buffer."""
        return getattr(self.home, name)

    def call(self, name: str, x: Tensor) -> Tensor:
        """Call a module, or the function it stands for."""
        module = self.held(name)
        made: Tensor = FUNCTIONS[type(module)](module, x) if self.functional else module(x)
        return made

    def add(self, kind: Kind | Sequence[Kind], function: Function, *sources: int) -> int:
        """Add a call of `function(net, *values)`; return the position of its (first) result."""
        first = len(self.kinds)
        self.program.append((function, sources))
        self.kinds += [kind] if isinstance(kind, Kind) else list(kind)
        return first

    def module(self, source: int, module: nn.Module, **changes: Any) -> int:
        """Add the call of a new module; say what it changes of the kind."""
        name = self.keep(module)
        kind = self.kinds[source]._replace(**changes)
        return self.add(kind, lambda net, x: net.call(name, x), source)

    def pick(self, form: str, fits: Callable[[Kind], bool] = lambda kind: True) -> int:
        """Choose a value of that form, one of the last ones; make one if there is none."""
        found = [
            i for i in range(1, len(self.kinds))
            if self.kinds[i].form == form and self.kinds[i].width > 1 and fits(self.kinds[i])
        ]  # fmt: skip
        if found:
            chosen: int = self.choose(found[::-1][:5])
            return chosen
        return MAKERS[form](self, fits)

    def pair(self, form: str) -> tuple[int, int]:
        """Choose two values of one kind."""
        one = self.pick(form)
        kind = self.kinds[one]
        twins = [i for i in range(1, len(self.kinds)) if self.kinds[i] == kind and i != one]
        options = [None, *twins[::-1]]
        other = self.choose(options)
        return one, (self.like(one) if other is None else other)

    def like(self, source: int) -> int:
        """Make a new value of the same kind by a layer of its own."""
        kind = self.kinds[source]
        if kind.form == "map":
            return self.module(source, nn.Conv2d(kind.width, kind.width, 3, padding=1))
        return self.module(source, nn.Linear(kind.width, kind.width))

    def forward(self, x: Tensor) -> Tensor:
        values: list[Any] = [x]
        for function, sources in self.program:
            made = function(self, *(values[i] for i in sources))
            values += list(made) if isinstance(made, tuple | list) else [made]
        result: Tensor = values[-1]
        return result


def _make_map(net: RecipeNet, fits: Callable[[Kind], bool]) -> int:
    """Make a map that fits: by a convolution, after a change of size if need be."""
    source = max(i for i, kind in enumerate(net.kinds) if kind.form == "map")
    wanted = next(
        kind for side in (net.kinds[source].side, SIDE, SIDE // 2)
        for width in WIDTHS if fits(kind := Kind("map", width, side))
    )  # fmt: skip
    kind = net.kinds[source]
    if wanted.side != kind.side:
        factor = wanted.side / kind.side
        source = net.add(
            kind._replace(side=wanted.side),
            lambda net, x: F.interpolate(x, scale_factor=factor),
            source,
        )
    conv = nn.Conv2d(kind.width, wanted.width, 3, padding=1)
    return net.module(source, conv, width=wanted.width)


def _make_tokens(net: RecipeNet, fits: Callable[[Kind], bool]) -> int:
    source = net.pick("map", lambda kind: kind.side == SIDE // 2)
    kind = net.kinds[source]._replace(form="tokens")
    made = net.add(kind, lambda net, x: x.flatten(2).transpose(1, 2), source)
    if fits(kind):
        return made
    width = next(w for w in WIDTHS if fits(kind._replace(width=w)))
    return net.module(made, nn.Linear(kind.width, width), width=width)


def _make_vector(net: RecipeNet, fits: Callable[[Kind], bool]) -> int:
    source = net.pick("map")
    kind = Kind("vector", net.kinds[source].width, 1)
    made = net.add(kind, lambda net, x: x.mean((2, 3)), source)
    if fits(kind):
        return made
    width = next(w for w in WIDTHS if fits(kind._replace(width=w)))
    return net.module(made, nn.Linear(kind.width, width), width=width)


MAKERS: dict[str, Callable[[RecipeNet, Callable[[Kind], bool]], int]] = {
    "map": _make_map,
    "tokens": _make_tokens,
    "vector": _make_vector,
}


def _conv(function: Function) -> Function:
    return lambda m, x: function(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _batch_norm(m: Any, x: Tensor) -> Tensor:
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, 0.1, m.eps)


FUNCTIONS: dict[type[nn.Module], Function] = {
    nn.Conv1d: _conv(F.conv1d),
    nn.Conv2d: _conv(F.conv2d),
    nn.ConvTranspose2d: lambda m, x: F.conv_transpose2d(
        x, m.weight, m.bias, m.stride, m.padding, m.output_padding, groups=m.groups
    ),
    nn.Linear: lambda m, x: F.linear(x, m.weight, m.bias),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: lambda m, x: F.layer_norm(x, m.normalized_shape, m.weight, m.bias, m.eps),
    nn.RMSNorm: lambda m, x: F.rms_norm(x, m.normalized_shape, m.weight, m.eps),
    nn.GroupNorm: lambda m, x: F.group_norm(x, m.num_groups, m.weight, m.bias, m.eps),
    nn.InstanceNorm2d: lambda m, x: F.instance_norm(x, None, None, m.weight, m.bias, eps=m.eps),
    nn.LocalResponseNorm: lambda m, x: F.local_response_norm(x, m.size, m.alpha, m.beta, m.k),
    nn.PReLU: lambda m, x: F.prelu(x, m.weight),
    nn.ReLU: lambda m, x: F.relu(x),
    nn.GELU: lambda m, x: F.gelu(x),
    nn.SiLU: lambda m, x: F.silu(x),
    nn.Sigmoid: lambda m, x: torch_sigmoid(x),
    nn.Hardswish: lambda m, x: F.hardswish(x),
    nn.LeakyReLU: lambda m, x: F.leaky_relu(x, m.negative_slope),
    nn.GLU: lambda m, x: F.glu(x, m.dim),
    nn.PixelShuffle: lambda m, x: F.pixel_shuffle(x, m.upscale_factor),
    nn.PixelUnshuffle: lambda m, x: F.pixel_unshuffle(x, m.downscale_factor),
    nn.ChannelShuffle: lambda m, x: F.channel_shuffle(x, m.groups),
    nn.MaxPool2d: lambda m, x: F.max_pool2d(x, m.kernel_size, m.stride, m.padding),
    nn.AvgPool2d: lambda m, x: F.avg_pool2d(x, m.kernel_size, m.stride, m.padding),
    nn.Upsample: lambda m, x: F.interpolate(x, scale_factor=m.scale_factor, mode=m.mode),
    nn.Flatten: lambda m, x: x.flatten(m.start_dim, m.end_dim),
    nn.Unflatten: lambda m, x: x.unflatten(m.dim, m.unflattened_size),
    nn.Identity: lambda m, x: x,
    nn.Dropout: lambda m, x: F.dropout(x, m.p, False),
    nn.ZeroPad2d: lambda m, x: F.pad(x, m.padding),
}


def torch_sigmoid(x: Tensor) -> Tensor:
    """Spell the sigmoid as a method."""
    return x.sigmoid()
