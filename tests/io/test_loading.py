"""`load_model` opens every kind of model file, and says what is wrong with the others."""

import io
import json
import os
import pickle
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import fx, nn

from slimgraph.container import write
from slimgraph.errors import FileError, SlimgraphError, UnsafeFileError
from slimgraph.loading import load_model
from slimgraph.serialize import save
from tests.io.forge import traced_net
from tests.io.test_filetype import onnx_bytes

FACTORY = """
    import torch
    from torch import fx, nn

    class Net(nn.Module):
        def __init__(self, width=8):
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3)
            self.norm = nn.BatchNorm2d(width)
            self.head = nn.Linear(width, 4)
            self.again = nn.Linear(width, 4)
            self.again.weight = self.head.weight

        def forward(self, x):
            x = self.norm(self.conv1(x)).mean((2, 3))
            return self.head(x) + self.again(x)

        @classmethod
        def narrow(cls):
            return cls(4)

    def needs(argument): ...
    def number(): return 3
    constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a module of the user's in it."""
    (tmp_path / "own_models.py").write_text(textwrap.dedent(FACTORY), encoding="utf-8")
    (tmp_path / "needy.py").write_text("import absent_package\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in ("own_models", "needy", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def own_net(width: int = 8) -> nn.Module:
    """Make the user's model as the user's own program would."""
    namespace: dict[str, Any] = {"__name__": "elsewhere"}
    exec(textwrap.dedent(FACTORY), namespace)  # noqa: S102
    model: nn.Module = namespace["Net"](width)
    nn.init.normal_(model.get_parameter("conv1.weight"))
    return model


def assert_has(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Check that a module has these weights."""
    found = module.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


class RunsCode:
    """Pickled as a call that creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_what_slimgraph_saved_is_opened_under_any_name(tmp_path: Path) -> None:
    model = traced_net()
    save(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    x = torch.randn(2, 3, 8, 8)
    assert (loaded.kind, loaded.traced) == ("slimgraph", True)
    assert torch.equal(loaded.module(x), model(x))


@pytest.mark.parametrize(("kind", "use"), [("mask", "--mask"), ("plan", "Plan.load")])
def test_a_plan_or_mask_is_no_model(tmp_path: Path, kind: Any, use: str) -> None:
    write(tmp_path / "x", kind, {}, {"a": torch.ones(1)})
    with pytest.raises(FileError, match=f"is a slimgraph {kind}, not a slimgraph model") as caught:
        load_model(tmp_path / "x")
    assert use in str(caught.value.hint)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    "state_dict": lambda weights, path: torch.save({"epoch": 3, "state_dict": weights}, path),
    "model": lambda weights, path: torch.save({"model": weights, "optimizer": {}}, path),
    "parallel": lambda weights, path: torch.save(
        {f"module.{name}": tensor for name, tensor in weights.items()}, path
    ),
    "compiled": lambda weights, path: torch.save(
        {"module": {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}}, path
    ),
    "safetensors": lambda weights, path: save_file(
        {name: tensor for name, tensor in weights.items() if name != "again.weight"}, path
    ),
}


@pytest.mark.parametrize("how", WRITERS)
def test_weights_are_put_into_the_class_arch_names(here: Path, how: str) -> None:
    model = own_net()
    WRITERS[how](model.state_dict(), here / "weights")
    loaded = load_model(here / "weights", arch="own_models:Net")
    assert (loaded.kind, loaded.traced) == ("weights", False)
    assert_has(loaded.module, model.state_dict())
    assert loaded.module.head.weight is loaded.module.again.weight
    assert str(here) not in sys.path


@pytest.mark.parametrize("how", WRITERS)
def test_weights_without_arch_ask_for_it(here: Path, how: str) -> None:
    WRITERS[how](own_net().state_dict(), here / "weights")
    with pytest.raises(FileError, match="holds bare weights") as caught:
        load_model(here / "weights")
    assert "--arch package.module:factory" in str(caught.value.hint)


def test_weights_that_do_not_fit_are_compared(here: Path) -> None:
    weights = own_net(4).state_dict()
    weights["haed.bias"] = weights.pop("head.bias")
    torch.save(weights, here / "weights.pt")
    with pytest.raises(FileError) as caught:
        load_model("weights.pt", arch="own_models:Net")
    shapes = (
        "  of another shape: `conv1.weight` (4, 3, 3, 3), not (8, 3, 3, 3), "
        "`conv1.bias` (4,), not (8,), `norm.weight` (4,), not (8,), `norm.bias` (4,), not (8,), "
        "`norm.running_mean` (4,), not (8,), and 3 more"
    )
    assert caught.value.message.splitlines() == [
        "`weights.pt` does not fit `own_models:Net`",
        "  missing in the file: `head.bias` (nearest: `haed.bias`)",
        "  unknown to the model: `haed.bias` (nearest: `head.bias`)",
        shapes,
    ]
    assert "--arch" in str(caught.value.hint)


def test_a_factory_may_be_a_method(here: Path) -> None:
    model = own_net(4)
    torch.save(model.state_dict(), here / "weights.pt")
    loaded = load_model("weights.pt", arch="own_models:Net.narrow")
    assert_has(loaded.module, model.state_dict())


@pytest.mark.parametrize(
    ("arch", "message", "hint"),
    [
        ("own_models", "`own_models` names no factory", "package.module:factory"),
        (":Net", "`:Net` names no factory", "package.module:factory"),
        ("absent:Net", "there is no module `absent`", "run slimgraph from the folder"),
        ("absent.inner:Net", "there is no module `absent`", "run slimgraph from the folder"),
        ("own_models.inner:Net", "there is no module `own_models.inner`", "folder"),
        ("needy:Net", "there is no module `absent_package`", "`needy` itself imports"),
        ("broken:Net", "the module `broken` cannot be imported: SyntaxError", "python -c"),
        ("own_models:Nt", "there is no `Nt`", "did you mean `Net`?"),
        ("own_models:Net.wide", "there is no `wide`", "package.module:factory"),
        ("own_models:constant", "is a `int`, not a factory", "package.module:factory"),
        ("own_models:constant.real.x", "there is no `x`", "package.module:factory"),
        ("own_models:number", "makes a `int`, not an nn.Module", "returns the model"),
        ("own_models:needs", "`own_models:needs` fails: TypeError", "needs no arguments"),
    ],
)
def test_an_arch_that_makes_no_model_is_an_error(
    here: Path, arch: str, message: str, hint: str
) -> None:
    torch.save(own_net().state_dict(), here / "weights.pt")
    with pytest.raises(SlimgraphError) as caught:
        load_model("weights.pt", arch=arch)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_arch_beside_a_whole_model_is_an_error(tmp_path: Path) -> None:
    save(traced_net(), tmp_path / "model.slim")
    with pytest.raises(FileError, match="holds a whole model, so `--arch a:b` has no use"):
        load_model(tmp_path / "model.slim", arch="a:b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an empty dict"),
        ({"epoch": 3, "loss": 0.5}, "a dict without weights (its keys: `epoch`, `loss`)"),
        ([torch.ones(1)], "a `list`"),
        (torch.ones(1), "a `Tensor`"),
        ({0: torch.ones(1)}, "a dict without weights"),
    ],
    ids=str,
)
def test_a_checkpoint_without_weights_is_an_error(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(FileError) as caught:
        load_model(tmp_path / "x.pt", arch="torch.nn:ReLU")
    assert message in caught.value.message


PICKLES: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": WRITERS["legacy"],
    "bare": lambda content, path: path.write_bytes(pickle.dumps(content)) and None,
}


