"""Clips that are named on a command line: files, folders and tables → rows for prediction.

Input: paths. Output: rows {id, video, start, end, context, state, refused}.
"""

import os
from pathlib import Path
from typing import Any

from rbft_trl.data.folders import is_clip
from rbft_trl.data.rows import seconds_of
from rbft_trl.data.tables import SUFFIXES, read_table
from rbft_trl.errors import UserError

Row = dict[str, Any]


def find_clips(given: list[str]) -> list[Row]:
    """Every clip once, sorted within a folder; what is named itself is taken whatever its ending.

    A table (see rbft_trl/data/tables.py) gives a row per line, with `start`, `end` and `text` where it has them; its
    paths start at its folder.

    Returns:
        `list[dict]`: `id` (the name as it was given), `video` (the file), `state` (its size and time of change), and
        `refused`, the reason why a file is not opened, or None.

    Raises:
        UserError: for a path that does not exist, and if there is no clip at all.
    """
    rows: list[Row] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if not p.is_dir())
            files = [p for p in inside if is_clip(p)]
            if not files:
                raise UserError(f"the folder '{path}' holds no clip; name another")
            if other := [p for p in inside if not is_clip(p) and not p.name.startswith(".")]:
                print(
                    f"{len(other)} files in '{path}' have no ending of a clip, e.g. '{printable(other[0])}': not read"
                )
            rows += [clip_row(file, within=path) for file in files]
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            rows += [
                clip_row(path.parent / str(raw["video"]), raw=raw, place=place) for place, raw in read_table(path)
            ]
        elif os.path.lexists(path):
            rows.append(clip_row(path))
        else:
            raise UserError(f"'{path}' does not exist; correct the path")
    return list({row["id"]: row for row in rows}.values())


def clip_row(path: Path, *, within: Path | None = None, raw: Row | None = None, place: str = "") -> Row:
    """One clip; a link that leads out of the folder in which it was found is not followed."""
    if "\0" in str(path):
        raise UserError(f"{place}: the name {str(path)!r} holds NUL, which no file can have; correct the cell")
    real = Path(os.path.realpath(path))
    refused = None
    if within is not None and not real.is_relative_to(within.resolve()):
        refused = f"it is a link out of '{within}'; name it itself if it is meant"
    part = {key: seconds_of((raw or {}).get(key), key, place) for key in ("start", "end")}
    ends = (
        f"#{part['start'] or 0:g}-{part['end'] or 'end'}" if any(value is not None for value in part.values()) else ""
    )
    text = (raw or {}).get("text")
    state = [real.stat().st_size, real.stat().st_mtime_ns] if real.is_file() else []
    row = {"id": printable(path) + ends, "video": str(real), "state": state, "refused": refused, **part}
    return row | {"context": " ".join(str(text).split()) or None if text is not None else None}


def printable(path: Path) -> str:
    """A name that every output can hold: bytes that are no UTF-8 stand as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
