"""The page docs/results/photos.md, made from the rows."""

from tools.experiments.journal import ROOT, Record
from tools.experiments.one_shot_page import best_ways, network

PAGE = ROOT / "docs" / "results" / "photos.md"
INTRODUCTION = """# One-shot compression of pretrained networks

MobileNetV2 and EfficientNet-Lite0 with their ImageNet weights lose channels without any training.
No labelled images are used: scores and repairs see random crops of some photos, and the numbers are
how often a smaller network gives the dense one's first answer on crops of other photos. **This is
agreement, not accuracy on ImageNet**, and on few photos. This page is made by

```shell
pip install --no-deps -r requirements/test-data.txt scikit-image
python -m tools.experiments.photos
```

Work is multiply-accumulates of convolutions and products. Taylor scores, of both tools, take the
dense network's answers for labels. The best way of each tool is found on crops of a third set of
photos. Torch-Pruning is measured with and without statistics of norms taken anew by the same crops;
local means the same share of every layer, global a ranking over all, inner that layers which a
shortcut couples stay whole.
"""


def page(documents: dict[str, Record]) -> str:
    """Render what was measured as Markdown.

    Args:
        documents: Of the journal, by the name of the network.
    """
    rows = {name: document["rows"] for name, document in documents.items()}
    lines = [INTRODUCTION, "## At half the work\n", "Agreement in percent.\n", *best_ways(rows)]
    for name, document in documents.items():
        settings = document["settings"]
        photos = settings["photos"]
        said = (
            f"{settings['images']} crops of {photos['calibration']} photos for scores and repair, "
            f"{settings['held_out']} of {photos['held out']} to find the best way, "
            f"{settings['test']} of {photos['test']} to report"
        )
        lines += ["", f"## {name}\n", *network(said, document)]
    return "\n".join(lines) + "\n"
