"""What a finished ONNX file is worth: its size, its answers, its speed."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

WARM_UP = 20
RUNS = 300


@dataclass(frozen=True)
class Measured:
    """One file.

    Attributes:
        size: Bytes.
        accuracy: Share of test images answered right (top-1).
        latency: Median time for one image on one thread. Unit: ms.
    """

    size: int
    accuracy: float
    latency: float


def measure(paths: Sequence[Path], images: torch.Tensor, labels: torch.Tensor) -> list[Measured]:
    """Measure some ONNX files on the same images.

    Args:
        paths: The files.
        images: Test images (N, 1, H, W).
        labels: The right answers (N,).
    """
    sessions = [_session(path) for path in paths]
    accuracies = [_accuracy(session, images.numpy(), labels.numpy()) for session in sessions]
    latencies = _latencies(sessions, images[:1].numpy())
    sizes = [path.stat().st_size for path in paths]
    return [Measured(*each) for each in zip(sizes, accuracies, latencies, strict=True)]


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, images: np.ndarray) -> np.ndarray:
    (scores,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(scores)


def _accuracy(session: ort.InferenceSession, images: np.ndarray, labels: np.ndarray) -> float:
    return float((_run(session, images).argmax(1) == labels).mean())


def _latencies(sessions: Sequence[ort.InferenceSession], image: np.ndarray) -> list[float]:
    """Return the median time of each session. Unit: ms.

    The sessions take turns, so whatever slows the machine down slows all of them.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for run in range(WARM_UP + RUNS):
        for session, of_session in zip(sessions, times, strict=True):
            start = time.perf_counter()
            _run(session, image)
            if run >= WARM_UP:
                of_session.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(of_session) for of_session in times]
