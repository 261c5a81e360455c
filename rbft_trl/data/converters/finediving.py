"""FineDiving: its pickles, read as plain data → a `Conversion`; the class is the number of the dive.

Input: FineDiving_coarse_annotation.pkl, train_split.pkl, test_split.pkl. Output: rows, and what each number means.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rbft_trl.data.container import length, opened
from rbft_trl.data.converters.actions import HELD_OUT
from rbft_trl.data.converters.common import Conversion, Given, Row, noted, official
from rbft_trl.data.converters.pickles import read_pickle
from rbft_trl.errors import UserError

GROUPS = {"1": "forward", "2": "back", "3": "reverse", "4": "inward"}
POSITIONS = {"A": "straight", "B": "pike", "C": "tuck", "D": "free position"}
NUMBER = re.compile(r"(?:(?P<plain>[1-4])(?P<flying>[01])(?P<half>\d)|(?P<armed>6)(?P<way>[1-3])(?P<turns>\d)"
                    r"|(?P<twist>[56])(?P<to>[1-4])(?P<somersaults>\d)(?P<twists>\d))(?P<position>[A-D])")  # fmt: skip
SOURCE = "FineDiving"


def finediving(given: Given) -> Conversion:
    """`{(video, instance): {action_type, start_frame, end_frame, …}}` and two lists of such keys.

    Clips are either one file per dive, `<video>/<instance>.mp4`: then the official split is used, although it divides
    most competitions. Or the untrimmed `<video>.mp4`: then a dive is a part of that file, and the split is made by
    competition, because parts of one file in two splits are a leak that every run refuses.
    """
    coarse = _coarse(official(given.annotations, "FineDiving_coarse_annotation.pkl", source=SOURCE))
    lists = {name: official(given.annotations, f"{name}_split.pkl", source=SOURCE) for name in ("train", "test")}
    keys = {split: _keys(read_pickle(path), path) for split, path in lists.items()}
    trimmed = any(given.clips.find(f"{video}/{instance}", place=SOURCE) for video, instance in coarse)
    unknown = [f"{v}/{i}" for split in keys for v, i in keys[split] if (v, i) not in coarse]
    rows = [
        {
            "clip": f"{video}/{instance}", "label": coarse[video, instance]["action_type"].strip().upper(),
            "split": split, "group": video, "place": str(lists[split]), **coarse[video, instance],
        }
        for split in keys for video, instance in keys[split] if (video, instance) in coarse
    ]  # fmt: skip
    notes = noted("unknown_clip", unknown, "clips of the split lists have no annotation", "they are left out")
    fine = official(given.annotations, "FineDiving_fine-grained_annotation.pkl", source=SOURCE, needed=False)
    other = _other_labels(coarse, read_pickle(fine)) if fine else []
    notes += noted("two_labels", other, "clips have another action type in the fine-grained file", "the coarse counts")
    if not trimmed:
        rows = _parts(rows, given)
        both = {v for v, _ in keys["train"]} & {v for v, _ in keys["test"]}
        done = "their dives are parts of one file, so the split is made by competition; cut one file per dive for it"
        notes += noted("no_official_split", sorted(both), "competitions are divided by the official split", done)
    classes = {name: meaning(name) for name in sorted({row["label"] for row in rows})}
    keep = ("clip", "also", "label", "split", "group", "start", "end", "place")
    rows = [{key: row[key] for key in keep if key in row} for row in rows]
    shares = HELD_OUT if trimmed else {"validation": 0.15, "test": 0.25}
    return Conversion(rows, classes, notes, shares, test=lists["test"] if trimmed else None)


def meaning(number: str) -> str:
    """A dive's number in words, by the rules of the sport: direction, half somersaults, half twists, position."""
    found = NUMBER.fullmatch(number.upper())
    if found is None:
        return f"the dive with the number {number}"
    part = found.groupdict()
    position = POSITIONS[part["position"]]
    if part["plain"]:
        flying = " with a flying phase" if part["flying"] == "1" else ""
        article = "an" if part["plain"] == "4" else "a"
        return f"{article} {GROUPS[part['plain']]} dive, {_halves(part['half'], 'somersault')}{flying}, {position}"
    if part["armed"]:
        return f"a dive from a handstand, {GROUPS[part['way']]}, {_halves(part['turns'], 'somersault')}, {position}"
    start = "a dive from a handstand" if part["twist"] == "6" else "a twisting dive"
    turns = f"{_halves(part['somersaults'], 'somersault')} and {_halves(part['twists'], 'twist')}"
    return f"{start}, {GROUPS[part['to']]}, {turns}, {position}"


def _halves(count: str, what: str) -> str:
    half = int(count)
    number = f"{half // 2}" if half % 2 == 0 else f"{half // 2} 1/2" if half > 1 else "1/2"
    return f"{number} {what}{'s' if half > 2 else ''}"


def _coarse(path: Path) -> dict[tuple[str, int], Row]:
    value = read_pickle(path)
    if not isinstance(value, dict) or not value:
        raise UserError(f"'{path}' holds no annotation per clip; take the official file")
    rows = {}
    for key, entry in zip(_keys(value, path), value.values(), strict=True):
        if not isinstance(entry, dict) or not isinstance(entry.get("action_type"), str):
            raise UserError(f"'{path}': the clip {key} has no action_type; take the official file")
        rows[key] = {name: entry.get(name) for name in ("action_type", "start_frame", "end_frame")}
    return rows


def _keys(value: Any, path: Path) -> list[tuple[str, int]]:
    keys = []
    for key in value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]:
        if not _is_key(key):
            raise UserError(
                f"'{path}' names a clip by {type(key).__name__}, not by (video, instance); take the official file"
            )
        keys.append((key[0], int(key[1])))
    return keys


def _is_key(key: Any) -> bool:
    """Whether `key` is a video's name and a number."""
    pair = isinstance(key, list | tuple) and len(key) == 2 and isinstance(key[0], str)
    return pair and isinstance(key[1], int | str) and str(key[1]).isdecimal()


def _other_labels(coarse: dict[tuple[str, int], Row], fine: Any) -> list[str]:
    other = []
    for key, entry in fine.items() if isinstance(fine, dict) else ():
        said = entry.get("action_type") if isinstance(entry, dict) else None
        known = coarse.get((key[0], int(key[1]))) if _is_key(key) else None
        if known and isinstance(said, str) and said.strip().upper() != known["action_type"].strip().upper():
            other.append(f"{key[0]}/{key[1]}")
    return other


def _parts(rows: list[Row], given: Given) -> list[Row]:
    """Rows as parts of the untrimmed files; frame numbers count from 1, as the files that ffmpeg writes."""
    rates: dict[str, float] = {}
    parts = []
    for row in rows:
        video, first, last = row["group"], row["start_frame"], row["end_frame"]
        if not isinstance(first, int) or not isinstance(last, int):
            raise UserError(
                f"{row['place']}: the clip {row['clip']} has no start_frame or end_frame; take the official file"
            )
        if video not in rates:
            rates[video] = _rate(given, video)
        start, end = (round(frame / rates[video], 3) for frame in (int(first) - 1, int(last)))
        parts.append(row | {"clip": video, "split": None, "start": start, "end": end})
    return parts


def _rate(given: Given, video: str) -> float:
    """Frames per second of an untrimmed file; 1 if it is not there, which is told later."""
    path = given.clips.find(video, place=SOURCE)
    if path is None:
        return 1.0
    with opened(given.clips.root / path) as (container, stream):
        return length(container, stream, given.clips.root / path)[1]
