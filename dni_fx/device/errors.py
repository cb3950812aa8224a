"""What can go wrong on a device."""


class DeviceError(Exception):
    """A folder is not what was written, or a batch is not what the model takes; says what to do."""