@pytest.mark.parametrize("how", PICKLES)
@pytest.mark.parametrize("where", ["alone", "inside", "model"])
def test_no_pickle_runs_code_unasked(tmp_path: Path, how: str, where: str) -> None:
    evil = RunsCode(tmp_path / "marker")
    weights = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    content = {"alone": evil, "inside": {**weights, "x": evil}, "model": {"model": evil}}[where]
    PICKLES[how](content, tmp_path / "x.pt")
    with pytest.raises(UnsafeFileError, match="runs code when it is loaded") as caught:
        load_model(tmp_path / "x.pt", arch="torch.nn:ReLU")
    assert not (tmp_path / "marker").exists()
    for way in ("slimgraph.save", "--arch", "--trust-pickle"):
        assert way in str(caught.value.hint)
    if how != "bare":
        assert "`posix.mkdir`" in caught.value.message


def test_the_marker_does_appear_when_the_pickle_is_trusted(tmp_path: Path) -> None:
    """Without this the test above could not fail."""
    torch.save(RunsCode(tmp_path / "marker"), tmp_path / "x.pt")
    with pytest.raises(FileError, match="holds a `NoneType`"):
        load_model(tmp_path / "x.pt", trust_pickle=True)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("how", PICKLES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_trusted_module_is_opened(here: Path, how: str, nested: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    PICKLES[how]({"epoch": 1, "model": model} if nested else model, here / "x.pt")
    with pytest.raises(UnsafeFileError):
        load_model(here / "x.pt")
    loaded = load_model(here / "x.pt", trust_pickle=True)
    assert (loaded.kind, loaded.traced) == ("pickle", False)
    assert_has(loaded.module, model.state_dict())


def test_a_trusted_traced_module_without_shapes_is_known_as_such(tmp_path: Path) -> None:
    torch.save(fx.symbolic_trace(nn.Sequential(nn.ReLU())), tmp_path / "x.pt")
    loaded = load_model(tmp_path / "x.pt", trust_pickle=True)
    assert isinstance(loaded.module, fx.GraphModule)
    assert not loaded.traced


def test_a_trusted_module_without_its_class_is_an_error(here: Path) -> None:
    sys.path.insert(0, str(here))
    import own_models  # type: ignore[import-not-found]

    torch.save(own_models.Net(), here / "x.pt")
    loaded = load_model("x.pt", trust_pickle=True)
    assert type(loaded.module).__name__ == "Net"
    sys.modules.pop("own_models")
    (here / "own_models.py").unlink()
    with pytest.raises(FileError, match="cannot be unpickled: ModuleNotFoundError") as caught:
        load_model("x.pt", trust_pickle=True)
    assert "run slimgraph from the folder" in str(caught.value.hint)


def test_trust_is_not_used_where_it_is_not_needed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(own_net().state_dict(), here / "weights.pt")
    asked: list[bool] = []
    original = torch.load

    def watched(*args: Any, weights_only: bool, **kwargs: Any) -> Any:
        asked.append(weights_only)
        return original(*args, weights_only=weights_only, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    load_model("weights.pt", arch="own_models:Net", trust_pickle=True)
    assert asked == [True]


def test_a_variable_of_the_environment_does_not_make_pickles_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(RunsCode(tmp_path / "marker"), tmp_path / "x.pt")
    with pytest.raises(UnsafeFileError):
        load_model(tmp_path / "x.pt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_truncated_weights_are_an_error(here: Path, how: str) -> None:
    WRITERS[how](own_net().state_dict(), here / "weights")
    content = (here / "weights").read_bytes()
    for length in [*range(1, 400, 13), len(content) // 2, len(content) - 1]:
        (here / "cut").write_bytes(content[:length])
        with pytest.raises(FileError):
            load_model(here / "cut", arch="own_models:Net")


def test_a_checkpoint_that_inflates_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x/data.pkl", "w", force_zip64=True) as member:
            for _ in range(1100):
                member.write(bytes(2**20))
        archive.writestr("x/version", "3")
    assert (tmp_path / "x.pt").stat().st_size < 3e6
    with pytest.raises(FileError, match=r"would unpack to 1\.1 GiB"):
        load_model(tmp_path / "x.pt", arch="torch.nn:ReLU")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torchscript_is_an_error_with_advice(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(FileError, match="is a TorchScript archive, not a PyTorch model") as caught:
        load_model(tmp_path / "x.pt")
    assert "state dict" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is an image, not a PyTorch model"),
        (onnx_bytes(), "is an ONNX model, not a PyTorch model"),
        (b"PK\x03\x04" + bytes(50), "is a truncated or damaged zip archive"),
        (json.dumps({"a": 1}).encode(), "is a text file"),
        (os.urandom(64).replace(b"\x80", b"\x81").replace(b"P", b"Q")[1:] + b"\xff", "not a PyTor"),
    ],
    ids=["empty", "png", "onnx", "zip", "text", "noise"],
)
def test_other_files_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        load_model(tmp_path / "model.pt")
    assert caught.value.hint


@pytest.mark.parametrize(("name", "message"), [("absent.pt", "no such file"), (".", "is a folder")])
def test_no_file_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        load_model(tmp_path / name)
