"""Tables and folders → flat rows {id, video, label, split, group, start, end, context}; mistakes with their place.

Input: the `data` part of a task card. Output: rows sorted by id; `video` is relative to the data root, `start` and
`end` are seconds or None (the whole file), `context` is the text that came with the clip or None, `dealt` says whether
the split was made by seed.
"""

import os
import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from rbft_trl.data.folders import read_folders
from rbft_trl.data.source import SPLIT_NAMES, SPLITS, DataSource
from rbft_trl.data.splits import assign_splits
from rbft_trl.data.tables import COLUMNS, read_table
from rbft_trl.data.task import TaskCard, normalise
from rbft_trl.errors import UserError, nearest, quoted

Row = dict[str, Any]
ONE_LABEL = "multi-label data is not supported: keep one, or make a class of the combination"


def load_rows(card: TaskCard) -> list[Row]:
    """Reads, checks and splits the rows of a card.

    Raises:
        UserError: naming the value, the file and line, and the way out.
    """
    assert card.data is not None
    source = card.data
    if not source.root.is_dir():
        raise UserError(f"{card.path}: data.root '{source.root}' is no folder{_how(source.how_to_get)}")
    if card.is_open and (source.annotations is None or source.classes is not None):
        raise UserError(
            f"{card.path}: answers of type {card.answer.type} stand in a table: name it as data.annotations, and "
            "leave data.classes out"
        )
    rows = [_checked(raw, place, card) for place, raw in _raw_rows(source, card)]
    if not rows:
        raise UserError(
            f"'{source.annotations or source.root}' holds no clip; add rows, or correct the path in {card.path}"
        )
    if all(row["label"] is None for row in rows):
        raise UserError(
            f"{rows[0]['place']}: no row has a label; name the column that holds it in {card.path}, data.columns: "
            "{label: ...} (one column per class, 0 or 1, is multi-label data and not supported)"
        )
    if source.group_pattern is not None and any(row["given_group"] for row in rows):
        warnings.warn(f"{card.path}: the group column counts, data.group_pattern is ignored; drop one", stacklevel=2)
    _check_unique(rows)
    rows = _split(rows, source, card)
    if cut := sum(row.pop("cut") for row in rows):
        warnings.warn(
            f"the text of {cut} clips is longer than data.text_limit = {source.text_limit} and was cut", stacklevel=2
        )
    for row in rows:
        if not _is_text(row["id"] + row["video"] + row["group"] + (row["context"] or "")):
            raise UserError(
                f"{row['place']!a}: id, video, group or text is no valid Unicode; rename the file or correct the cell"
            )
        if row["split"] is None:
            raise UserError(
                f"{row['place']}: 'split' is empty while other rows have one; fill it in for all rows or none"
            )
        if row["label"] is None and row["split"] != "train":
            raise UserError(f"{row['place']}: a {row['split']} clip has no label; give it one or move it to train")
        row.pop("place")
        row.pop("given_group")
    return sorted(rows, key=lambda row: row["id"])


def _split(rows: list[Row], source: DataSource, card: TaskCard) -> list[Row]:
    """Splits as given, or made (`dealt`); validation is cut from the training clips if only that split is missing."""
    validation = 0.15 if source.validation is None else source.validation
    given = {row["split"] for row in rows}
    rows = [row | {"dealt": False} for row in rows]
    assign = partial(assign_splits, closed=not card.is_open)
    if given == {None}:
        test = 0.15 if source.test is None else source.test
        dealt = assign(rows, validation=validation, test=test, seed=source.split_seed or 0)
        return [row | {"dealt": True} for row in dealt]
    may_cut = source.validation is not None and "validation" not in given and "train" in given
    ignored = ["test"] if may_cut else ["validation", "test", "split_seed"]
    if ignored := [key for key in ignored if getattr(source, key) is not None]:
        warnings.warn(
            f"{card.path}: data.{ignored[0]} is ignored because the data say their split; leave it out", stacklevel=3
        )
    if not may_cut:
        return rows
    train = [row for row in rows if row["split"] == "train"]
    kept = [row for row in rows if row["split"] != "train"]
    dealt = assign(train, validation=validation, test=0.0, seed=source.split_seed or 0)
    return kept + [row | {"dealt": True} for row in dealt]


def check_inside(rows: list[Row], root: Path, within: Path | None = None) -> None:
    """Every clip lies inside `root` (or `within`, if given), links resolved.

    Raises:
        UserError: with the number of bad paths and the first three.
    """
    real_root = (within or root).resolve()
    videos = [row["video"] for row in rows]
    if outside := [video for video in videos if not Path(os.path.realpath(root / video)).is_relative_to(real_root)]:
        raise UserError(
            f"{len(outside)} clips lie outside the data root '{root}', e.g. {quoted(outside)}; "
            "copy them below it or set data.root higher"
        )


