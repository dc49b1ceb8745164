"""Run the demo: `python -m tools.demo`; it writes to the folder `demo`."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import slimgraph
from tools.demo import data, training
from tools.demo.command import export
from tools.demo.measure import measure
from tools.demo.model import DigitsNet
from tools.demo.table import comparison

FOLDER = Path("demo")


def main() -> None:
    """Train, compress, export, compare."""
    console = Console()
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(0)
    digits = data.load()

    console.print("1. train a small network on scanned digits")
    model = DigitsNet()
    training.train(model, digits, console)
    traced = slimgraph.trace(model.eval(), digits.test_images[:1])
    slimgraph.save(traced, FOLDER / "model.pt")

    console.print("2. the model as it is, as ONNX")
    dense = export(console, "demo/model.pt", "--onnx", "demo/dense.onnx")

    console.print("3. the same with half of its work, in sixteens, which onnxruntime is fast at")
    budget = ("--macs", "0.5", "--criterion", "oicsr", "--round-to", "16")
    extra = ("--report", "demo/report.html", "--save", "demo/small.slim")
    slim = export(console, "demo/model.pt", "--onnx", "demo/out.onnx", *budget, *extra)

    console.print("4. both files in onnxruntime")
    files = [FOLDER / "dense.onnx", FOLDER / "out.onnx"]
    before, after = measure(files, digits.test_images, digits.test_labels)
    console.print(comparison(before, after, slim["totals"], (worst(dense), worst(slim))))
    console.print("open demo/report.html to see what was removed and why")


def worst(report: dict[str, Any]) -> float:
    """Return the largest difference between torch and onnxruntime over all outputs."""
    return max(float(output["max_abs"]) for output in report["export"]["parity"])


if __name__ == "__main__":
    main()
