"""Python's cyclic garbage collector, kept from looking at what is still being built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Let the collector rest: a growing graph is thousands of new objects, and no garbage.

    Each time it looks at them all anew. Memory that is not part of a cycle is freed as always.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
