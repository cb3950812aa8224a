"""What the test processes of a session share, and how they take turns with it."""

import os

from filelock import FileLock


def shared_folder(factory):
    """A folder that all test processes of a session share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def turn(path):
    """Inside, no other test process is inside with the same path."""
    return FileLock(path)
