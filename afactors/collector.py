"""The process's garbage collector, while a runtime is open."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_GC_THRESHOLDS = (50_000, 20, 100)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Have the garbage collector leave alone what start-up made, and look for cycles less often.

    A turn makes thousands of short-lived objects and next to no cycles, beside histories that live for long. With
    the defaults a fifth of a short conversation's time, and two thirds of a long one's, go into looking for them.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
