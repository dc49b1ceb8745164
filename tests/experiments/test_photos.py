"""One-shot compression on crops of photos, small: drawn photos, a tiny network."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slimgraph.errors import SlimgraphError
from tools.experiments import photos

image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")


class Tiny(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 4), nn.ReLU()
        )
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(x).mean((2, 3)))


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put drawn photos and random weights in the place of packages."""
    torch.manual_seed(0)
    torch.save(Tiny().state_dict(), tmp_path / "tiny.pth")
    names = []
    for number in range(8):
        pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
        names.append(tmp_path / f"{number}.png")
        image.fromarray(pixels.numpy()).save(names[-1])
    mean = (0.5,) * 3
    tiny = photos.Pretrained(Tiny, "tiny", mean, mean, "classifier")
    monkeypatch.setattr(photos, "PRETRAINED", {"tiny": tiny})
    monkeypatch.setattr(photos, "photos", lambda: names)
    monkeypatch.setattr(photos, "files", lambda *_: [tmp_path / "tiny.pth"])
    return tmp_path


def test_no_photo_is_for_two_things() -> None:
    paths = [Path(str(number)) for number in range(28)]
    for seed in range(3):
        parts = photos.split(paths, seed)
        assert [len(own) for own in parts.values()] == [14, 7, 7]
        assert sorted(path for own in parts.values() for path in own) == sorted(paths)
    assert photos.split(paths, 0) != photos.split(paths, 1)


def test_agreement_with_the_dense_network_is_what_counts(drawn: Path) -> None:
    words = ["--images", "16", "--held-out", "8", "--test", "8", "--shares", "0.5", "--peers"]
    words += ["--criteria", "l1", "--repairs", "none", "reconstruct"]
    words += ["--output", str(drawn), "--page", str(drawn / "page.md")]
    assert photos.main(words) == 0
    document = json.loads((drawn / "tiny.json").read_text(encoding="utf-8"))
    assert document["settings"]["photos"] == {"calibration": 4, "held out": 2, "test": 2}
    dense, *small = document["rows"]
    assert dense["accuracy"] == dense["held_out"] == 1.0
    assert [row["repair"] for row in small] == ["none", "reconstruct"]
    assert all(row["macs"] <= 0.5 for row in small)
    page = (drawn / "page.md").read_text(encoding="utf-8")
    assert "16 crops of 4 photos" in page
    assert photos.main([*words, "--resume"]) == 0
    assert json.loads((drawn / "tiny.json").read_text())["rows"] == document["rows"]


def test_crops_are_the_same_for_the_same_seed(drawn: Path) -> None:
    paths = sorted(drawn.glob("*.png"))[:2]
    one, two = photos.crops(paths, 3, 0), photos.crops(paths, 3, 0)
    assert one.shape == (3, 3, photos.SIDE, photos.SIDE)
    assert torch.equal(one, two)
    assert not torch.equal(one, photos.crops(paths, 3, 1))


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(SlimgraphError) as caught:
        photos.files("no-such-package", ["*.pth"])
    assert "no-such-package" in str(caught.value)
    assert "pip install" in (caught.value.hint or "")
