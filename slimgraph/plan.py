"""Plans: for every parameter and buffer, which positions of which dims are kept."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from slimgraph.calls import first_other_call
from slimgraph.display import Rows, Shown
from slimgraph.errors import PlanError, SlimgraphError
from slimgraph.labels import Shape
from slimgraph.ops import DEFAULT_TABLE
from slimgraph.optimizers import follow, take_in
from slimgraph.positions import check_positions, composed
from slimgraph.shapes import modules_of, names_of, shallow, stored_tensors
from slimgraph.shifts import check_shifts, shift_all, shifts_of_both
from slimgraph.slicing import Kept, slice_tensor
from slimgraph.structures import map_tensors
from slimgraph.tracing import retrace


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Shown):
    """What `compress` kept; data, so it can be saved, replayed and composed.

    Attributes:
        kept: Parameter or buffer name to one entry per dim: a LongTensor of kept positions,
            a matrix (groups, kept) for dim 1 of a grouped weight, or `None` for all.
        sizes: The shapes before.
        options: Settings of modules that change, by module and name: the groups that are left.
        examples: What the model, or each region of one that keeps its own forward, is called with,
            by position and by name, without data; `None` for what a file cannot hold.
        calls: What the compressed model calls on them; see `slimgraph.calls`.
        leaves: Submodules that the traced model calls as one opaque node each.
        shifts: Names of biases, some of them new, to what they get of constants that left.
        carriers: Where constants need nodes that only the compressed GraphModule has.
        selections: Nodes of the compressed model that take out positions, as no class does.
    """

    kept: Mapping[str, Kept]
    sizes: Mapping[str, Shape]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    shifts: Mapping[str, Tensor] = field(default_factory=dict)
    carriers: tuple[str, ...] = ()
    selections: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Say it in one line."""
        before = sum(_numel(shape) for shape in self.sizes.values())
        after = sum(_numel(self.new_shape(name)) for name in self.sizes)
        return f"Plan({len(self.kept)} tensors shrink, {before} to {after} numbers)"

    def to_rows(self) -> Rows:
        """List the shapes before and after of what shrinks."""
        rows = [(n, _shape(self.sizes[n]), _shape(self.new_shape(n))) for n in self.kept]
        return Rows(repr(self), ("tensor", "before", "after"), rows)

    def new_shape(self, name: str) -> Shape:
        """Return the shape of a parameter or buffer after the plan."""
        if name not in self.sizes:  # a bias that the plan adds
            return tuple(self.shifts[name].shape)
        kept = self.kept.get(name, (None,) * len(self.sizes[name]))
        shape = [
            size if k is None else k.shape[-1]
            for size, k in zip(self.sizes[name], kept, strict=True)
        ]
        return tuple(shape)

    def then(self, later: "Plan") -> "Plan":
        """Compose with a plan made for the result of this one.

        Raises:
            PlanError: The later plan was made for other sizes.
        """
        for name in self.sizes:
            if name in later.sizes and later.sizes[name] != self.new_shape(name):
                raise PlanError(
                    f"the later plan expects `{name}` of shape {later.sizes[name]}, "
                    f"but this one leaves {self.new_shape(name)}"
                )
        kept = dict(self.kept)
        for name, entries in later.kept.items():
            if name not in self.sizes:  # what this plan adds, the model it is made for lacks
                continue
            earlier = self.kept.get(name, (None,) * len(entries))
            kept[name] = composed(earlier, entries, self.sizes[name])
        both = [*self.options.items(), *later.options.items()]
        options: dict[str, dict[str, Any]] = {module: {} for module, _ in both}
        for module, changed in both:
            options[module].update(changed)
        shifts = shifts_of_both(self.shifts, later.shifts, later.kept)
        carriers = (*self.carriers, *later.carriers)
        sizes = self.sizes
        selections = tuple(dict.fromkeys((*self.selections, *later.selections)))
        result = replace(later, kept=kept, sizes=sizes, options=options, selections=selections)
        return replace(result, shifts=shifts, carriers=carriers)

    def apply(self, model: nn.Module, optimizer: Optimizer | None = None) -> nn.Module:
        """Shrink an instance of the model's own class, in place or not at all.

        Args:
            model: An instance with the sizes the plan was made for, on any device, in any dtype.
            optimizer: Of this model, maybe of others too: its state is sliced likewise and its
                groups get the new parameters, so that training goes on where it was.

        Returns:
            The same object. What shrinks is a new tensor, with gradient, `requires_grad`, dtype,
            device and memory format as before; hooks of modules stay, those of tensors do not.

        Raises:
            PlanError: A name is missing or has another shape, the model's own code has sizes
                written into it, so that its forward cannot run when smaller, or the optimizer
                is of another model or has state that cannot be sliced.
        """
        if self.selections:
            text = f"it selects channels at `%{self.selections[0]}`, as no class does by itself"
            raise PlanError(text, hint="use the GraphModule that `compress` returns")
        stored = stored_tensors(model)
        for name in self.kept:
            _check_shape(name, stored.get(name), self.sizes[name])
        check_shifts(model, self.shifts.keys(), self.sizes.keys(), self.carriers)
        self._rehearse(model)
        names = names_of(stored)
        sliced: dict[str, Tensor] = {}
        for name in self.kept:
            new = like(stored[name], slice_tensor(stored[name], self.kept[name]))
            if (grad := stored[name].grad) is not None:
                new.grad = slice_tensor(grad, self.kept[name])
            sliced.update(dict.fromkeys(names[id(stored[name])], new))
        change = None if optimizer is None else follow(optimizer, stored, sliced, self.kept)
        modules = modules_of(model)
        put_all(modules, sliced)
        self.resize_modules(modules, sliced)
        shift_all(model, self.shifts)
        if change is not None and optimizer is not None:
            change()
            take_in(optimizer, self._new_biases(model))
        return model

    def _new_biases(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the biases that the plan has added, each with the weight of its module."""
        for name in self.shifts.keys() - self.sizes.keys():
            module = model.get_submodule(name.rpartition(".")[0])
            yield module.get_parameter("bias"), module.get_parameter("weight")

    def _rehearse(self, model: nn.Module) -> None:
        """Trace the shrunken model without data, on a copy of its objects; compare its calls."""
        twin = shallow(model, lambda tensor: tensor.to("meta"))
        stored = stored_tensors(model)
        names = names_of(stored)
        floating = {t.dtype for t in stored.values() if t.is_floating_point()}
        sliced: dict[str, Tensor] = {}
        for name in self.kept:
            small = torch.empty(self.new_shape(name), dtype=stored[name].dtype, device="meta")
            sliced.update(dict.fromkeys(names[id(stored[name])], like(stored[name], small)))
        modules = modules_of(twin)
        put_all(modules, sliced)
        self.resize_modules(modules, sliced)
        name = type(model).__name__
        hint = "use the GraphModule that `compress` returns, in which they are rewritten"
        fixed = (n for n, m in modules_of(model).items() if isinstance(m, nn.MultiheadAttention))
        whole = next((n for n in fixed if any(k.startswith(f"{n}.") for k in self.kept)), None)
        if whole is not None and not isinstance(model, fx.GraphModule):
            raise PlanError(
                f"`{whole}` is a `MultiheadAttention`, whose sizes are tied", None, hint
            )
        if not self.calls:
            return
        if None in self.examples.values():
            raise PlanError(
                "the plan was saved without the example inputs, which are of a class of their own",
                hint="apply the plan that `compress` returns before it is saved",
            )
        try:
            calls = {name: _fitting(twin, c, floating) for name, c in self.examples.items()}
            traced = retrace(twin, calls, self.leaves)
        except SlimgraphError as error:
            raise PlanError(
                f"the forward of `{name}` depends on sizes that the plan changes: {error.message}",
                error.where,
                hint,
            ) from error
        other = first_other_call(traced, self.calls)
        if other is not None:  # it might even run, and compute something else
            raise PlanError(
                f"the forward of `{name}` depends on sizes that the plan changes: it calls "
                f"`{other[1]}`, the compressed model `{other[2]}`",
                other[0],
                hint,
            )

    def resize_modules(self, modules: Mapping[str, nn.Module], resized: Iterable[str]) -> None:
        """Set what torch.nn modules say of their sizes, of those the plan slices or changes.

        Args:
            modules: All modules of a model whose tensors have their new sizes already.
            resized: Names of these tensors.
        """
        for name, changed in self.options.items():
            form = DEFAULT_TABLE.form_of(modules[name]) if name in modules else None
            if form is None or not changed.keys() <= set(form.options):
                raise PlanError(f"the model has no module `{name}` with settings {set(changed)}")
            vars(modules[name]).update(changed)
        for owner in {name.rpartition(".")[0] for name in resized}:
            module = modules[owner]
            form = DEFAULT_TABLE.form_of(module)
            if form is not None and form.sizes is not None:
                form.sizes(module)

    def to_payload(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the plan as JSON data and tensors."""
        tensors = {
            f"{name}[{dim}]": positions.contiguous()
            for name, entries in self.kept.items()
            for dim, positions in enumerate(entries)
            if positions is not None
        }
        tensors |= {f"{name}+": shift.contiguous() for name, shift in self.shifts.items()}
        payload = {
            "sizes": {name: list(shape) for name, shape in self.sizes.items()},
            "options": {name: dict(changed) for name, changed in self.options.items()},
            "examples": {name: _encoded(call) for name, call in self.examples.items()},
            "calls": list(self.calls),
            "leaves": list(self.leaves),
            "carriers": list(self.carriers),
            "selections": list(self.selections),
        }
        return payload, tensors

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Plan":
        """Rebuild a plan from JSON data and tensors.

        Raises:
            PlanError: They do not describe a plan.
        """
        try:
            sizes = {name: tuple(shape) for name, shape in payload["sizes"].items()}
            examples = {name: _decoded(call) for name, call in payload["examples"].items()}
            kept: dict[str, list[Tensor | None]] = {}
            shifts = {key[:-1]: shift for key, shift in tensors.items() if key.endswith("+")}
            for key, positions in tensors.items():
                if key.endswith("+"):
                    continue
                name, _, dim = key[:-1].rpartition("[")
                kept.setdefault(name, [None] * len(sizes[name]))[int(dim)] = positions
            calls, leaves = (tuple(map(str, payload[key])) for key in ("calls", "leaves"))
            carriers = tuple(map(str, payload.get("carriers", ())))
            selections = tuple(map(str, payload.get("selections", ())))
            options = {
                name: {key: _setting(value) for key, value in changed.items()}
                for name, changed in payload["options"].items()
            }
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise PlanError(f"the data does not describe a plan: {error!r}") from error
        for name, entries in kept.items():
            check_positions(name, entries, sizes[name])
        done = {name: tuple(entries) for name, entries in kept.items()}
        return cls(done, sizes, options, examples, calls, leaves, shifts, carriers, selections)

    def save(self, path: str | Path) -> None:
        """Write the plan as safetensors."""
        from slimgraph import container

        container.write(path, "plan", *self.to_payload())

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read what `save` wrote.

        Raises:
            FileError: The file is not a plan.
        """
        from slimgraph import container

        return cls.from_payload(*container.read(path, "plan"))


def like(old: Tensor, tensor: Tensor) -> Tensor:
    """Make a parameter of a tensor if it replaces one."""
    if isinstance(old, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=old.requires_grad)
    return tensor


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer by a new tensor."""
    owner, _, attribute_name = name.rpartition(".")
    _put(model.get_submodule(owner), attribute_name, tensor)


def put_all(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters and buffers, given by name, by new tensors.

    Args:
        modules: All modules of a model, see `modules_of`.
        tensors: By name.
    """
    for name, tensor in tensors.items():
        owner, _, attribute_name = name.rpartition(".")
        _put(modules[owner], attribute_name, tensor)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    if isinstance(module, nn.RNNBase):  # it keeps a list of its parameters besides
        setattr(module, name, tensor)
    elif isinstance(tensor, nn.Parameter):
        module._parameters[name] = tensor
    else:
        module._buffers[name] = tensor


def _fitting(model: nn.Module, call: tuple[Any, Any], floating: set[torch.dtype]) -> Any:
    """Let a call fit a model: one that computes in one floating dtype gets its inputs in that one.

    Inputs whose names are no parameters of its forward are given by position.
    """
    if len(floating) == 1:
        (own,) = floating
        call = map_tensors(lambda t: t.to(own) if t.is_floating_point() else t, call)
    args, kwargs = call
    parameters = inspect.signature(model.forward).parameters
    variadic = inspect.Parameter.VAR_KEYWORD
    takes_all = any(parameter.kind is variadic for parameter in parameters.values())
    named = args or takes_all or kwargs.keys() <= parameters.keys()
    return (args, kwargs) if named else (tuple(kwargs.values()), {})


def _encoded(call: Any) -> Any:
    """Turn a call into JSON data; into nothing if it holds what is no data."""
    from slimgraph.serialize.examples import encode_example

    try:
        return encode_example(call, "the example inputs", exact=True)
    except SlimgraphError:
        return None


def _decoded(data: Any) -> Any:
    from slimgraph.serialize.examples import decode_example

    if data is None:
        return None
    args, kwargs = decode_example(data)
    return tuple(args), dict(kwargs)


def _setting(value: Any) -> int | tuple[int, ...]:
    """Read what options are: a number, or several."""
    return tuple(map(int, value)) if isinstance(value, list) else int(value)


def _shape(shape: Shape) -> str:
    return " x ".join(str(size) for size in shape)


def _numel(shape: Shape) -> int:
    return int(torch.Size(shape).numel())


def _check_shape(name: str, tensor: Tensor | None, shape: Shape) -> None:
    if tensor is None:
        raise PlanError(
            f"the model has no parameter or buffer `{name}`",
            hint="apply the plan to a fresh instance of the class it was made for",
        )
    if tuple(tensor.shape) != tuple(shape):
        raise PlanError(
            f"`{name}` has shape {tuple(tensor.shape)}, the plan was made for {tuple(shape)}",
            hint="apply the plan to a fresh, unpruned instance",
        )
