"""What a module's attributes say about the shapes of its tensors.

torch computes with the tensors alone, so a module whose `in_channels` is wrong runs, until some
tool believes it. A file with such a module is not written and not read.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Shapes = Mapping[str, tuple[int, ...]]


def _conv(module: Any) -> Shapes:
    inner = module.in_channels // module.groups
    weight = (module.out_channels, inner, *module.kernel_size)
    return {"weight": weight, "bias": (module.out_channels,)}


def _transposed_conv(module: Any) -> Shapes:
    inner = module.out_channels // module.groups
    weight = (module.in_channels, inner, *module.kernel_size)
    return {"weight": weight, "bias": (module.out_channels,)}


def _linear(module: Any) -> Shapes:
    weight = (module.out_features, module.in_features)
    return {"weight": weight, "bias": (module.out_features,)}


def _per_channel(attribute: str, *names: str) -> Callable[[Any], Shapes]:
    return lambda module: dict.fromkeys(names, (getattr(module, attribute),))


def _layer_norm(module: Any) -> Shapes:
    return dict.fromkeys(("weight", "bias"), tuple(module.normalized_shape))


def _rms_norm(module: Any) -> Shapes:
    return {"weight": tuple(module.normalized_shape)}


def _embedding(module: Any) -> Shapes:
    return {"weight": (module.num_embeddings, module.embedding_dim)}


_STATISTICS = ("weight", "bias", "running_mean", "running_var")
# The first class that fits counts.
_SHAPES: tuple[tuple[tuple[type[nn.Module], ...], Callable[[Any], Shapes]], ...] = (
    ((_ConvTransposeNd,), _transposed_conv),
    ((_ConvNd,), _conv),
    ((nn.Linear,), _linear),
    ((_NormBase,), _per_channel("num_features", *_STATISTICS)),
    ((nn.GroupNorm,), _per_channel("num_channels", "weight", "bias")),
    ((nn.PReLU,), _per_channel("num_parameters", "weight")),
    ((nn.LayerNorm,), _layer_norm),
    ((nn.RMSNorm,), _rms_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
)


def check_shapes(path: str, module: nn.Module, error: type[Exception]) -> None:
    """Compare the tensors of a module with what its attributes say.

    Args:
        path: The module's name, for the message.
        module: The module.
        error: What to raise when they disagree.
    """
    shapes = next((rule for kinds, rule in _SHAPES if isinstance(module, kinds)), None)
    for name, expected in (shapes(module) if shapes else {}).items():
        tensor = getattr(module, name)
        if isinstance(tensor, Tensor) and tuple(tensor.shape) != expected:
            raise error(
                f"the `{name}` of module `{path}` has shape {tuple(tensor.shape)}, but the "
                f"module's attributes ask for {expected}"
            )
