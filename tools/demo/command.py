"""Run `slimgraph-export` the way a user does: as a command, with its report read from stdout."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console


def export(console: Console, *arguments: str) -> dict[str, Any]:
    """Run `slimgraph-export` and return its JSON; what it says on stderr is shown live.

    Args:
        console: Where the command is shown.
        *arguments: The command's arguments.

    Raises:
        SystemExit: The command failed; with its exit code.
    """
    words = ["slimgraph-export", *arguments, "--json"]
    console.print(f"  $ {shlex.join(words)}", style="bold", highlight=False, soft_wrap=True)
    program = Path(sys.executable).with_name(words[0])
    result = subprocess.run([program, *words[1:]], stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(result.returncode)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer
