"""Where in the user's model something happens: neither in torch's code nor in ours."""

import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

_HERE = f"{Path(__file__).parent}{os.sep}"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


def source_of_frame(frame: Any) -> str:
    """Find the innermost line of the user's model on the stack: `file.py:93`, or nothing."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_HERE) and frame.f_code.co_name == "record":
            return ""
        if not name.startswith((_HERE, _TORCH, "<")):
            return f"{_short(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def raised_at(error: BaseException) -> str | None:
    """Find the line of the user's model where an exception came up."""
    found = None
    trace_back = error.__traceback__
    while trace_back is not None:
        name = trace_back.tb_frame.f_code.co_filename
        if not name.startswith((_HERE, _TORCH, "<")):
            found = f"{_short(name)}:{trace_back.tb_lineno}"
        trace_back = trace_back.tb_next
    return found


def source_of_text(stack: str) -> str:
    """Find the same in a printed stack, as `torch.export` keeps it."""
    found = ""
    for name, line in re.findall(r'File "(.+?)", line (\d+)', stack):
        if not name.startswith((_HERE, _TORCH, "<")):
            found = f"{_short(name)}:{line}"
    return found


@lru_cache(maxsize=1024)
def _short(filename: str) -> str:
    roots = [f"{root.rstrip(os.sep)}{os.sep}" for root in (*sys.path, str(Path.cwd())) if root]
    inside = [root for root in roots if filename.startswith(root)]
    return filename[len(max(inside, key=len)) :] if inside else Path(filename).name
