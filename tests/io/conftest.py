"""What the tests of hostile files share."""

import resource
from collections.abc import Iterator

import pytest


@pytest.fixture
def modest_memory() -> Iterator[None]:
    """Check that the peak of this process grows by less than a quarter of a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000
