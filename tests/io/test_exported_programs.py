"""`torch.export` archives are read without running anything from them."""

import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure

from slimgraph.errors import FileError, UnsafeFileError
from slimgraph.loading import load_model
from tests.io.test_loading import RunsCode

Edit = Callable[[dict[str, Any]], object]
BATCH = torch.export.Dim("batch", min=1, max=64)


@pytest.fixture(autouse=True)
def quiet_torch() -> None:
    """Torch's own loader says on the log that file names should end in `.pt2`."""
    logging.getLogger("torch").setLevel(logging.ERROR)


class Rich(nn.Module):
    """Every kind of tensor and output an archive can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.tied.weight
        self.gamma = nn.Parameter(torch.rand(4, 1, 1), requires_grad=False)
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        self.constant = torch.tensor([1.0, 2.0])

    def forward(self, x: Tensor, *, shift: Tensor) -> dict[str, Any]:
        x = self.norm(self.conv(x)) * self.gamma
        first, second = x.chunk(2, 1)
        flat = x.permute(0, 2, 3, 1).to(torch.float64, memory_format=torch.contiguous_format)
        flat = self.again(self.tied(flat.float()))
        rows = flat.view(x.shape[0], -1)
        values, positions = rows.max(1)
        capped = torch.clamp(values, min=-float("inf")) + self.table.sum()
        return {"a": first + shift, "b": [second, (capped, positions)], "c": self.constant * 2}


def exported(folder: Path, model: nn.Module, *args: Any, **options: Any) -> Path:
    """Write a program to a file."""
    program = torch.export.export(model.eval(), args, **options)
    path = folder / "program"
    with path.open("wb") as file:
        torch.export.save(program, file)
    return path


def rich_program(folder: Path) -> Path:
    """Write the rich program, with a free batch size."""
    return exported(
        folder,
        Rich(),
        torch.randn(2, 3, 8, 8),
        kwargs={"shift": torch.randn(1)},
        dynamic_shapes={"x": {0: BATCH}, "shift": None},
    )


def test_a_program_computes_what_torch_computes(tmp_path: Path) -> None:
    path = rich_program(tmp_path)
    loaded = load_model(path)
    reference = torch.export.load(path)
    assert (loaded.kind, loaded.traced) == ("export", True)
    assert loaded.module.state_dict().keys() == reference.state_dict.keys()
    for batch in (2, 5):
        x, shift = torch.randn(batch, 3, 8, 8), torch.randn(1)
        expected = reference.module()(x, shift=shift)
        found = loaded.module(x, shift)
        assert tree_structure(found) == tree_structure(expected)
        pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)


def test_names_ties_and_places_survive(tmp_path: Path) -> None:
    module = load_model(rich_program(tmp_path)).module
    assert module.tied.weight is module.again.weight
    assert not module.gamma.requires_grad
    assert module.conv.weight.requires_grad
    assert "table" in dict(module.named_buffers())
    sources = {node.meta["source"] for node in module.graph.nodes}
    assert any(source.startswith("test_exported_programs.py:") for source in sources)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet", "swin_t"])
def test_programs_of_torchvision_are_read(tmp_path: Path, name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False} if name == "googlenet" else {}
    model = models.get_model(name, weights=None, **options)
    x = torch.randn(1, 3, 64, 64)
    path = exported(tmp_path, model, x)
    assert torch.equal(load_model(path).module(x), model(x))


def edited(path: Path, name: str, edit: Callable[[bytes], bytes | None]) -> Path:
    """Change or remove (`None`) the members of an archive whose names end like this."""
    changed = path.with_name("changed")
    touched = 0
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for member in old.infolist():
            content: bytes | None = old.read(member)
            if member.filename.endswith(name):
                touched += 1
                content = edit(old.read(member))
            if content is not None:
                new.writestr(member.filename, content)
    assert touched
    return changed


def edited_json(path: Path, name: str, edit: Edit) -> Path:
    """Change one of the JSON documents of an archive."""

    def change(content: bytes) -> bytes:
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return edited(path, name, change)


def graph(document: dict[str, Any]) -> dict[str, Any]:
    """Return the graph of a program's document."""
    found: dict[str, Any] = document["graph_module"]["graph"]
    return found


