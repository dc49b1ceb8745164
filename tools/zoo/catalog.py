"""Every model of the zoo by name: how to build it and what to call it with."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.zoo import transformers

SMALLEST = Path(__file__).parent / "timm_smallest.json"
KINDS = (
    "classification", "segmentation", "detection", "video", "flow", "timm", "transformers", "yolo",
)  # fmt: skip
Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """One model and how to call it.

    Attributes:
        name: `library/model`.
        kind: One of `KINDS`.
        make: Builds it.
        inputs: `(batch, size) -> example inputs`.
        sizes: Sizes to try to run it at; the first that works is taken.
        step: How much larger the second size is; 0 if the model has one size.
    """

    name: str
    kind: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    sizes: tuple[int, ...]
    step: int = 32


@dataclass(frozen=True)
class Shape:
    """How to build and call a model of torchvision where it is not the usual way."""

    sizes: tuple[int, ...] = (64, 96)
    step: int = 32
    options: tuple[tuple[str, Any], ...] = ()


# Transformers have positions for one size; their constructors take a smaller one.
_TORCHVISION = {
    "maxvit_t": Shape((224,), 0),
    "vit_b_16": Shape((64,), 0, (("image_size", 64),)),
    "vit_b_32": Shape((64,), 0, (("image_size", 64),)),
    "vit_l_16": Shape((64,), 0, (("image_size", 64),)),
    "vit_l_32": Shape((64,), 0, (("image_size", 64),)),
    "vit_h_14": Shape((56,), 0, (("image_size", 56),)),
    "mvit_v1_b": Shape((224,), 0),
    "mvit_v2_s": Shape((224,), 0),
    "s3d": Shape((224,), 0),
    "raft_large": Shape((128,)),
    "raft_small": Shape((128,)),
}
# Boxes cost time and show no more; random weights are sure of none, and without any there is
# nothing to compare.
_RCNN = {"box_detections_per_img": 4, "rpn_post_nms_top_n_test": 16, "box_score_thresh": 0.0}
_ONE_STAGE = {"detections_per_img": 4, "topk_candidates": 32, "score_thresh": 0.0}
_FRAMES = {"mvit_v1_b": 16, "mvit_v2_s": 16, "s3d": 16}
_MODULES = {
    "classification": "torchvision.models",
    "segmentation": "torchvision.models.segmentation",
    "detection": "torchvision.models.detection",
    "video": "torchvision.models.video",
    "flow": "torchvision.models.optical_flow",
}


def image(batch: int, size: int) -> Inputs:
    """Draw square photos."""
    return (torch.randn(batch, 3, size, size),)


def _photos(batch: int, size: int) -> Inputs:
    """Draw a list of photos with values in [0, 1], as detectors take them."""
    return ([torch.rand(3, size, size) for _ in range(batch)],)


def _two_images(batch: int, size: int) -> Inputs:
    first, second = (torch.rand(batch, 3, size, size) * 2 - 1 for _ in range(2))
    return {"image1": first, "image2": second, "num_flow_updates": 2}


def _clip(frames: int) -> Callable[[int, int], Inputs]:
    return lambda batch, size: (torch.randn(batch, 3, frames, size, size),)


def _raft(name: str) -> nn.Module:
    """Build RAFT so that it can run in double precision: its grid is in single precision always."""
    module = importlib.import_module("torchvision.models.optical_flow.raft")
    grid = module.make_coords_grid
    if not hasattr(grid, "__wrapped__"):

        @wraps(grid)
        def of_default_type(*args: Any, **kwargs: Any) -> Tensor:
            made: Tensor = grid(*args, **kwargs)
            return made.to(torch.get_default_dtype())

        vars(module)["make_coords_grid"] = of_default_type
    made: nn.Module = _call("torchvision.models", "get_model", name, weights=None)
    return made


def _torchvision(kind: str, name: str) -> Subject:
    shape = _TORCHVISION.get(name, Shape())
    options: dict[str, Any] = {"weights": None, **dict(shape.options)}
    if kind in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if kind == "detection":
        shape = Shape((128,), 64)
        options |= {} if name.startswith("ssd") else {"min_size": 128, "max_size": 192}
        options |= _RCNN if "rcnn" in name else _ONE_STAGE
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if kind == "video" and name not in _TORCHVISION:
        shape = Shape((32,), 16)
    takes = {"detection": _photos, "flow": _two_images, "video": _clip(_FRAMES.get(name, 4))}
    if kind == "flow":
        make = partial(_raft, name)
    else:
        make = partial(_call, "torchvision.models", "get_model", name, **options)
    return Subject(
        f"torchvision/{name}",
        kind,
        lambda: _quick(make),
        takes.get(kind, image),
        shape.sizes,
        shape.step,
    )


def _call(module: str, function: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*args, **kwargs)


def _quick(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a model without drawing initial weights: the zoo draws its own."""
    names = [n for n in vars(nn.init) if n.endswith("_") and not n.startswith("_")]
    saved = {name: getattr(nn.init, name) for name in names}
    try:
        for name in names:
            setattr(nn.init, name, _keep)
        return make()
    finally:
        for name, function in saved.items():
            setattr(nn.init, name, function)


def _keep(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


@cache
def _torchvision_names() -> dict[str, str]:
    """Map every model of torchvision that is not quantised to its kind."""
    models = importlib.import_module("torchvision.models")
    found = {}
    for kind, module in _MODULES.items():
        for name in models.list_models(module=importlib.import_module(module)):
            found[name] = kind
    return found


def _timm(entry: dict[str, Any]) -> Subject:
    size = int(entry["size"])
    smaller = () if entry["fixed"] else tuple(s for s in (96, 112, 128, 160, 192, 224) if s < size)
    return Subject(
        f"timm/{entry['model']}",
        "timm",
        lambda: _call("timm", "create_model", entry["model"]),
        image,
        (*smaller, size),
        0 if entry["fixed"] else 32,
    )


def _yolo(name: str) -> Subject:
    def make() -> nn.Module:
        made: nn.Module = _call(
            "ultralytics.nn.tasks", "DetectionModel", f"{name}.yaml", verbose=False
        )
        return made

    return Subject(f"ultralytics/{name}", "yolo", make, image, (64, 128))


@cache
def subjects() -> dict[str, Subject]:
    """List every model whose library is installed, by name."""
    found = [_torchvision(kind, name) for name, kind in _torchvision_names().items()]
    if find_spec("timm"):
        entries = json.loads(SMALLEST.read_text(encoding="utf-8"))["modules"]
        found += [_timm(entry) for entry in entries.values()]
    if find_spec("transformers"):
        found += [
            Subject(f"transformers/{family}", "transformers", make, inputs, sizes, step)
            for family, (make, inputs, sizes, step) in transformers.FAMILIES.items()
        ]
    if find_spec("ultralytics"):
        found += [_yolo(name) for name in ("yolov8n", "yolo11n")]
    return {subject.name: subject for subject in found}
