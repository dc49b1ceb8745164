"""Runs: they end small, go on after any kill to the same result, and carry the optimizer along."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimgraph as sg
from slimgraph.cost import CostModel
from slimgraph.errors import SlimgraphError
from slimgraph.train import compression, load_data, loop
from slimgraph.train.recipe import Stage
from slimgraph.train.run import Run
from slimgraph.train.state import load_state
from tests.house.tree import ROOT
from tests.train.tiny import data, network, pre_activation, recipe, run

HARD = {"distill": 0.4, "optimizer": "adamw", "lr": 3e-3, "penalty": "oicsr", "strength": 1e-3}


class Killed(Exception):  # noqa: N818 - it is what happens
    pass


def tensors(folder: Path, name: str = "model.slim") -> dict[str, Tensor]:
    return {key: value.clone() for key, value in sg.load(folder / name).state_dict().items()}


def assert_same_run(one: Path, two: Path) -> None:
    for name in ("dense.slim", "pass-1.slim", "pass-2.slim", "model.slim"):
        first, second = tensors(one, name), tensors(two, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    for name in ("log.csv", "run.json", "pass-1.json", "pass-2.json"):
        assert (one / name).read_text() == (two / name).read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, recipe(**HARD))
    return folder


def test_a_run_leaves_models_reports_and_a_log(whole: Path) -> None:
    rows = list(csv.DictReader((whole / "log.csv").read_text().splitlines()))
    kinds = ["sparse", "compress", "tune"]
    assert [row["kind"] for row in rows] == kinds * 2
    macs = [int(row["macs"]) for row in rows]
    assert macs[1] <= 0.4**0.5 * macs[0] < macs[0]
    assert macs[-1] <= 0.4 * macs[0]
    for number in (1, 2):
        report = json.loads((whole / f"pass-{number}.json").read_text())
        assert report["settings"]["trace"]["strategy"] == "greedy"
        assert report["settings"]["recipe"]["distill"] == 0.4
        told = {"strength", "penalty", "seed", "criterion", "strategy", "passes", "pass"}
        assert told <= report["settings"].keys()
        assert report["settings"]["pass"] == number
        steps = {each["step"]: each["error"] for each in report["errors"]["steps"]}
        assert [*steps][:2] == ["dense", "compressed"]
        assert [*steps][-1] == "fine-tuned"
        assert all(0 <= error <= 1 for error in steps.values())
        assert sum(report["histograms"][0]["removed"]) > 0
        page = (whole / f"pass-{number}.html").read_text()
        assert '"fine-tuned"' in page
    small = sg.analyze(sg.load(whole / "model.slim"))
    assert CostModel(small).totals(torch.ones_like(small.frozen)).macs == macs[-1]
    assert sorted(p.name for p in whole.glob("state*")) == ["state-000006"]


@pytest.mark.parametrize("point", range(12))
def test_a_run_that_was_killed_goes_on_to_the_same_result(
    whole: Path, tmp_path: Path, point: int
) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == point + 1:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, recipe(**HARD), say=say)
    run(tmp_path, recipe(**HARD), nn.Sequential(*network().eval()))  # not the weights it had
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("name", ["rename", "mkdir"])
@pytest.mark.parametrize("point", [0, 2, 3, 6])
def test_a_state_is_written_whole_or_not_at_all(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, point: int
) -> None:
    calls: list[Path] = []
    original = getattr(Path, name)

    def kill(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "state.tmp":
            calls.append(path)
            if len(calls) == point + 1:
                raise Killed
        return original(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, kill)
        with pytest.raises(Killed):
            run(tmp_path, recipe(**HARD))
    run(tmp_path, recipe(**HARD))
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("point", [0, 4])
def test_states_that_are_not_gone_yet_do_no_harm(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    calls: list[Any] = []

    def kill(path: Path, **options: Any) -> None:
        if Path(path).name != "state.tmp":
            calls.append(path)
            if len(calls) == point + 1:
                (Path(path) / "model.slim").unlink()  # half of it is
                raise Killed
        original(path, **options)

    original = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", kill)
        with pytest.raises(Killed):
            run(tmp_path, recipe(**HARD))
    run(tmp_path, recipe(**HARD))
    assert_same_run(whole, tmp_path)


CODE = """
import sys
from pathlib import Path
from tests.train.test_loop import HARD
from tests.train.tiny import recipe, run
run(Path(sys.argv[1]), recipe(**HARD), say=lambda text: print(text, flush=True))
"""


@pytest.mark.slow
def test_a_process_that_is_shot_goes_on_to_the_same_result(whole: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path))
    for delay in (0.0, 0.03, 0.06):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    run(tmp_path, recipe(**HARD))
    assert_same_run(whole, tmp_path)


def test_a_finished_run_gives_its_result_again(whole: Path) -> None:
    before = (whole / "model.slim").read_bytes()
    again = run(whole, recipe(**HARD))
    assert len(again.rows) == 6
    assert all(
        torch.equal(value, tensors(whole)[key]) for key, value in again.model.state_dict().items()
    )
    assert (whole / "model.slim").read_bytes() == before


def test_another_run_in_the_same_folder_is_refused(whole: Path) -> None:
    with pytest.raises(SlimgraphError) as caught:
        run(whole, recipe(**HARD | {"seed": 1, "tune_lr": 0.5}))
    assert "differs in recipe.tune_lr, recipe.seed" in str(caught.value)
    wider = nn.Sequential(nn.Conv2d(1, 9, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(SlimgraphError) as caught:
        run(whole, recipe(**HARD), nn.Sequential(*wider, nn.Linear(9, 10)))
    assert "differs in model.0.weight" in str(caught.value)


def test_another_seed_makes_another_model(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, recipe(**HARD | {"seed": 1}))
    one, two = tensors(whole), tensors(tmp_path)
    assert not all(torch.equal(one[key], two[key]) for key in one if one[key].is_floating_point())


def test_the_optimizer_goes_along(tmp_path: Path) -> None:
    given = recipe(passes=1)
    made = Run(data(), given, tmp_path, 0, lambda _: None)
    state = loop._start(made, network())
    loop._stage(made, state, Stage("sparse", 1, 1))
    before, optimizer = dict(state.model.named_parameters()), state.optimizer
    momenta = {name: optimizer.state[p]["momentum_buffer"] for name, p in before.items()}
    compression.compress_stage(made, state, Stage("compress", 1, 0))
    assert state.optimizer is optimizer
    after = dict(state.model.named_parameters())
    assert {id(p) for p in after.values()} == {id(p) for p in optimizer.param_groups[0]["params"]}
    plan = vars(state.model)["plan"]
    assert after["0.weight"].shape[0] < 8
    kept = plan.kept["0.weight"][0]
    momentum = optimizer.state[after["0.weight"]]["momentum_buffer"]
    torch.testing.assert_close(momentum, momenta["0.weight"][kept], rtol=0, atol=0)
    loop._write(made, state, None)
    again = load_state(tmp_path, given, torch.device("cpu"))
    assert again is not None
    for name, parameter in again.model.named_parameters():
        loaded = again.optimizer.state[parameter]["momentum_buffer"]
        assert torch.equal(loaded, optimizer.state[after[name]]["momentum_buffer"])


STRATEGIES: dict[str, dict[str, Any]] = {
    "percentile": {"macs": None, "share": 0.3, "rule": "slimming", "criterion": "l1"},
    "stepwise": {"macs": None, "drop": 0.2, "repair": "reconstruct"},
    "uniform": {"macs": None, "channels": 0.5},
    "sensitivity": {"macs": None, "params": 0.5},
    "evolution": {"trials": 4, "repair": "none"},
    "cacp": {"trials": 5},
    "greedy": {"criterion": "obs"},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_goes_into_a_recipe(tmp_path: Path, strategy: str) -> None:
    options = {"passes": 1, "sparse_epochs": 1, "strategy": strategy} | STRATEGIES[strategy]
    result = run(tmp_path, recipe(**options))
    first, last = result.rows[0], result.rows[-1]
    assert last["params"] < first["params"]
    report = json.loads((tmp_path / "pass-1.json").read_text())
    assert report["settings"]["trace"]["strategy"] == strategy
    for unit in ("channels", "params", "macs"):
        if (share := getattr(recipe(**options), unit)) is not None:
            assert last[unit] <= share * first[unit]


PENALTIES = ("none", "slimming", "oicsr", "lasso", "l1", "pull")


@pytest.mark.parametrize("penalty", PENALTIES)
def test_every_penalty_pulls(tmp_path: Path, penalty: str) -> None:
    strong = {"passes": 1, "sparse_epochs": 2, "tune_epochs": 0, "repair": "none", "lr": 0.01}
    result = run(tmp_path, recipe(**strong, penalty=penalty, strength=0.02))
    pulls = [row["penalty"] for row in result.rows if row["kind"] == "sparse"]
    assert pulls == [None, None] if penalty == "none" else pulls[1] < pulls[0]


def test_scales_start_where_they_are_told_to_once(tmp_path: Path) -> None:
    given = recipe(passes=1, sparse_epochs=2, scale_init=0.5, lr=1e-6)
    result = run(tmp_path, given)
    assert result.rows[0]["penalty"] == pytest.approx(1e-4 * 0.5 * 8, rel=1e-2)
    scales = tensors(tmp_path)["1.weight"]
    assert torch.allclose(scales, torch.full_like(scales, 0.5), atol=0.05)


def test_channel_budgets_count_groups_that_are_down_to_one(tmp_path: Path) -> None:
    result = run(tmp_path, recipe(macs=None, channels=4, repair="none"))
    widths = [result.model.get_submodule(name).out_channels for name in ("0", "3")]  # type: ignore[union-attr]
    assert sum(widths) <= 4


def test_learning_is_learning(tmp_path: Path) -> None:
    """From random weights to far better than chance, on a third of the work."""
    given = recipe(passes=1, sparse_epochs=6, tune_epochs=4, macs=0.33, batch_size=32, lr=0.1)
    small = loop.train(network(), load_data("digits"), given, tmp_path)
    assert small.rows[-1]["accuracy"] > 0.85


def test_a_loss_that_explodes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SlimgraphError) as caught:
        run(tmp_path, recipe(lr=1e9, sparse_epochs=3))
    assert "training diverged: the loss is" in str(caught.value)
    assert "smaller learning rate" in str(caught.value)


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy())


def test_a_model_that_no_file_holds_is_refused_before_training(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.warns(UserWarning, match="stays opaque"), pytest.raises(SlimgraphError):
        run(tmp_path, recipe(), nn.Sequential(*network(), Own()), say=said.append)
    assert not said


def test_tensorboard_logs_every_number(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(tmp_path, recipe(passes=1), tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [event.value for event in events.Scalars("accuracy")]
    assert found == pytest.approx([row["accuracy"] for row in result.rows])
    assert [event.step for event in events.Scalars("loss")] == [1, 3]


def test_damaged_states_say_so(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "state-000006" / "progress.json").write_text("{")
    with pytest.raises(SlimgraphError) as caught:
        run(folder, recipe(**HARD))
    assert "is damaged" in str(caught.value)


SLIMMING: dict[str, Any] = {
    "macs": None, "strategy": "percentile", "share": 0.3, "rule": "slimming", "max_removed": 0.5,
    "criterion": "bn_scale", "normalize": "none", "selections": True, "scale_init": 0.5,
}  # fmt: skip


def test_network_slimming_of_a_pre_activation_net_in_passes(tmp_path: Path) -> None:
    """Each norm loses channels of its own, in the second pass some of those that are left."""
    result = run(tmp_path / "one", recipe(**SLIMMING), pre_activation())
    names = ("1.norm", "2.norm", "3")
    widths = []
    for number in (1, 2):
        small = sg.load(tmp_path / "one" / f"pass-{number}.slim")
        widths.append([small.get_submodule(name).num_features for name in names])
        assert small.get_submodule("0").out_channels == 12  # the sum keeps them all
    assert all(6 <= first <= 12 for first in widths[0])
    assert sum(widths[1]) < sum(widths[0]) < 36
    channels = [row["channels"] for row in result.rows]
    assert channels[0] == 12 + 3 * 12 + 2 * 8
    assert channels[-1] < channels[2] < channels[0]

    def kill(text: str) -> None:
        if text.startswith("pass 2, sparse"):
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "two", recipe(**SLIMMING), pre_activation(), say=kill)
    run(tmp_path / "two", recipe(**SLIMMING), pre_activation())
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_distillation_follows_the_dense_model(tmp_path: Path) -> None:
    """With nothing but its answers to learn from, the small model comes closer to it."""
    options = {"passes": 1, "sparse_epochs": 12, "tune_epochs": 8, "lr": 0.1, "repair": "none"}
    result = run(tmp_path, recipe(**options, macs=0.3, distill=1.0, temperature=1.0))
    losses = [row["loss"] for row in result.rows if row["kind"] == "tune"]
    assert losses[-1] < 0.7 * losses[0]
