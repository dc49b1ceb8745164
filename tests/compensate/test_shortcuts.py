"""The last layer of a branch makes up for what its shortcut lost."""

import torch
from torch import Tensor, fx, nn

import slimgraph as sg
from slimgraph.compensate import reconstruct
from tests.compensate.test_least_squares import images


class Blocks(nn.Module):
    """Two residual blocks; the second one's shortcut has the error of the first one's branch."""

    def __init__(self, *, norm: bool = False, project: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 5, 3)
        self.a1, self.b1 = nn.Conv2d(5, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
        self.a2, self.b2 = nn.Conv2d(5, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.side = nn.Conv2d(5, 5, 1) if project else nn.Identity()
        self.head = nn.Conv2d(5, 2, 1)
        if norm:
            nn.init.uniform_(self.norm.weight, 0.5, 2)
            nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b1(torch.relu(self.a1(x)))
        y = self.norm(self.b2(torch.relu(self.a2(x))))
        return self.head(y + self.side(x))

    def second_sum(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b1(torch.relu(self.a1(x)))
        return self.norm(self.b2(torch.relu(self.a2(x)))) + x


HALF = torch.tensor([1, 0, 0, 1, 0, 1, 0, 1]).bool()


def repaired(model: Blocks) -> tuple[fx.GraphModule, fx.GraphModule]:
    traced = sg.trace(model.double().eval(), images(1)[0][:2])
    slim = sg.compress(traced, {"a1": HALF, "a2": HALF})
    reconstruct(traced, slim, images(), points=1000, ridge=1e-13)
    return traced, slim


def test_its_weights_fit_the_sum() -> None:
    for norm in (False, True):
        model = Blocks(norm=norm)
        _, slim = repaired(model)
        x = torch.cat(images())
        with torch.no_grad():
            wanted = model.second_sum(x)
            stream = slim.stem(x)
            stream = stream + slim.b1(torch.relu(slim.a1(stream)))
            rows = torch.relu(slim.a2(stream)).movedim(1, -1).flatten(0, 2)
            missing = wanted - stream  # what the branch has to make, behind its norm
            if norm:
                gain = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
                shift = model.norm.bias - model.norm.running_mean * gain
                missing = (missing - shift[:, None, None]) / gain[:, None, None]
            given = torch.cat([rows, torch.ones(len(rows), 1)], 1)
            solved = torch.linalg.lstsq(given, missing.movedim(1, -1).flatten(0, 2)).solution
        torch.testing.assert_close(slim.b2.weight.detach().flatten(1), solved[:4].mT)
        torch.testing.assert_close(slim.b2.bias.detach(), solved[4])


def test_a_shortcut_with_layers_that_come_later_waits_for_these() -> None:
    """The branch fits what it made itself; the layer on the shortcut, which is later, the sum."""
    model = Blocks(project=True)
    traced, slim = repaired(model)
    x = torch.cat(images())
    with torch.no_grad():
        parts = []
        for net in (traced, slim):
            stream = net.stem(x)
            stream = stream + net.b1(torch.relu(net.a1(stream)))
            parts.append((stream, net.b2(torch.relu(net.a2(stream))), net.side(stream)))
        (_, branch, side), (stream, own, _) = parts
        rows = torch.cat([stream, torch.ones_like(stream[:, :1])], 1).movedim(1, -1).flatten(0, 2)
        wanted = (branch - own + side).movedim(1, -1).flatten(0, 2)
        solved = torch.linalg.lstsq(rows, wanted).solution
    torch.testing.assert_close(slim.side.weight.detach().flatten(1), solved[:5].mT)
