"""Annotation files in the forms people have: CSV, TSV, JSON Lines, Parquet and `path label` lists → raw rows.

Input: a file. Output: `(place, {our column: value})`, one per row, its columns found by usual names or by the card.
"""

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rbft_trl.data.jsonl import parse_object
from rbft_trl.errors import UserError, nearest

Raw = dict[str, Any]
# What people call our columns; case, spaces and dashes do not matter.
USUAL_NAMES = {
    "id": ("id", "clip_id", "video_id", "uid"),
    "video": (
        "video", "path", "file", "filename", "file_name", "filepath", "file_path", "video_path", "video_file", "clip",
        "clip_path",
    ),
    "label": ("label", "class", "class_name", "classname", "category", "label_name", "action"),
    "split": ("split", "subset", "set", "partition"),
    "group": ("group", "source", "source_id", "subject", "camera", "scene"),
    "start": ("start", "start_time", "start_sec", "start_seconds", "time_start"),
    "end": ("end", "end_time", "end_sec", "end_seconds", "time_end"),
    "text": ("text", "title", "transcript"),
}  # fmt: skip
COLUMNS = tuple(USUAL_NAMES)
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".txt")


def read_table(path: Path, columns: dict[str, str] | None = None) -> Iterator[tuple[str, Raw]]:
    """The rows of one annotation file, with our column names.

    Args:
        path (`Path`): .csv or .tsv (comma, semicolon or tab; UTF-8 or, from Excel, UTF-16), .jsonl, .parquet, or .txt
            with `path label` per line, as mmaction2 writes it.
        columns (`dict[str, str]`, *optional*): Our column → the file's, where the name is none of `USUAL_NAMES`.

    Yields:
        `tuple[str, dict]`: `file:line` and the row.

    Raises:
        UserError: naming the file, the line and the way out.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"data.annotations '{path}' ends in '{path.suffix}'; write one of {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        rows = _from_parquet(path)
    elif suffix == ".jsonl":
        rows = _from_jsonl(text_of(path), path)
    elif suffix == ".txt":
        rows = _from_list(text_of(path), path)
    else:
        rows = _from_csv(text_of(path), path, columns or {})
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for place, raw in rows:
        names = tuple(raw)
        if names not in found:
            found[names] = match_columns(names, columns or {}, place)
        yield place, {ours: raw[theirs] for ours, theirs in found[names].items()}


def match_columns(names: Iterable[str], given: dict[str, str], place: str) -> dict[str, str]:
    """Our column → the file's, for those that are there; columns that mean nothing to us are left alone.

    Raises:
        UserError: if a column is missing, stands twice, is nearly one of ours, or two could be meant.
    """
    names = list(names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{place}: the column '{twice}' stands twice; remove one")
    for ours, theirs in given.items():
        if theirs not in names:
            raise UserError(
                f"{place}: data.columns says that '{ours}' is called '{theirs}', which is not there"
                f"{nearest(theirs, names)}; the columns are {', '.join(names)}"
            )
    found = dict(given)
    for ours, usual in USUAL_NAMES.items():
        fits = [name for name in names if _plain(name) in usual and name not in given.values()]
        exact = [name for name in fits if _plain(name) == ours]
        if ours not in given and len(exact or fits) > 1:
            raise UserError(
                f"{place}: the columns {' and '.join(repr(name) for name in fits)} could both be '{ours}'; say which "
                f"in the card, data.columns: {{{ours}: {fits[0]}}}"
            )
        if ours not in given and fits:
            found[ours] = (exact or fits)[0]
    missing = [ours for ours in COLUMNS if ours not in found]
    for name in sorted(set(names) - set(found.values())):
        if close := difflib.get_close_matches(_plain(name), missing, n=1, cutoff=0.75):  # "level" is no "label"
            raise UserError(
                f"{place}: unknown column '{name}'; did you mean '{close[0]}'? Rename it, or name it in the card, "
                f"data.columns: {{{close[0]}: {name}}}"
            )
    if "video" not in found:
        raise UserError(
            f"{place}: the column 'video' is missing; it holds the path of each clip below data.root (the columns are "
            f"{', '.join(names)}; data.columns: {{video: ...}} in the card names another)"
        )
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def text_of(path: Path) -> str:
    """The text of a file: UTF-8, or UTF-16 with its mark.

    Raises:
        UserError: naming the line that is neither.
    """
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _from_csv(text: str, path: Path, columns: dict[str, str]) -> Iterator[tuple[str, Raw]]:
    first, skipped = text.split("\n", 1)[0].rstrip("\r"), 0
    if first.casefold().startswith("sep=") and len(first) == 5:  # Excel's own line
        text, skipped = text.partition("\n")[2], 1
        first, delimiter = text.split("\n", 1)[0], first[4]
    else:
        delimiter = max(",;\t", key=re.sub(r'"[^"]*"', "", first).count)  # in doubt the comma
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=delimiter, strict=True)  # strict: an open quote would swallow rows
    try:
        names = next(reader, [])
        match_columns(names, columns, f"{path}:{1 + skipped}")
        for cells in reader:
            place = f"{path}:{reader.line_num + skipped}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise UserError(
                    f"{place}: more or fewer cells ({len(cells)}) than the header has ({len(names)}); quote commas in "
                    f"cells (the separator is {delimiter!r})"
                )
            yield place, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num + skipped}: {error}; correct the quotes") from error


def _from_jsonl(text: str, path: Path) -> Iterator[tuple[str, Raw]]:
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: a name may hold U+2028
        if line.strip():
            place = f"{path}:{number}"
            yield place, parse_object(line, place, way_out="write one object per line")


def _from_parquet(path: Path) -> Iterator[tuple[str, Raw]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"'{path}' is no Parquet file ({str(error).splitlines()[0]}); write it again") from error
    for number, raw in enumerate(table.to_pylist(), start=1):
        yield f"{path}: row {number}", raw


def _from_list(text: str, path: Path) -> Iterator[tuple[str, Raw]]:
    """mmaction2's list: a path, a space, a class; a line without a class is a clip of the pool."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        video, _, label = line.strip().rpartition(" ")
        place = f"{path}:{number}"
        if not video:
            yield place, {"video": label, "label": None}
        elif re.search(r" \d+$", video) and label.isdigit():
            raise UserError(
                f"{place} has two numbers after the path, a list of raw frames or of several labels; write one line "
                "`path label` per video file"
            )
        else:
            yield place, {"video": video.strip(), "label": label}
