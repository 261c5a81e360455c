"""Class folders, CSV or JSONL → flat rows {id, video, label, split, group}, every mistake named with its place.

Input: the `data` part of a task card. Output: rows sorted by id; `video` is relative to the data root.
"""

import csv
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from rbft_trl.data.splits import SPLITS, assign_splits
from rbft_trl.data.task import TaskCard, normalise
from rbft_trl.data.video import VIDEO_SUFFIXES
from rbft_trl.errors import UserError, nearest

Row = dict[str, Any]
COLUMNS = ("id", "video", "label", "split", "group")


def load_rows(card: TaskCard) -> list[Row]:
    """Reads, checks and splits the rows of a card.

    Raises:
        UserError: naming the value, the file and line, and the way out.
    """
    assert card.data is not None
    source = card.data
    if not source.root.is_dir():
        raise UserError(f"{card.path}: data.root '{source.root}' is no folder{_how(source.how_to_get)}")
    if source.annotations is None:
        rows = list(_from_folders(source.root, card))
    else:
        if not source.annotations.is_file():
            raise UserError(
                f"{card.path}: data.annotations '{source.annotations}' does not exist{_how(source.how_to_get)}"
            )
        rows = [_checked(raw, place, card) for place, raw in _from_table(source.annotations)]
    if not rows:
        raise UserError(
            f"'{source.annotations or source.root}' holds no clip; add rows, or correct the path in {card.path}"
        )
    _check_unique(rows)
    if all(row["split"] is None for row in rows):
        rows = assign_splits(
            rows,
            validation=0.15 if source.validation is None else source.validation,
            test=0.15 if source.test is None else source.test,
            seed=source.split_seed or 0,
        )
    elif ignored := [k for k in ("validation", "test", "split_seed") if getattr(source, k) is not None]:
        warnings.warn(
            f"{card.path}: data.{ignored[0]} is ignored because the annotations have a split column; leave it out",
            stacklevel=2,
        )
    for row in rows:
        if not _is_text(row["id"] + row["video"] + row["group"]):
            raise UserError(f"{row['place']!a}: id, video or group is no valid Unicode; rename the file")
        if row["split"] is None:
            raise UserError(
                f"{row['place']}: 'split' is empty while other rows have one; fill it in for all rows or none"
            )
        if row["label"] is None and row["split"] != "train":
            raise UserError(f"{row['place']}: a {row['split']} clip has no label; give it one or move it to train")
        row.pop("place")
    return sorted(rows, key=lambda row: row["id"])


def check_files(rows: list[Row], root: Path, how_to_get: str | None = None) -> None:
    """Every clip is a regular file inside `root`, links resolved.

    Raises:
        UserError: with the number of bad paths and the first three.
    """
    real_root, missing, outside = root.resolve(), [], []
    for row in rows:
        real = Path(os.path.realpath(root / row["video"]))
        if not real.is_relative_to(real_root):
            outside.append(row["video"])
        elif not os.path.isfile(real):  # unlike Path.is_file, no error for a name that is too long
            missing.append(row["video"])
    if outside:
        raise UserError(
            f"{len(outside)} clips lie outside the data root '{root}', e.g. {_first(outside)}; "
            "copy them below it or set data.root higher"
        )
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows)} clips are no files below '{root}', e.g. {_first(missing)}; "
            f"correct the 'video' column{_how(how_to_get)}"
        )


def _from_folders(root: Path, card: TaskCard) -> Iterator[Row]:
    other = []  # files that are no clips, or whose ending is not known
    if loose := [p.name for p in sorted(root.iterdir()) if _is_clip(p)]:
        raise UserError(
            f"{len(loose)} clips lie directly in '{root}', e.g. {_first(loose)}, and would have no label; "
            "move each into the folder of its class"
        )
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if folder.name not in card.labels:
            raise UserError(
                f"the folder '{folder}' is no label of {card.path}{nearest(folder.name, card.names)}; "
                "rename it, move it out, or add the label"
            )
        for path in sorted(folder.rglob("*")):
            if not _is_clip(path):
                other += [path.relative_to(root).as_posix()] if path.is_file() and path.name[0] != "." else []
                continue
            video = path.relative_to(root).as_posix()
            row = {"id": video, "video": video, "label": folder.name, "split": None, "group": video}
            yield row | {"place": str(path)}
    if other:
        warnings.warn(
            f"{len(other)} files below '{root}' are not read as clips, e.g. {_first(other)}; endings that are: "
            f"{', '.join(VIDEO_SUFFIXES)}",
            stacklevel=2,
        )


