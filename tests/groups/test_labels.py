"""Label tensors cost as much as there are channels, whatever the size of the value."""

import torch

from slimgraph.labels import restride, varying


def test_what_is_only_expanded_is_never_written_out() -> None:
    pixels = 10**6
    layer = torch.arange(8).view(1, 8, 1).expand(pixels, 8, pixels)  # written out: 64 TB
    found = restride(layer)
    assert varying(found) == (1,)
    assert found.shape == layer.shape


def test_a_copied_dim_along_which_nothing_varies_is_expanded_again() -> None:
    copied = torch.arange(8).view(8, 1).expand(8, 5).contiguous()
    found = restride(copied)
    assert varying(found) == (0,)
    assert torch.equal(found, copied)
