"""Export a model with a little more than 2 GB of weights, and run it in onnxruntime.

    python -m tools.large

It needs 5.1 GiB of memory, 2.3 GB in the temporary folder, and half a minute.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import slimgraph as sg

WIDTH, DEPTH, OUTPUTS = 5760, 17, 8


class Large(nn.Module):
    """A plain network: `DEPTH` square layers, each of 133 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH))
        self.head = nn.Linear(WIDTH, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Run one layer after the other."""
        for layer in self.layers:
            x = torch.relu(layer(x))
        result: Tensor = self.head(x)
        return result


def main() -> int:
    """Compress by a little, so that more than 2 GB remain; export; say what came out."""
    start = time.monotonic()
    torch.manual_seed(0)
    model, x = Large().eval(), torch.randn(2, WIDTH)
    keep = torch.ones(WIDTH, dtype=torch.bool)
    keep[::64] = False
    slim = sg.compress(sg.trace(model, x), {f"layers.{DEPTH - 1}": keep})
    del model
    weights = sum(tensor.nbytes for tensor in slim.state_dict().values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.onnx"
        report = sg.export_onnx(slim, path)
        sizes = {file.name: file.stat().st_size for file in sorted(Path(folder).iterdir())}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(
        f"weights {weights / 1e9:.2f} GB, files {sizes}\n{report!r}\n"
        f"{time.monotonic() - start:.0f} s, {peak:.1f} GiB of memory at most\n"
    )
    return 0 if weights > 2**31 and len(sizes) == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