def _raw_rows(source: DataSource, card: TaskCard) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(place, raw row)` of the annotation file, of one file per split, or of the folders."""
    columns = source.columns or {}
    if source.annotations is None:
        yield from read_folders(source.root, card.names, card=str(card.path), columns=columns)
        return
    files = source.annotations if isinstance(source.annotations, dict) else {None: source.annotations}
    for split, file in files.items():
        if not file.is_file():
            raise UserError(f"{card.path}: data.annotations '{file}' does not exist{_how(source.how_to_get)}")
        for place, raw in read_table(file, columns):
            if split is not None and raw.get("split") is not None:
                raise UserError(f"{place}: the file is the {split} split by the card and has a split column; drop one")
            yield place, raw if split is None else raw | {"split": split}


def _checked(raw: dict[str, Any], place: str, card: TaskCard) -> Row:
    assert card.data is not None
    row = {column: _cell(raw.get(column), column, place) for column in COLUMNS if column != "label"}
    if row["video"] is None:
        raise UserError(f"{place}: 'video' is empty; write the clip's path below data.root")
    video = PurePosixPath(row["video"])
    if video.is_absolute() or ".." in video.parts or "\0" in row["video"]:
        raise UserError(f"{place}: video '{row['video']}' is absolute or leaves data.root; write a path below it")
    row["label"] = _label(raw.get("label"), place, card)
    if row["split"] is not None:
        split = SPLIT_NAMES.get(row["split"].casefold())
        if split is None:
            raise UserError(
                f"{place}: split '{row['split']}'{nearest(row['split'], SPLIT_NAMES)}; use one of {', '.join(SPLITS)}"
            )
        row["split"] = split
    row["start"], row["end"] = (seconds_of(row[name], name, place) for name in ("start", "end"))
    if row["end"] is not None and row["end"] <= (row["start"] or 0):
        raise UserError(f"{place}: 'end' {row['end']:g} s is not after 'start' {row['start'] or 0:g} s; correct them")
    whole = row["start"] is None and row["end"] is None
    row["id"] = row["id"] or (row["video"] if whole else f"{row['video']}#{row['start'] or 0:g}-{row['end'] or 'end'}")
    row["given_group"] = row["group"] is not None
    row["group"] = row["group"] or _group(row["video"], place, card) or (row["id"] if whole else row["video"])
    text = row.pop("text")
    text = " ".join(text.split()) if text else None
    cut = text is not None and len(text) > card.data.text_limit
    return row | {"context": text[: card.data.text_limit] if cut else text, "cut": cut, "place": place}


def _label(value: Any, place: str, card: TaskCard) -> str | None:
    """A class name of the card, or an open answer in its one spelling; an integer (of a `path label` list) is a line
    of `data.classes`."""
    if isinstance(value, (list, tuple)) and card.answer.type == "list":
        value = ", ".join(map(str, value))
    if isinstance(value, (list, tuple)):
        if len(value) > 1:
            raise UserError(f"{place}: {len(value)} labels for one clip, {value!r}; {ONE_LABEL}")
        value = value[0] if value else None
    label = _cell(value, "label", place)
    if label is not None and card.is_open:
        read, reason = card.answer.read(label)
        if read is None:
            raise UserError(
                f"{place}: label '{label}' is no {card.answer.form} ({reason}), as {card.path} wants it; correct the "
                "cell or the card's answer"
            )
        return read
    classes = card.data.classes if card.data else None
    if label is not None and classes is not None and label.isdigit():
        if int(label) >= len(classes):
            raise UserError(f"{place}: class {label} is beyond the {len(classes)} lines of data.classes; correct it")
        label = classes[int(label)]
    if label is None or label in card.labels:
        return label
    same = [name for name in card.names if normalise(name) == normalise(label)]
    parts = [part.strip() for part in re.split(r"[;,|/+&]", label)]
    if len(parts) > 1 and all(part in card.labels for part in parts):
        raise UserError(f"{place}: '{label}' names {len(parts)} labels for one clip; {ONE_LABEL}")
    hint = f"; the card spells it '{same[0]}'" if same else nearest(label, card.names)
    if label.isdigit() and classes is None:
        hint = "; if it is the number of a class, name the file that lists the classes as data.classes"
    raise UserError(f"{place}: label '{label}' is not in {card.path}{hint}; correct the cell or the card")


def seconds_of(text: Any, column: str, place: str) -> float | None:
    """Seconds from `12.5`, `1:23` or `0:01:23.5`."""
    if text is None or text == "":
        return None
    text = str(text).strip()
    parts = re.sub(r"^(\d+),(\d+)$", r"\1.\2", text).split(":")  # a decimal comma
    try:
        seconds = sum(float(part) * 60**i for i, part in enumerate(reversed(parts)))
        fits = len(parts) <= 3 and 0 <= seconds < float("inf") and all(float(part) >= 0 for part in parts)
    except ValueError:
        fits = False
    if not fits:
        raise UserError(
            f"{place}: '{column}' is '{text}' but must be seconds (12.5) or a time (1:23); correct the cell"
        )
    return seconds


def _group(video: str, place: str, card: TaskCard) -> str | None:
    """What `data.group_pattern` finds in a path, if the card has one."""
    pattern = card.data.group_pattern if card.data else None
    if pattern is None:
        return None
    found = re.search(pattern, video)
    if found is None:
        raise UserError(f"{place}: data.group_pattern '{pattern}' finds nothing in '{video}'; widen it")
    if not found.group(1):
        raise UserError(f"{place}: group 1 of data.group_pattern '{pattern}' is empty in '{video}'; correct it")
    return found.group(1)


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
    clips: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["id"] in ids:
            raise UserError(
                f"{row['place']}: id '{row['id']}' is also at {ids[row['id']]['place']}; ids must be unique"
            )
        ids[row["id"]] = row
        clip = PurePosixPath(row["video"]).as_posix(), row["start"], row["end"]
        if other := clips.get(clip):
            what = "with another label " if other["label"] != row["label"] else ""
            raise UserError(
                f"{row['place']}: video '{clip[0]}' is also {what}at {other['place']}; keep one of the rows, or give "
                "each its start and end"
            )
        clips[clip] = row


def _how(how_to_get: str | None) -> str:
    return (
        f"; get the clips with: {how_to_get}" if how_to_get else "; correct the path (it starts at the card's folder)"
    )
