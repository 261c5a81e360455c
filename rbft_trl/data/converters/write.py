"""A `Conversion` → a table of ours and a task card, both read back as every stage will read them.

Input: rows of the annotation and where the clips lie. Output: clips.csv and NAME.yaml, or one sentence and neither.
"""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rbft_trl.data.converters.common import Clips, Conversion, Note, Row, in_words, noted, read_lines
from rbft_trl.data.jsonl import make_folder, write_text
from rbft_trl.data.rows import check_inside, load_rows
from rbft_trl.data.splits import check_splits, split_classes
from rbft_trl.data.task import TaskCard, normalise
from rbft_trl.errors import UserError, nearest
from rbft_trl.yaml_file import read_mapping

CARDS = Path(__file__).resolve().parents[3] / "recipes/tasks"  # their words and definitions stand there alone
COLUMNS = ("video", "label", "split", "group", "start", "end", "text")
WORDS = ("question", "role", "aspects")


@dataclass(frozen=True)
class Target:
    """Where a conversion is written, and how its cards name the clips.

    Args:
        name (`str`): The data set.
        folder (`Path`): Where the files are written.
        place (`dict[str, str]`): `root`, or `dataset` and `revision`, as a card has them.
        fold (`int`, *optional*): The official fold, if the data set has folds.
    """

    name: str
    folder: Path
    place: dict[str, str]
    fold: int | None = None


Made = tuple[Path, list[Row]]  # a card, and its rows with their split


def write_card(
    target: Target, found: Conversion, rows: list[Row], classes: dict[str, str | None], *, part: str = ""
) -> Made:
    """Writes a table and its card, and reads both as every stage will; nothing stays if they are refused.

    Args:
        target (`Target`): Where to.
        found (`Conversion`): Words and shares.
        rows (`list[dict]`): The rows of the table, with `video`.
        classes (`dict[str, str | None]`): The classes of the card.
        part (`str`, *optional*): `base` or `novel`, for half of the classes.
    """
    name, table = (f"{target.name}_{part}", f"clips_{part}.csv") if part else (target.name, "clips.csv")
    out = make_folder(target.folder).resolve()
    path, clips = out / f"{name}.yaml", out / table
    for file in (path, clips):
        if file.exists():
            raise UserError(f"'{file}' exists; name another --output, or delete it")
    shares = found.shares if any(row["split"] in ("train", None) for row in rows) else {}
    text = card_text(target, name, found, classes, target.place | {"annotations": str(clips)} | shares)
    write_text(clips, table_text(rows))
    write_text(path, text)
    try:
        card = TaskCard.from_yaml(path)
        checked = load_rows(card)
        check_inside(checked, card.data.root, card.data.within)
        check_splits(checked, card)
    except UserError:
        path.unlink()
        clips.unlink()
        raise
    return path, checked


def table_text(rows: list[Row]) -> str:
    """The table, with the columns that hold something."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if row.get(c) is None else row[c] for c in columns] for row in rows])
    return stream.getvalue()


def card_text(
    target: Target, name: str, found: Conversion, classes: dict[str, str | None], data: dict[str, Any]
) -> str:
    """The card: words of the shipped card of this data set, labels of the annotation, and where the clips are."""
    words, known = found.words, {}
    if not words:
        raw = read_mapping(CARDS / f"{target.name}.yaml", what="shipped card", example="convert in a clone")
        words, known = {key: raw[key] for key in WORDS}, raw["labels"]
    labels = {label: meaning or known.get(label) or derived(label) for label, meaning in classes.items()}
    fold = f", fold {target.fold}" if target.fold else ""
    head = (
        f"# {name}{fold}, made by rbft_trl/convert.py; docs/datasets.md names the source and what to look up there.\n"
        "# Definitions are this project's own words and no part of the data set; better ones may be written here.\n"
    )
    card = {"name": name, **words, "labels": labels, "data": data}
    return head + yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=1000)


def derived(label: str) -> str:
    """A definition where nobody wrote one."""
    return f"the main action of the clip is {label}"


def base_classes(rows: list[Row], classes: dict[str, str | None], how: str) -> list[str]:
    """The base half of the classes.

    Args:
        rows (`list[dict]`): All rows.
        classes (`dict[str, str | None]`): All classes.
        how (`str`): `frequent` (the classes with most training clips), a seed, or a file that lists the base classes.

    Raises:
        UserError: if there is no official test split, or a half would have fewer than two classes.
    """
    if not any(row["split"] == "test" for row in rows):
        raise UserError("--base_to_novel needs an official test split, and these rows have none")
    if len(classes) < 4:
        raise UserError(f"--base_to_novel needs 4 classes or more to halve, and there are {len(classes)}")
    if how != "frequent" and not how.isdecimal():
        return listed_classes(Path(how), list(classes))
    counts = Counter(row["label"] for row in rows if row["split"] == "train")
    return split_classes({name: counts[name] for name in classes}, seed=None if how == "frequent" else int(how))


def write_halves(
    target: Target, found: Conversion, rows: list[Row], classes: dict[str, str | None], base: list[str]
) -> list[Made]:
    """Two cards: base classes with all their clips, novel classes with their test clips alone."""
    made = []
    for part, inside in (("base", base), ("novel", [name for name in classes if name not in base])):
        own = [row for row in rows if row["label"] in inside and (part == "base" or row["split"] == "test")]
        halved = {name: meaning for name, meaning in classes.items() if name in inside}
        made.append(write_card(target, found, own, halved, part=part))
    return made


def listed_classes(path: Path, names: list[str]) -> list[str]:
    """The base classes that a file lists: one per line, or `id,name` lines as ViFi-CLIP's label files have."""
    if not path.is_file():
        raise UserError(f"--base_to_novel '{path}' is neither 'frequent' nor a seed nor a file; correct it")
    by_name = {normalise(name): name for name in names}
    base = []
    for place, line in read_lines(path):
        text = line.split(",", 1)[1].strip(' "') if line.split(",")[0].isdecimal() else line
        if text == line == "id,name":
            continue
        found = by_name.get(normalise(text)) or by_name.get(normalise(in_words(text)))
        if found is None:
            raise UserError(f"{place}: '{text}' is no class of this conversion{nearest(text, names)}; correct it")
        base.append(found)
    if not 2 <= len(set(base)) <= len(names) - 2:
        raise UserError(f"'{path}' lists {len(set(base))} of {len(names)} classes; both halves need two at least")
    return base


def locate(rows: list[Row], clips: Clips) -> tuple[list[Row], list[str]]:
    """Rows with `video`, the clip's path below the root, and the names of the clips that are not there."""
    there, missing = [], []
    for row in rows:
        video = clips.find(row["clip"], *row.get("also", ()), place=row["place"])
        if video is None:
            missing.append(row["clip"])
        else:
            there.append(row | {"video": video})
    return there, missing


def trained_classes(
    rows: list[Row], classes: dict[str, str | None]
) -> tuple[list[Row], dict[str, str | None], list[Note]]:
    """Without the classes that no training clip is left of: a card must not promise them."""
    trained = {row["label"] for row in rows if row["split"] in ("train", None)}
    lost = [name for name in classes if name not in trained]
    notes = noted("empty_classes", lost, "classes have no training clip", "they are left out, with their other clips")
    return [row for row in rows if row["label"] in trained], {c: t for c, t in classes.items() if c in trained}, notes
