"""Find the smallest model of every module of timm: `python -m tools.zoo.smallest`.

Takes minutes, so its result is kept in `timm_smallest.json`; run it again for another timm.
"""

import importlib
import json
import warnings
from importlib.metadata import version
from typing import Any

import torch
from rich.progress import track

from tools.zoo.catalog import SMALLEST


def smallest(module: str) -> dict[str, Any]:
    """Build every model of a module without numbers and return the one with the fewest.

    Of two of one size it is the first by name; names that timm calls deprecated do not count.
    """
    timm = importlib.import_module("timm")
    registry = importlib.import_module("timm.models._registry")
    deprecated = vars(registry)["_deprecated_models"]
    found = []
    for name in sorted(timm.list_models(module=module)):
        if name in deprecated:
            continue
        try:
            with torch.device("meta"):
                model = timm.create_model(name)
        except (RuntimeError, NotImplementedError, ValueError):  # needs numbers, or a package
            continue
        found.append((sum(p.numel() for p in model.parameters()), name, model.default_cfg))
    params, name, settings = min(found, key=lambda row: row[:2])
    return {
        "model": name,
        "params": params,
        "size": settings["input_size"][-1],
        "fixed": bool(settings.get("fixed_input_size")),
    }


def main() -> None:
    """Write the table."""
    warnings.simplefilter("ignore")
    modules = importlib.import_module("timm").list_modules()
    table = {module: smallest(module) for module in track(modules)}
    document = {"timm": version("timm"), "modules": table}
    SMALLEST.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
