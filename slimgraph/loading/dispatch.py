"""`load_model`: any model file in, told apart by its content, one kind of answer out."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from slimgraph.container import kind_of, open_safetensors
from slimgraph.errors import FileError
from slimgraph.files import FilePath
from slimgraph.filetype import FileType, identify
from slimgraph.loading.checkpoint import read_checkpoint, state_dict_in
from slimgraph.loading.exported import load_exported
from slimgraph.loading.weights import build_with_weights
from slimgraph.serialize import load

Origin = Literal["slimgraph", "export", "weights", "pickle"]
_CHECKPOINTS = (FileType.TORCH, FileType.TORCH_LEGACY, FileType.PICKLE)
_ADVICE = {
    FileType.TORCHSCRIPT: "TorchScript hides the model's structure; load its state dict into the "
    "model class instead and save that",
    FileType.ONNX: "slimgraph writes ONNX but reads PyTorch; give the model the file was made of",
    FileType.CUT_ZIP: "download or save it again",
}
_READABLE = (
    "slimgraph reads what `slimgraph.save` and `torch.export.save` wrote, and state dicts "
    "together with `--arch package.module:factory`"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model from a file.

    Attributes:
        module: The model.
        kind: What the file was: a traced model of slimgraph's, a `torch.export` program, bare
            weights, or a pickled module.
        traced: Whether the model is a GraphModule that knows its shapes; if not, tracing it
            takes example inputs.
    """

    module: nn.Module
    kind: Origin
    traced: bool


def load_model(
    path: FilePath, *, arch: str | None = None, trust_pickle: bool = False
) -> LoadedModel:
    """Open a model file of any kind.

    Args:
        path: The file; its content says what it is, its name does not matter.
        arch: `package.module:factory` for bare weights.
        trust_pickle: Run the code a pickled module consists of.

    Returns:
        The model, on the CPU.

    Raises:
        FileError: The file is no model, is damaged, or needs `arch`.
        UnsafeFileError: It would run code, and `trust_pickle` is off.
        SlimgraphError: `arch` names nothing that makes a model.
    """
    found = identify(path)
    if found in (FileType.SAFETENSORS, FileType.CUT_SAFETENSORS):
        return _from_safetensors(path, arch)
    if found is FileType.EXPORT:
        _refuse_arch(path, arch)
        module = load_exported(path, trust_pickle=trust_pickle)
        return LoadedModel(module, "export", traced=_knows_shapes(module))
    if found in _CHECKPOINTS:
        return _from_checkpoint(path, found, arch, trust_pickle=trust_pickle)
    raise FileError(f"`{path}` is {found}, not a PyTorch model", hint=_ADVICE.get(found, _READABLE))


def _from_safetensors(path: FilePath, arch: str | None) -> LoadedModel:
    if kind_of(path) is not None:
        _refuse_arch(path, arch)
        return LoadedModel(load(path), "slimgraph", traced=True)
    module = build_with_weights(path, dict(open_safetensors(path)), arch)
    return LoadedModel(module, "weights", traced=False)


def _from_checkpoint(
    path: FilePath, found: FileType, arch: str | None, *, trust_pickle: bool
) -> LoadedModel:
    content = read_checkpoint(path, found, trust_pickle=trust_pickle)
    if not isinstance(content, nn.Module):
        content = state_dict_in(path, content)
    if isinstance(content, nn.Module):
        _refuse_arch(path, arch)
        return LoadedModel(content, "pickle", traced=_knows_shapes(content))
    return LoadedModel(build_with_weights(path, content, arch), "weights", traced=False)


def _knows_shapes(module: nn.Module) -> bool:
    """Tell whether every node has its value, on plain meta tensors."""
    if not isinstance(module, fx.GraphModule):
        return False
    nodes = list(module.graph.nodes)
    leaves = tree_leaves([node.meta.get("val") for node in nodes])
    return all("val" in node.meta for node in nodes) and all(
        type(leaf) is Tensor for leaf in leaves if isinstance(leaf, Tensor)
    )


def _refuse_arch(path: FilePath, arch: str | None) -> None:
    if arch is not None:
        raise FileError(
            f"`{path}` holds a whole model, so `--arch {arch}` has no use",
            hint="leave `--arch` out; it is for files of bare weights",
        )