def test_an_unchanged_copy_is_read(tmp_path: Path) -> None:
    path = edited_json(rich_program(tmp_path), "models/model.json", lambda _: None)
    x, shift = torch.randn(2, 3, 8, 8), torch.randn(1)
    assert load_model(path).module(x, shift)["c"].tolist() == [2.0, 4.0]


MARK = "__import__('pathlib').Path('marker').touch()"


def rename_input(document: dict[str, Any]) -> None:
    """Call the input something that would run where it stands in generated code."""
    text = json.dumps(document["graph_module"]).replace('"x"', json.dumps(f"x={MARK}"))
    document["graph_module"] = json.loads(text)


@pytest.mark.parametrize(
    ("edit", "kind", "message"),
    [
        (lambda d: d.update(guards_code=[MARK]), None, ""),
        (
            lambda d: d["range_constraints"].update({MARK: {"min_val": 1, "max_val": 2}}),
            None,
            "",
        ),
        (
            lambda d: graph(d)["sym_int_values"]["sym_size_int_1"]["as_expr"].update(expr_str=MARK),
            None,
            "",
        ),
        (lambda d: graph(d)["nodes"][1].update(target="torch.os.mkdir"), UnsafeFileError, "calls"),
        (
            lambda d: graph(d)["nodes"][1].update(target="_operator.attrgetter"),
            UnsafeFileError,
            "it",
        ),
        (lambda d: graph(d)["nodes"][1].update(target=MARK), UnsafeFileError, "it calls"),
        (rename_input, FileError, "may not be the name"),
        (lambda d: graph(d)["nodes"][1].update(name=MARK), None, ""),
        (
            lambda d: graph(d)["nodes"][1]["outputs"][0]["as_tensor"].update(name=MARK),
            FileError,
            "may not be the name",
        ),
    ],
    ids=["guard", "range", "expression", "function", "operator", "code", "input", "unused", "node"],
)
def test_nothing_in_a_program_is_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: Edit,
    kind: type[FileError] | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = edited_json(rich_program(tmp_path), "models/model.json", edit)
    if kind is None:
        load_model(path).module(torch.randn(2, 3, 8, 8), torch.randn(1))
    else:
        with pytest.raises(kind, match=message):
            load_model(path)
    assert not (tmp_path / "marker").exists()


