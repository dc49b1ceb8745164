"""Putting bare weights into the model class they belong to."""

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from slimgraph.errors import FileError
from slimgraph.files import FilePath
from slimgraph.loading.architecture import build

_SHOWN = 5
# What DataParallel, torch.compile and training frameworks put before every key.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def build_with_weights(
    path: FilePath, weights: Mapping[str, Tensor], arch: str | None
) -> nn.Module:
    """Make the model `arch` names and load weights into it.

    Args:
        path: Where the weights come from, for the messages.
        weights: A state dict.
        arch: `package.module:factory`.

    Raises:
        FileError: There is no `arch`, or the weights do not fit the model.
        SlimgraphError: `arch` names nothing that makes a model.
    """
    if arch is None:
        raise FileError(
            f"`{path}` holds bare weights, which do not say what model they belong to",
            hint="name its class or factory with `--arch package.module:factory`, for example "
            "`--arch torchvision.models:resnet18`",
        )
    model = build(arch)
    fitting = _without_prefix(weights, set(model.state_dict()))
    _add_tied(fitting, model)
    try:
        with torch.no_grad():
            model.load_state_dict(fitting)
    except (RuntimeError, TypeError, AttributeError) as error:
        problems = _compare(fitting, model.state_dict()) or [str(error)]
        raise FileError(
            "\n  ".join([f"`{path}` does not fit `{arch}`", *problems]),
            hint="check `--arch`, and that its factory builds the model as it was trained, "
            "with the same number of classes",
        ) from error
    return model


def _without_prefix(weights: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    current = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    while not wanted & current.keys():
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in current)), None)
        if prefix is None or not current:
            break
        current = {key.removeprefix(prefix): value for key, value in current.items()}
    return current


def _add_tied(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Fill in the second names of shared tensors, which safetensors files leave out."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    for tied in names.values():
        given = next((name for name in tied if name in weights), None)
        if given is not None:
            weights.update({name: weights[given] for name in tied if name not in weights})


def _compare(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    reshaped = [n for n in given if n in wanted and given[n].shape != wanted[n].shape]
    return [
        *_listing("missing in the file", [_with_nearest(n, unexpected) for n in missing]),
        *_listing("unknown to the model", [_with_nearest(n, missing) for n in unexpected]),
        *_listing(
            "of another shape",
            [f"`{n}` {tuple(given[n].shape)}, not {tuple(wanted[n].shape)}" for n in reshaped],
        ),
    ]


def _with_nearest(name: str, others: list[str]) -> str:
    near = difflib.get_close_matches(name, others[:1000], 1)
    return f"`{name}` (nearest: `{near[0]}`)" if near else f"`{name}`"


def _listing(title: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{title}: {', '.join(names[:_SHOWN])}{more}"]
