"""Two processes train what one would, and only one of them speaks and writes."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing

import slimgraph as sg
from slimgraph.errors import SlimgraphError
from tests.house.tree import ROOT
from tests.train.ranks import PLAIN, plain, work
from tests.train.tiny import network, recipe, run


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def equal(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(str(tmp_path), free_port()), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in ("plain", "norms", "again"):
        assert equal(one[name], two[name]), name
    assert equal(one["norms"], one["again"])
    assert one["said"]
    assert not two["said"]
    alone = run(tmp_path / "alone", recipe(**PLAIN), plain())
    assert one["plain"].keys() == alone.model.state_dict().keys()
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(one["plain"][key], value, rtol=1e-5, atol=1e-6)
    for found, wanted in zip(one["rows"], alone.rows, strict=True):
        numbers = {key: value for key, value in wanted.items() if isinstance(value, int | float)}
        assert {key: found[key] for key in numbers} == pytest.approx(numbers, rel=1e-5)
        assert all(found[key] == wanted[key] for key in wanted.keys() - numbers.keys())


@pytest.mark.slow
def test_accelerate_launches_the_command_unchanged(tmp_path: Path) -> None:
    sg.save(sg.trace(network(), torch.zeros(1, 1, 8, 8)), tmp_path / "model.slim")
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes")
    port = ("--main_process_port", str(free_port()))
    command = (*launch, "2", *port, "-m", "slimgraph.train", "model.slim", "--out", "run")
    options = ("--macs", "0.5", "--sparse-epochs", "1", "--tune-epochs", "1")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        (*command, *options), cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("pass 1, tune 1") == 1
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert int(rows[-1]["macs"]) <= 0.5 * int(rows[0]["macs"])


def test_a_launcher_that_accelerate_does_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "one", recipe(passes=1))  # accelerate has made up its mind
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SlimgraphError) as caught:
        run(tmp_path / "two", recipe())
    assert "3 processes were launched, but accelerate works in 1" in str(caught.value)
