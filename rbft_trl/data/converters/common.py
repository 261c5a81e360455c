"""What the converters share: reading official files, names in words, finding clips, and telling of contradictions.

Input: a folder of official files, a folder of clips. Output: a `Conversion`, and `settle` for its rows.
"""

import csv
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rbft_trl.data.container import VIDEO_SUFFIXES
from rbft_trl.data.folders import is_clip
from rbft_trl.data.tables import text_of
from rbft_trl.data.task import normalise
from rbft_trl.errors import UserError, quoted

Row = dict[str, Any]
FIRST = {"test": 0, "validation": 1, "train": 2}  # where a clip stays that is listed in two splits


@dataclass(frozen=True)
class Note:
    """One kind of thing that the annotation says twice, wrongly or not at all.

    Args:
        kind (`str`): In a word, e.g. `two_labels`.
        message (`str`): One sentence with the count, examples and what was done.
        items (`list[str]`): Every clip, group or class that it is about.
    """

    kind: str
    message: str
    items: list[str]


@dataclass
class Conversion:
    """What a converter makes of the official files.

    Args:
        rows (`list[dict]`): `clip` (its name in the annotation), `label`, `split`, `place`, and where they are known
            `also` (other names of its file), `group`, `start`, `end`, `text` and `description`.
        classes (`dict[str, str | None]`): Class name → definition; None: that of the shipped card, or one derived.
        notes (`list[Note]`): What is wrong in the annotation.
        shares (`dict[str, float]`): `validation` and `test` of the card, for splits that are not official.
        words (`dict`): Question, role and aspects, if no card is shipped.
        test (`str | Path`, *optional*): The file that lists the official test clips; None: the split is not official.
    """

    rows: list[Row]
    classes: dict[str, str | None]
    notes: list[Note] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    test: str | Path | None = None


@dataclass(frozen=True)
class Given:
    """What the command line names: the folder of the official files, the clips, and the official fold."""

    annotations: Path
    clips: "Clips"
    fold: int = 1


class Clips:
    """The clips below a folder, found by the names that annotations use.

    Args:
        folder (`Path`): Where to look.
        root (`Path`, *optional*): The data root; found paths start there. `folder` if left out.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder, self.root = folder, root or folder
        self.by_name: dict[str, list[str]] = defaultdict(list)
        self.doubtful: set[str] = set()
        seen: set[str] = set()
        for place, folders, files in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(place)) in seen:  # a link to a folder above would go round for ever
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for file in sorted(files):
                if is_clip(path := Path(place) / file):
                    inside = path.relative_to(folder).as_posix()
                    stem, parent = without_suffix(file), path.parent.name
                    for name in {inside, without_suffix(inside), stem, f"{parent}/{stem}", f"{parent}/*"}:
                        self.by_name[name].append(inside)

    def find(self, *names: str, place: str) -> str | None:
        """The clip's path below the root, in any container format: `folder/name`, or `name` for a file in any folder,
        or `folder/*` for whatever clip lies in a folder of that name.

        Of several files of that name the first in the alphabet counts, and the name is remembered in `doubtful`.

        Raises:
            UserError: if a name is absolute or leaves the folder, or the file's name is no text.
        """
        for name in names:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
                raise UserError(f"{place}: the clip {name!r} is absolute or leaves its folder; correct the annotation")
            if found := self.by_name.get(path.as_posix()) or self.by_name.get(without_suffix(path.as_posix())):
                self.doubtful |= {name} if len(found) > 1 else set()
                if any("\ud800" <= letter <= "\udfff" for letter in min(found)):
                    raise UserError(
                        f"the file {min(found)!a} of the clip '{name}' has no valid Unicode name; rename it"
                    )
                return (self.folder / min(found)).relative_to(self.root).as_posix()
        return None


def without_suffix(name: str) -> str:
    """`name` without the ending of a clip; other dots are part of names."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else name


def check_test(rows: list[Row], test: str | Path | None) -> None:
    """An official test list must yield a test: a split by seed in its place would be another data set.

    Raises:
        UserError: naming the file, if clips of fewer than two classes are left of it.
    """
    kept = [row["label"] for row in rows if row["split"] == "test"]
    if test is not None and len(set(kept)) < 2:
        raise UserError(
            f"the official test list '{test}' yields {len(kept)} clips of {len(set(kept))} classes, and a test needs "
            "two classes; take the official file, and get its clips"
        )


