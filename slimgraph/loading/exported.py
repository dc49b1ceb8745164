"""`torch.export` programs, read without torch's own loader.

`torch.export.load` unpickles, evaluates expressions and guards, and resolves any dotted name below
`torch`, so an archive from a stranger can run code. The archive itself is simple, a zip of JSON and
raw weights: its graph is translated into slimgraph's own format, whose decoder checks it.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from slimgraph.errors import FileError, UnsafeFileError
from slimgraph.files import FilePath
from slimgraph.loading.exported_archive import Archive, PayloadTensors, PickledPartError
from slimgraph.loading.exported_graph import program_nodes
from slimgraph.serialize.errors import reason
from slimgraph.serialize.model_file import decode_model


def load_exported(path: FilePath, *, trust_pickle: bool) -> nn.Module:
    """Read what `torch.export.save` wrote.

    Args:
        path: The archive.
        trust_pickle: Let torch's own loader, which runs code from the file, read what cannot be
            read safely: custom ops, control flow, buffers that change, other torch versions.

    Returns:
        A traced model with the program's parameter names.

    Raises:
        UnsafeFileError: Only torch's own loader can read it.
        FileError: It is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _translate(Archive(path, archive))
    except PickledPartError as error:
        if trust_pickle:
            return _load_with_torch(path)
        raise UnsafeFileError(
            f"`{path}` can only be read by `torch.export.load`, which runs code from the file: "
            f"{error}",
            hint="trace the model with `slimgraph.trace` and write it with `slimgraph.save`, or "
            "add `--trust-pickle` if you trust whoever made the file",
        ) from error
    except Exception as error:  # a hostile file can make anything fail, and none may escape
        raise FileError(
            f"`{path}` is not a valid `torch.export` archive: {reason(error)}",
            hint="the file is damaged; write it again with `torch.export.save`",
        ) from error


def _translate(archive: Archive) -> fx.GraphModule:
    name = archive.model_name()
    program = archive.document(f"models/{name}.json")
    nodes, stored = program_nodes(program)
    weights = archive.tensors("data/weights", f"data/weights/{name}_weights_config.json")
    constants = archive.tensors("data/constants", f"data/constants/{name}_constants_config.json")
    held: dict[str, PayloadTensors] = {
        key: weights if key in weights else constants for key in stored
    }
    entries, numbers = _entries(held, stored)
    modules = _modules(stored, numbers)
    payload = {"name": "ExportedProgram", "nodes": nodes, "modules": modules, "tensors": entries}
    graph_module = decode_model(payload, {key: held[key][key] for key in stored})
    graph_module.graph.eliminate_dead_code()  # sizes that only the dropped assertions used
    graph_module.recompile()
    return graph_module


def _entries(
    held: dict[str, PayloadTensors], stored: dict[str, str]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Make the table of tensors; names of one tensor share an entry, as tied weights do."""
    entries: list[dict[str, Any]] = []
    numbers: dict[str, int] = {}
    first: dict[tuple[str, str], int] = {}
    for key, kind in stored.items():
        identity = (kind, held[key].place(key))
        if identity not in first:
            first[identity] = len(entries)
            parameter = kind == "parameter"
            grad = parameter and held[key].requires_grad(key)
            entries.append({"key": key, "parameter": parameter, "requires_grad": grad})
        numbers[key] = first[identity]
    return entries, numbers


def _modules(stored: dict[str, str], numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Describe the tree of plain modules that holds the tensors."""
    empty: dict[str, Any] = {"class": "Module", "training": False, "attributes": {}}
    modules: dict[str, dict[str, Any]] = {}

    def module(path: str) -> dict[str, Any]:
        if path not in modules:
            if path:
                module(path.rpartition(".")[0])
            modules[path] = {"path": path, **empty, "parameters": {}, "buffers": {}}
        return modules[path]

    module("")
    for key, kind in stored.items():
        owner, _, name = key.rpartition(".")
        if kind == "parameter":
            module(owner)["parameters"][name] = numbers[key]
        else:
            module(owner)["buffers"][name] = [numbers[key], kind == "persistent"]
    return list(modules.values())


def _load_with_torch(path: FilePath) -> nn.Module:
    try:
        with Path(path).open("rb") as file:
            return torch.export.load(file).module()
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise FileError(
            f"`torch.export.load` cannot read `{path}`: {type(error).__name__}: {first_line}",
            hint="read it with the version of torch that wrote it",
        ) from error
