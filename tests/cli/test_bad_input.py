"""Bad input through the real command: a clear error, exit code 1, no file, nothing run."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import slimgraph as sg
from tests.cli.command import SHAPE, Net, assert_refused, run, traced, write_own

EXPORT = ("slimgraph-export", "model.pt", "--onnx", "out.onnx")
OWN = ("slimgraph-export", "own.pt", "--onnx", "out.onnx", "--input-shape", "1,3,9,9", "--arch")


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def torch_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def saved_bytes(folder: Path) -> bytes:
    sg.save(traced(), folder / "whole.slim")
    found = (folder / "whole.slim").read_bytes()
    (folder / "whole.slim").unlink()
    return found


def escaping_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive_format", "pt2")
        archive.writestr("../../escaped", "here")
        archive.writestr("model/archive_format", "pt2")
    return buffer.getvalue()


FILES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "is empty"),
    "a truncated slimgraph file": (lambda f: saved_bytes(f)[:5000], "damaged"),
    "a slimgraph file cut in its header": (lambda f: saved_bytes(f)[:100], "truncated"),
    "a slimgraph file without its end": (lambda f: saved_bytes(f)[:-1], "damaged"),
    "a truncated checkpoint": (lambda _: torch_bytes(Net().state_dict())[:-60], "damaged"),
    "a text": (lambda _: b"dear model, be small\n", "is a text file"),
    "an image": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(64), "is an image"),
    "an ONNX model": (lambda _: b"\x08\x0a\x12\x07pytorch", "is an ONNX model"),
    "any zip": (lambda _: b"PK\x05\x06" + bytes(18), "zip archive"),
    "an archive whose path escapes": (lambda _: escaping_zip(), "model.pt"),
    "a dict without weights": (lambda _: torch_bytes({"epoch": 3}), "a dict without weights"),
    "a pickled number": (lambda _: pickle.dumps(3), "runs code"),
    "a pickled module": (lambda _: torch_bytes(Net()), "runs code"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    make, says = FILES[name]
    (tmp_path / "model.pt").write_bytes(make(tmp_path))
    assert "hint: " in assert_refused(tmp_path, *EXPORT, "--input-shape", SHAPE, says=says)
    assert_refused(tmp_path, "slimgraph-report", "model.pt", says=says)
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize("how", ["torch.save", "torch.save, legacy", "pickle"])
@pytest.mark.parametrize("arch", [(), ("--arch", "own:make")])
def test_no_pickle_runs_unasked(tmp_path: Path, how: str, arch: tuple[str, ...]) -> None:
    write_own(tmp_path)
    mark = tmp_path / "mark"
    content = {"weight": Evil(mark)}
    if how == "pickle":
        (tmp_path / "model.pt").write_bytes(pickle.dumps(content))
    else:
        zipped = how == "torch.save"
        torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    said = assert_refused(tmp_path, *EXPORT, "--input-shape", SHAPE, *arch, says="runs code")
    assert not mark.exists()
    for way in ("slimgraph.save", "--arch", "--trust-pickle"):
        assert way in said
    run(tmp_path, *EXPORT, "--trust-pickle", *arch)
    assert mark.exists(), "the trap works: the error above is what kept it shut"


@pytest.mark.parametrize("words", [EXPORT, ("slimgraph-report", "model.pt")])
def test_a_missing_file_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert_refused(tmp_path, *words, says="no such file: `model.pt`")


def test_a_model_without_its_inputs_asks_for_them(tmp_path: Path) -> None:
    write_own(tmp_path)
    words = ("slimgraph-export", "own.pt", "--onnx", "out.onnx", "--arch", "own:make")
    assert "--input-shape" in assert_refused(tmp_path, *words, says="which inputs")


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("own:Raises", "ValueError: no photo today"),
        ("own:Branches", "a branch needs the data of a tensor"),
        ("own:absent", "there is no `absent`"),
        ("absent:make", "there is no module `absent`"),
        ("own", "`own` names no factory"),
        ("torch.nn:ReLU", "own.pt"),
    ],
)
def test_an_architecture_that_fails_is_an_error(tmp_path: Path, arch: str, says: str) -> None:
    write_own(tmp_path)
    said = assert_refused(tmp_path, *OWN, arch, says=says)
    if arch in ("own:Raises", "own:Branches"):
        assert "at: own.py:" in said


def test_inputs_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    write_own(tmp_path)
    words = ("slimgraph-export", "own.pt", "--onnx", "out.onnx", "--arch", "own:make")
    assert "own.py:" in assert_refused(tmp_path, *words, "--input-shape", "1,4,9,9", says="one")
    two = ("--input-shape", "1,3,9,9", "--input-shape", "1,3,9,9")
    assert_refused(tmp_path, *words, *two, says="do not fit the forward")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("budget", [(), ("--macs", "0.5")])
def test_weights_that_are_no_numbers_are_an_error(
    tmp_path: Path, number: float, budget: tuple[str, ...]
) -> None:
    model = Net()
    with torch.no_grad():
        model.block.weight[0, 0, 0, 0] = number
    sg.save(traced(model), tmp_path / "model.pt")
    assert_refused(tmp_path, *EXPORT, *budget, says="`block.weight` holds NaN or infinite numbers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sg.save(traced(), tmp_path / "model.pt")
    return tmp_path


@pytest.mark.parametrize(
    "target", ["none/out.onnx", "model.pt/out.onnx", "/proc/out.onnx", ".", "/proc/1/out.onnx"]
)
def test_a_target_that_cannot_be_written_is_an_error(folder: Path, target: str) -> None:
    words = ("slimgraph-export", "model.pt", "--onnx", target)
    assert_refused(folder, *words, says=f"`{target}`")
    for option in ("--save", "--report"):
        name = target.replace(".onnx", ".html")
        assert_refused(folder, *EXPORT, option, name, says=f"`{name}`")


def test_an_error_leaves_an_earlier_output_alone(folder: Path) -> None:
    (folder / "out.onnx").write_bytes(b"old")
    assert_refused(folder, *EXPORT, "--tolerance", "1e-30", says="disagree")
    assert (folder / "out.onnx").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--macs", "1.5"), "out of range"),
        (("--macs", "0"), "out of range"),
        (("--channels", "nan"), "out of range"),
        (("--params", "0.001"), "may remain, but"),
        (("--macs", "0.5", "--params", "0.5"), "2 budgets"),
        (("--macs", "0.5", "--criterion", "beauty"), "`beauty`"),
        (("--macs", "0.5", "--order", "random"), "`random`"),
        (("--macs", "0.5", "--round-to", "0"), "`round_to`"),
        (("--macs", "0.5", "--keep", "stm"), "`stm`"),
        (("--mask", "none.st"), "no such file"),
        (("--mask", "model.pt"), "not a slimgraph mask"),
        (("--opset", "3"), "there is no opset 3"),
        (("--report", "page.pdf"), "page.pdf"),
        (("--tolerance", "1e-30"), "disagree"),
        (("--tolerance", "nan"), "olerance"),
        (("--arch", "own:make"), "has no use"),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error(
    folder: Path, words: tuple[str, ...], says: str
) -> None:
    assert_refused(folder, *EXPORT, *words, says=says)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ({"wid": torch.ones(16)}, "did you mean `wide"),
        ({"wide.0": torch.ones(8)}, "`wide.0` has 16 channels"),
        ({"wide.0": torch.zeros(16)}, "removes all 16 channels"),
        ({"head": torch.arange(5) > 0}, "cannot leave: reaches the model's output"),
        ({"stem.0": torch.arange(8) > 0, "block": torch.ones(8)}, "disagree"),
    ],
)
def test_a_mask_no_model_can_follow_is_an_error(
    folder: Path, mask: dict[str, torch.Tensor], says: str
) -> None:
    sg.Mask(mask).save(folder / "mask.st")
    assert_refused(folder, *EXPORT, "--mask", "mask.st", says=says)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model.pt",),
        ("--onnx", "out.onnx"),
        (*EXPORT[1:], "--masks", "x"),
        (*EXPORT[1:], "--macs", "half"),
        (*EXPORT[1:], "--input-shape", "1,x"),
        (*EXPORT[1:], "--input-shape", "0,3,8,8"),
        (*EXPORT[1:], "--round-to", "two"),
        (*EXPORT[1:], "again.pt"),
    ],
)
def test_wrong_usage_ends_with_2(folder: Path, words: tuple[str, ...]) -> None:
    ran = run(folder, "slimgraph-export", *words)
    assert ran.code == 2
    assert "Traceback" not in ran.stderr
    assert "Usage" in ran.stdout + ran.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt"]
