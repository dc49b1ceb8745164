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
        code = frame.f_code
        found = _short(code.co_filename)
        if found is not None:
            return f"{found}:{frame.f_lineno}"
        if code.co_name == "record" and code.co_filename.startswith(_HERE):
            return ""
        frame = frame.f_back
    return ""


def raised_at(error: BaseException) -> str | None:
    """Find the line of the user's model where an exception came up."""
    found = None
    trace_back = error.__traceback__
    while trace_back is not None:
        name = _short(trace_back.tb_frame.f_code.co_filename)
        if name is not None:
            found = f"{name}:{trace_back.tb_lineno}"
        trace_back = trace_back.tb_next
    return found


def source_of_text(stack: str) -> str:
    """Find the same in a printed stack, as `torch.export` keeps it."""
    found = ""
    for file, line in re.findall(r'File "(.+?)", line (\d+)', stack):
        name = _short(file)
        if name is not None:
            found = f"{name}:{line}"
    return found


@lru_cache(maxsize=4096)
def _short(filename: str) -> str | None:
    """Shorten the name of a file of the user's; return `None` for torch's and for ours."""
    if filename.startswith((_HERE, _TORCH, "<")):
        return None
    roots = [f"{root.rstrip(os.sep)}{os.sep}" for root in (*sys.path, str(Path.cwd())) if root]
    inside = [root for root in roots if filename.startswith(root)]
    return filename[len(max(inside, key=len)) :] if inside else Path(filename).name
