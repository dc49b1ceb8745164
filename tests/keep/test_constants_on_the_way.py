"""What ops on the way, and those that read them, make of constants: kept exactly, or refused."""

import pytest
import torch
from torch import nn

import slimgraph as sg
from slimgraph.errors import VaryingChannelError
from tests.assertions import assert_same_output
from tests.nets.base import conv, randomized

MASK = {"0": [1, 0, 1, 1, 0, 1, 1, 1]}
KEPT: dict[str, nn.Module] = {
    "max pool": nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
    "average pool": nn.AvgPool2d(3, 2, ceil_mode=True),
    "average pool that skips its padding": nn.AvgPool2d(
        3, 2, padding=1, ceil_mode=True, count_include_pad=False
    ),
    "adaptive pool": nn.AdaptiveAvgPool2d(3),
    "adaptive max pool": nn.AdaptiveMaxPool2d(3),
    "nearest": nn.Upsample(scale_factor=2),
    "bilinear": nn.UpsamplingBilinear2d(scale_factor=2),
    "bicubic": nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "reflection": nn.ReflectionPad2d(2),
    "replication": nn.ReplicationPad2d(1),
    "circular": nn.CircularPad2d(1),
    "PReLU": nn.PReLU(8),
    "instance norm": nn.InstanceNorm2d(8, affine=True),
    "tracked instance norm": nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    "norm of the batch": nn.BatchNorm2d(8, track_running_stats=False),
    "norm without scale": nn.Sequential(nn.Identity(), nn.BatchNorm2d(8, affine=False)),
    "two norms": nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(), nn.BatchNorm2d(8)),
    "group norm of single channels": nn.GroupNorm(8, 8),
    "channel shuffle": nn.Sequential(nn.ReLU6(), nn.ChannelShuffle(8)),
    "hardsigmoid": nn.Hardsigmoid(),
}
REFUSED: dict[str, nn.Module] = {
    "zero pad": nn.ZeroPad2d(1),
    "constant pad": nn.ConstantPad2d(1, 0.3),
    "average pool that counts its padding": nn.AvgPool2d(3, 2, padding=1),
    "average pool with a divisor": nn.AvgPool2d(2, divisor_override=3),
    "norm over all": nn.GroupNorm(1, 8),
}
CONSUMERS: dict[str, nn.Module] = {
    "same": nn.Conv2d(8, 4, 3, padding="same", dilation=2),
    "valid": nn.Conv2d(8, 4, 3, padding="valid"),
    "strided": nn.Conv2d(8, 4, 5, stride=2, padding=(1, 2)),
    "circular": nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"),
    "reflecting": nn.Conv2d(8, 4, 3, padding=2, padding_mode="reflect", bias=False),
    "grouped": nn.Conv2d(8, 6, 3, padding=1, groups=2),
    "even": nn.Conv2d(8, 4, 2, padding=1),
    "transposed": nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
    "transposed without overlap": nn.ConvTranspose2d(8, 4, 2, stride=2),
    "transposed, grouped": nn.ConvTranspose2d(8, 4, 3, groups=2, bias=False),
    "transposed, pointwise": nn.ConvTranspose2d(8, 4, 1),
}


def assert_kept(model: nn.Module, unbatched: bool = False) -> None:
    """Compare with the masked model, and a silenced model with what is left of it."""
    batches: list[tuple[int, ...]] = [()] if unbatched else [(2,), (1,)]
    x = torch.randn(*batches[0], 3, 9, 9, dtype=torch.double)
    traced = sg.trace(randomized(model), x)
    slim = sg.compress(traced, MASK, constants="keep")
    masked = sg.masked(traced, MASK, constants="keep")
    for batch in batches:
        for size in (9, 12):
            assert_same_output(masked, slim, torch.randn(*batch, 3, size, size, dtype=torch.double))


@pytest.mark.parametrize("name", KEPT)
def test_these_ops_leave_a_constant_a_constant(name: str) -> None:
    assert_kept(nn.Sequential(conv(3, 8), KEPT[name], conv(8, 2)))


@pytest.mark.parametrize("name", REFUSED)
def test_these_ops_do_not(name: str) -> None:
    model = randomized(nn.Sequential(conv(3, 8), REFUSED[name], conv(8, 2)))
    traced = sg.trace(model, torch.randn(1, 3, 8, 8, dtype=torch.double))
    mask = MASK if name != "norm over all" else {"0": [1, 0, 1, 1, 1, 1, 1, 1]}
    with pytest.raises(VaryingChannelError, match="the effect of channel 1 of group `0`"):
        sg.compress(traced, mask, constants="keep")


@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("name", CONSUMERS)
def test_every_convolution_gets_the_effect_of_constants(name: str, unbatched: bool) -> None:
    assert_kept(nn.Sequential(conv(3, 8), nn.Sigmoid(), CONSUMERS[name]), unbatched)


def test_zero_padding_leaves_a_zero_a_constant() -> None:
    model = nn.Sequential(conv(3, 8, bias=False), nn.ZeroPad2d(1), nn.ReLU(), conv(8, 2))
    assert_kept(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_and_carrier_have_the_precision_of_the_model(dtype: torch.dtype) -> None:
    model = nn.Sequential(conv(3, 8), nn.Sigmoid(), conv(8, 4), nn.Conv2d(4, 2, 1)).to(dtype)
    traced = sg.trace(model.eval(), torch.randn(1, 3, 8, 8, dtype=dtype))
    slim = sg.compress(traced, MASK | {"2": [0, 1, 1, 1]}, constants="keep")
    assert {tensor.dtype for tensor in slim.state_dict().values()} == {dtype}
    x = torch.randn(2, 3, 8, 8, dtype=dtype)
    masked = sg.masked(traced, MASK | {"2": [0, 1, 1, 1]}, constants="keep")
    torch.testing.assert_close(slim(x), masked(x))


def test_even_a_zero_takes_part_in_the_statistics_of_a_layer_norm() -> None:
    layers = nn.Linear(3, 8, bias=False), nn.LayerNorm(8), nn.Linear(8, 2)
    traced = sg.trace(randomized(nn.Sequential(*layers)), torch.randn(2, 3, dtype=torch.double))
    with pytest.raises(VaryingChannelError, match="statistics where `%_1` reads it"):
        sg.compress(traced, MASK, constants="keep")


@pytest.mark.parametrize("dims", [(1,), (1, 2, 3)])
def test_a_mean_over_channels_still_counts_the_constants(dims: tuple[int, ...]) -> None:
    class Averaged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("0", conv(3, 8))
            self.head = conv(1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.sigmoid(self.get_submodule("0")(x))
            return self.head(x.mean(dims, keepdim=True) * x.sum(dims, keepdim=True))

    assert_kept(Averaged())