def _is_clip(path: Path) -> bool:
    """By its name alone; "._clip.mp4" of a Mac is none."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def _from_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(file:line, raw row)` of a CSV or JSONL file."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"data.annotations '{path}' ends in '{path.suffix}'; write a .csv or .jsonl file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if path.suffix.lower() == ".csv":
        yield from _from_csv(text, path)
    else:
        yield from _from_jsonl(text, path)


def _from_csv(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)  # strict: an open quote would swallow rows
    try:
        _check_columns(list(reader.fieldnames or []), f"{path}:1")
        for raw in reader:
            if None in raw or None in raw.values():
                raise UserError(
                    f"{path}:{reader.line_num}: more or fewer cells than the header has; quote commas in cells"
                )
            yield f"{path}:{reader.line_num}", raw
    except csv.Error as error:
        raise UserError(f"{path}:{reader.reader.line_num}: {error}; correct the quotes") from error


def _from_jsonl(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a name may hold U+2028
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number} is not JSON ({error}); write one object per line") from error
        if not isinstance(raw, dict):
            raise UserError(f"{path}:{number} holds {type(raw).__name__}, not an object; write one object per line")
        _check_columns(list(raw), f"{path}:{number}")
        yield f"{path}:{number}", raw


def _check_columns(columns: list[str], place: str) -> None:
    for column in columns:
        if column not in COLUMNS:
            raise UserError(
                f"{place}: unknown column '{column}'{nearest(column, COLUMNS)}; known: {', '.join(COLUMNS)}"
            )
    if len(set(columns)) < len(columns):
        raise UserError(f"{place}: a column stands twice in {', '.join(columns)}; remove one")
    if "video" not in columns:
        raise UserError(f"{place}: the column 'video' is missing; it holds the path of each clip below data.root")


def _checked(raw: dict[str, Any], place: str, card: TaskCard) -> Row:
    row = {column: _cell(raw.get(column), column, place) for column in COLUMNS}
    if row["video"] is None:
        raise UserError(f"{place}: 'video' is empty; write the clip's path below data.root")
    video = PurePosixPath(row["video"])
    if video.is_absolute() or ".." in video.parts or "\0" in row["video"]:
        raise UserError(f"{place}: video '{row['video']}' is absolute or leaves data.root; write a path below it")
    if row["label"] is not None and row["label"] not in card.labels:
        same = [name for name in card.names if normalise(name) == normalise(row["label"])]
        hint = f"; the card spells it '{same[0]}'" if same else nearest(row["label"], card.names)
        raise UserError(f"{place}: label '{row['label']}' is not in {card.path}{hint}; correct the cell or the card")
    if row["split"] is not None and row["split"] not in SPLITS:
        raise UserError(
            f"{place}: split '{row['split']}'{nearest(row['split'], SPLITS)}; use one of {', '.join(SPLITS)}"
        )
    row["id"] = row["id"] or row["video"]
    row["group"] = row["group"] or row["id"]
    return row | {"place": place}


def _cell(value: Any, column: str, place: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, (dict, list, bool)):
        raise UserError(f"{place}: '{column}' is {value!r} but must be text")
    return str(value).strip() or None


def _is_text(value: str) -> bool:
    """False for lone surrogates, which a file name in another encoding gives and no result file could hold."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _check_unique(rows: list[Row]) -> None:
    ids: dict[str, Row] = {}
    videos: dict[str, Row] = {}
    for row in rows:
        if row["id"] in ids:
            raise UserError(
                f"{row['place']}: id '{row['id']}' is also at {ids[row['id']]['place']}; ids must be unique"
            )
        ids[row["id"]] = row
        video = PurePosixPath(row["video"]).as_posix()
        if other := videos.get(video):
            what = "with another label " if other["label"] != row["label"] else ""
            raise UserError(f"{row['place']}: video '{video}' is also {what}at {other['place']}; keep one of the rows")
        videos[video] = row


def _how(how_to_get: str | None) -> str:
    return (
        f"; get the clips with: {how_to_get}" if how_to_get else "; correct the path (it starts at the card's folder)"
    )


def _first(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3])
