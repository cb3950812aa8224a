"""The text of a plan, for people to edit: what is wrong with it is told all at once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from passes.errors import SpecError

_VERSION = 1
KEYS = ("version", "policy", "stage_of", "copies", "joint", "time")
"""The entries of a plan."""

Read = tuple[dict[str, int], dict[str, tuple[int, ...]], str, tuple[tuple[str, ...], ...], dict[str, int]]
"""The stage of each value by name, the stages of its copies, the policy, what crosses together, and time."""


def write(
    stage_of: Mapping[Any, int],
    copies: Mapping[Any, tuple[int, ...]],
    policy: str,
    joint: Sequence[Sequence[Any]] = (),
    time: Mapping[Any, int] | None = None,
) -> str:
    """Text that `read` reads back, with one line for each value; `joint` and `time` only if there is any."""
    listed = {anchor: list(stages) for anchor, stages in copies.items()}
    entries: dict[str, Any] = {
        "version": _VERSION,
        "policy": policy,
        "stage_of": dict(stage_of),
        "copies": listed,
    }
    more: dict[str, Any] = {"joint": joint, "time": dict(time or {})}
    return json.dumps(entries | {name: each for name, each in more.items() if each}, indent=1)


def read(text: str) -> Read:
    """The inverse of `write`; only `version` and `stage_of` may not be missing.

    Raises:
        SpecError: the text is not the JSON of a plan, or of a newer version; lists all that is wrong.
    """
    entries, problems = _entries(text)
    problems += _wrong_keys(entries)
    stage_of, copies, time = (_map(entries, name, problems) for name in ("stage_of", "copies", "time"))
    joint = entries.get("joint", [])
    problems += _wrong_values(stage_of, copies, joint, time)
    SpecError.unless_none("this is not the JSON of a plan", problems)
    listed = {name: tuple(stages) for name, stages in copies.items()}
    return stage_of, listed, str(entries.get("policy", "hand")), tuple(map(tuple, joint)), time


def _entries(text: str) -> tuple[dict[str, Any], list[str]]:
    """What the text says, and which names are there twice in it.

    Raises:
        SpecError: it is not JSON, or no object.
    """
    problems: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                both = f"{json.dumps(found[name])} and as {json.dumps(value)}"
                problems.append(f"{name} is there twice, as {both}; leave one of the two out")
            found[name] = value
        return found

    try:
        entries = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"this is not the JSON of a plan: {error or 'nothing can be read'}") from None
    if not isinstance(entries, dict):
        raise SpecError(
            f"this is not the JSON of a plan, which is an object in braces, but a {_kind(entries)}"
        )
    return entries, problems


def _wrong_values(
    stage_of: Mapping[str, Any], copies: Mapping[str, Any], joint: Any, time: Mapping[str, Any]
) -> Iterator[str]:
    for name, stage in stage_of.items():
        if not _is_stage(stage):
            yield f"the stage of {name} is {_asked(stage)}"
    for name, stages in copies.items():
        if not isinstance(stages, list) or not all(map(_is_stage, stages)):
            yield f"the copies of {name} are {json.dumps(stages)}; write a list of stages, such as [1, 2]"
    if not isinstance(joint, list) or not all(map(_is_group, joint)):
        yield f"its joint is {json.dumps(joint)}; write a list of lists of names of values"
    for name, every in time.items():
        if not _is_stage(every) or not every:
            yield (
                f"the time of {name} is {json.dumps(every)}; write after how many steps its state is cut, "
                "such as 8"
            )


def _wrong_keys(entries: dict[str, Any]) -> list[str]:
    """What is wrong with the names at the top level, or with the version.

    Raises:
        SpecError: the version is newer.
    """
    version = entries.get("version", "missing")
    if type(version) is int and version > _VERSION:
        raise SpecError(f"this plan has version {version}, newer than {_VERSION}.")
    problems = [] if type(version) is int else [f'its version is {version}; write "version": {_VERSION}']
    for name in entries.keys() - set(KEYS):
        close = difflib.get_close_matches(name, KEYS, n=1)
        meant = f"; did you mean {close[0]}?" if close else f". There are {', '.join(KEYS)}"
        problems.append(f"it has the entry {name}, which no plan has{meant}")
    if "stage_of" not in entries:
        problems.append("it has no stage_of, an object that gives each value its stage")
    return sorted(problems)


def _map(entries: dict[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    found = entries.get(name, {})
    if isinstance(found, dict):
        return found
    problems.append(f"its {name} is a {_kind(found)}; write an object in braces, with a line for each value")
    return {}


def _is_stage(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_group(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _asked(value: object) -> str:
    if isinstance(value, str) and value.isdecimal():
        return f'the text "{value}"; write the number {value} without quotes'
    return f"{json.dumps(value)}; a stage is a number from 0 up"


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "list", str: "text", bool: "truth value", dict: "object"}
    return "null" if value is None else names.get(type(value), "number")
