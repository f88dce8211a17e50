"""Keeping TensorFlow's log silent."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep TensorFlow's log silent for a while; what the user set is there again afterwards.

    The library reads its variable when it is first imported, and logs a page about
    the processor then.
    """
    logger = logging.getLogger("tensorflow")
    before, level = os.environ.get(_LEVEL), logger.level
    os.environ.setdefault(_LEVEL, "3")
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            os.environ.pop(_LEVEL, None)
