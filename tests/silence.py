"""What libraries say of their own internals, kept out of tables."""

import contextlib
import logging
import warnings
from collections.abc import Generator


@contextlib.contextmanager
def silence() -> Generator[None]:
    """Inside, no library is heard; what fails is told by whoever asked."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