def test_the_pickles_of_a_program_are_not_opened(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    torch.save(RunsCode(tmp_path / "marker"), evil)
    path = edited(rich_program(tmp_path), "sample_inputs/model.pt", lambda _: evil.read_bytes())
    load_model(path)
    assert not (tmp_path / "marker").exists()


def test_a_pickled_weight_is_not_opened(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    torch.save(RunsCode(tmp_path / "marker"), evil)
    path = edited(rich_program(tmp_path), "weights/weight_0", lambda _: evil.read_bytes())
    path = path.rename(tmp_path / "half")
    path = edited_json(
        path,
        "model_weights_config.json",
        lambda d: next(iter(d["config"].values())).update(use_pickle=True),
    )
    with pytest.raises(UnsafeFileError, match="is pickled") as caught:
        load_model(path)
    assert "--trust-pickle" in str(caught.value.hint)
    assert not (tmp_path / "marker").exists()
    with pytest.raises(FileError):
        load_model(path, trust_pickle=True)
    assert (tmp_path / "marker").exists(), "trust does let torch run it"


def meta_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return what a payload configuration says of its first tensor."""
    found: dict[str, Any] = next(iter(document["config"].values()))["tensor_meta"]
    return found


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: meta_of(d).update(sizes=[{"as_int": 10**6}] * 3), "but only .* bytes"),
        (lambda d: meta_of(d).update(storage_offset={"as_int": 10**6}), "but only .* bytes"),
        (lambda d: meta_of(d).update(strides=[{"as_int": 99}] * 3), "but only .* bytes"),
        (lambda d: meta_of(d).update(sizes=[{"as_int": -1}] * 3), "is no size"),
        (lambda d: meta_of(d).update(dtype=99), "is no dtype"),
        (lambda d: d["config"].clear(), "missing|KeyError"),
        (lambda d: d.clear(), "lists nothing"),
        (
            lambda d: next(iter(d["config"].values())).update(path_name="../../../secret"),
            "is missing",
        ),
    ],
    ids=["sizes", "offset", "strides", "negative", "dtype", "names", "config", "path"],
)
def test_weights_that_lie_are_an_error(tmp_path: Path, edit: Edit, message: str) -> None:
    path = edited_json(rich_program(tmp_path), "model_weights_config.json", edit)
    with pytest.raises(FileError, match=message):
        load_model(path)


@pytest.mark.parametrize(
    ("edit", "kind", "message"),
    [
        (lambda d: d["schema_version"].update(major=99), UnsafeFileError, "it has schema 99"),
        (lambda d: d.clear(), FileError, "KeyError"),
        (lambda d: graph(d)["nodes"].pop(1), FileError, "no earlier node"),
        (
            lambda d: graph(d)["tensor_values"]["x"].update(sizes=[{"as_int": 10**6}] * 4),
            FileError,
            "more than 2 GiB",
        ),
        (
            lambda d: graph(d)["nodes"][1]["inputs"][0].update(name="nowhere"),
            FileError,
            "has no argument `nowhere`",
        ),
        (lambda d: graph(d)["outputs"].pop(), FileError, "StopIteration|valid"),
        (lambda d: graph(d)["outputs"].append(graph(d)["outputs"][0]), FileError, "more outputs"),
    ],
    ids=["schema", "empty", "node", "shape", "argument", "fewer", "more"],
)
def test_a_damaged_program_is_an_error(
    tmp_path: Path, edit: Edit, kind: type[FileError], message: str
) -> None:
    path = edited_json(rich_program(tmp_path), "models/model.json", edit)
    with pytest.raises(kind, match=message):
        load_model(path)


def test_missing_and_compressed_members_are_errors(tmp_path: Path) -> None:
    path = rich_program(tmp_path)
    with pytest.raises(FileError, match="`data/weights/weight_0` is missing"):
        load_model(edited(path, "weights/weight_0", lambda _: None))
    with pytest.raises(FileError, match="no graph"):
        load_model(edited(path, "models/model.json", lambda _: None))
    packed = tmp_path / "packed"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    with pytest.raises(FileError, match="is compressed"):
        load_model(packed)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    content = rich_program(tmp_path).read_bytes()
    for length in [*range(1, len(content), 997), len(content) - 1]:
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(FileError):
            load_model(tmp_path / "cut")


class Counts(nn.Module):
    """Changes a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x + self.calls


def test_a_program_that_changes_a_buffer_in_place_is_read(tmp_path: Path) -> None:
    module = load_model(exported(tmp_path, Counts(), torch.ones(2))).module
    assert [module(torch.ones(2))[0].item() for _ in range(2)] == [2.0, 3.0]


def test_a_program_that_returns_its_changes_needs_trust(tmp_path: Path) -> None:
    program = torch.export.export(Counts(), (torch.ones(2),)).run_decompositions()
    path = tmp_path / "program"
    with path.open("wb") as file:
        torch.export.save(program, file)
    with pytest.raises(UnsafeFileError, match=r"torch\.export\.load") as caught:
        load_model(path)
    assert "--trust-pickle" in str(caught.value.hint)
    loaded = load_model(path, trust_pickle=True)
    assert [loaded.module(torch.ones(2))[0].item() for _ in range(2)] == [2.0, 3.0]
    assert not loaded.traced
