"""A program that is read for another device than the one that it was written on."""

from __future__ import annotations

import json

import torch

from dni_fx.vetting import places


def relocated(program: bytes, device: torch.device) -> bytes:
    """The JSON of a program that names no device but this one, for its values and in its operations alike."""
    read = json.loads(program)
    there = {"type": device.type, "index": device.index}
    for place in places(read):
        for key in place.keys() & {"device", "as_device"}:
            if place[key] is not None:
                place[key] = dict(there)
    return json.dumps(read).encode()
