"""The idx files of MNIST and its relatives: a header with dtype and shape, then the numbers."""

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import FileError

_BYTES = b"\0\0\x08"  # unsigned bytes, the only dtype that these data sets use


def read_idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes, compressed by gzip or not.

    Args:
        path: Without `.gz`, also where only the compressed file is there.

    Returns:
        Shape: as the file says; uint8.

    Raises:
        FileError: The file is missing or no such file.
    """
    packed = path.with_name(f"{path.name}.gz")
    found = path if path.exists() else packed
    try:
        raw = found.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError) as error:
        raise FileError(f"`{found}` cannot be read: {error}", hint="unpack it again") from error
    start = 4 + 4 * raw[3] if raw[:3] == _BYTES and len(raw) > 3 else len(raw) + 1
    sizes = [] if start > len(raw) else np.frombuffer(raw[4:start], ">u4").tolist()
    if not sizes or len(raw) - start != math.prod(sizes):
        raise FileError(f"`{found}` is no complete idx file of bytes", hint="unpack it again")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(sizes).copy())
