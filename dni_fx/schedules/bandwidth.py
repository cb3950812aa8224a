"""Speeds of networks as people write them."""

from __future__ import annotations

import re

from passes import SpecError
from passes.bytes import parse_bytes

_RATE = re.compile(r"(?P<count>[\d.]+\s*[kKmMgGtTpP]?)(?P<unit>bit|bit/s|bps|B|B/s)")


def parse_bandwidth(text: str) -> float:
    """The bytes a second that a text such as `50Mbit`, `1Gbit/s`, `1Gbps` or `10MB/s` stands for.

    Raises:
        SpecError: the text is no speed; one that leaves open whether bits or bytes, such as 50Mb, is none.

    >>> parse_bandwidth("50Mbit"), parse_bandwidth("10MB/s")
    (6250000.0, 10000000.0)
    """
    found = _RATE.fullmatch(text.strip())
    try:
        count = parse_bytes(found["count"] if found else "")
    except SpecError:
        raise SpecError(
            f"{text!r} is no speed of a network. Write one such as 50Mbit, 1Gbit/s or 10MB/s."
        ) from None
    assert found is not None
    return float(count) if found["unit"].startswith("B") else count / 8