def noted(kind: str, items: list[str], what: str, done: str) -> list[Note]:
    """`[Note]`, or nothing if there are no items: `"3 clips are …, e.g. 'a', 'b', 'c'; <done>"`."""
    return [Note(kind, f"{len(items)} {what}, e.g. {quoted(items)}; {done}", items)] if items else []


def official(folder: Path, *names: str, source: str, needed: bool = True) -> Path | None:
    """The first of `names` that lies in `folder` or one folder deeper.

    Raises:
        UserError: if none is there and one is `needed`.
    """
    for name in names:
        there = [path for path in (folder / name, *sorted(folder.glob(f"*/{name}"))) if path.is_file()]
        if there:
            return there[0]
    if needed:
        raise UserError(
            f"'{folder}' holds no {' or '.join(names)}, an official file of {source}; name the folder that does with "
            "--annotations"
        )
    return None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """`(file:line, text)` of every line that is not empty."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def read_csv(path: Path, needed: tuple[str, ...], *, delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """`(file:line, row)` of a table with the official columns.

    Raises:
        UserError: if a column is missing, or a row has more or fewer cells.
    """
    reader = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if missing := [name for name in needed if name not in names]:
            raise UserError(f"{path}:1: the column '{missing[0]}' is missing, it has {names}; take the official file")
        for cells in reader:
            place = f"{path}:{reader.line_num}"
            if cells and len(cells) != len(names):
                raise UserError(f"{place}: {len(cells)} cells under {len(names)} columns; take the official file")
            if cells:
                yield place, {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: {error}; take the official file") from error


def read_json_file(path: Path, kind: type) -> Any:
    """A list or mapping that an official file holds.

    Raises:
        UserError: if it is no JSON, or something else.
    """
    try:
        value = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is not JSON ({error}); take the official file") from error
    if not isinstance(value, kind):
        raise UserError(f"'{path}' holds {type(value).__name__}, not {kind.__name__}; take the official file")
    return value


def in_words(name: str) -> str:
    """A class name in words: `ApplyEyeMakeup` and `apply_eye_makeup` become `apply eye makeup`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("_", " "))
    return " ".join(spaced.split()).lower()


def class_names(official_names: list[str]) -> dict[str, str]:
    """Official class name → ours, in words; no two of ours can be mixed up.

    Raises:
        UserError: if two names become one, or a name becomes empty.
    """
    names: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name in official_names:
        words = in_words(name)
        if not normalise(words) or (normalise(words) in seen and seen[normalise(words)] != name):
            other = seen.get(normalise(words), "")
            raise UserError(f"the classes '{other}' and '{name}' are both '{words}' in words; rename one of them")
        seen[normalise(words)] = name
        names[name] = words
    return names


def settle(rows: list[Row]) -> tuple[list[Row], list[Note]]:
    """Rows of which each clip has one, with one label, in one split; and groups that lie in one split.

    A clip with two labels is left out. A clip in two splits stays in the test, else in validation. The official split
    stays as it is: a source that it divides becomes one group per split, and the note says so.
    """
    by_clip: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        by_clip[(row.get("video", row["clip"]), row.get("start"), row.get("end"))].append(row)  # one file, two names
    kept, labels, splits, copies = [], [], [], []
    for same in by_clip.values():
        clip = same[0]["clip"]
        if len({row["label"] for row in same}) > 1:
            labels.append(clip)
            continue
        if len({row["split"] for row in same}) > 1:
            splits.append(clip)
        elif len(same) > 1:
            copies.append(clip)
        kept.append(min(same, key=lambda row: FIRST.get(row["split"], 3)))
    where: dict[str, set[str | None]] = defaultdict(set)
    for row in kept:
        if row.get("group"):
            where[row["group"]].add(row["split"])
    divided = dict.fromkeys(sorted(group for group, inside in where.items() if len(inside) > 1))
    kept = [
        row | {"group": f"{row['group']} ({row['split']})"} if row.get("group") in divided else row for row in kept
    ]
    return kept, [
        *noted("contradicting_rows", labels, "clips are listed with two labels", "they are left out"),
        *noted("two_splits", splits, "clips are in two official splits", "each stays in test, else in validation"),
        *noted("listed_twice", copies, "clips are listed twice with one label", "one row of each is kept"),
        *noted(
            "divided_sources", list(divided), "sources have clips in more than one official split",
            "the split stays as published, so results on it are not free of that leak",
        ),
    ]  # fmt: skip
