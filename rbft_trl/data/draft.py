"""The first draft of a task card, from the labels that a folder or a table holds (`check.py --init FOLDER`).

Input: a folder of clips. Output: the text of a YAML file, with a word to each line that a person must write.
"""

import re
from collections import Counter
from pathlib import Path

import yaml

from rbft_trl.data.folders import METADATA, is_clip
from rbft_trl.data.source import SPLIT_NAMES
from rbft_trl.data.tables import SUFFIXES, read_table
from rbft_trl.errors import UserError, quoted

DRAFT = "TODO"  # begins every definition that nobody has written yet


def draft_card(folder: Path, *, root: str) -> str:
    """A card for `folder`, with the labels found there.

    Args:
        folder (`Path`): Class folders, split folders, or a folder with one table.
        root (`str`): How the card names the folder: relative to the card, or absolute.

    Raises:
        UserError: if there is no folder, no clip, more than one table, or fewer than two labels.
    """
    if not folder.is_dir():
        raise UserError(f"--init '{folder}' is no folder; name the folder of your clips")
    labels, columns, unused = _labels_of_folders(folder), None, ""
    if len(labels) >= 2 and (beside := [path.name for path in _tables(folder)]):
        unused = f"# Not used, the folders are the classes: {quoted(beside)}; or name the table as data.annotations.\n"
    if len(labels) < 2:
        table, columns = _table(folder)
        labels = _labels_of_table(table) if table else labels
    if odd := [label for label in labels if not label.isprintable()]:
        raise UserError(f"--init: the label {odd[0]!a} holds a line break or no valid Unicode; rename the folder")
    for label in labels:
        parts = [part.strip() for part in re.split(r"[;,|]", label)]
        if len(parts) > 1 and all(part in labels for part in parts):
            raise UserError(
                f"--init: '{label}' names {len(parts)} labels for one clip, which is not supported; keep one"
            )
    if len(labels) < 2:
        raise UserError(
            f"'{folder}' holds {len(labels)} labels{f' ({quoted(list(labels))})' if labels else ''}; put the clips of "
            "each class into a folder of its name, or write a table with the columns video and label"
        )
    name = "".join(letter if letter.isprintable() else "_" for letter in folder.resolve().name)
    named = {label: f"{DRAFT}: one sentence that says what belongs to {label}" for label in labels}
    counts = ", ".join(f"{label} {count}" for label, count in labels.items())
    card = {
        "name": name,
        "question": f"{DRAFT}: what is asked of each clip, e.g. What does this clip show?",
        "role": f"{DRAFT}: who looks at it, e.g. You review the clips of a home camera.",
        "aspects": ["people", "objects", "movement", "place"],
        "labels": named,
        "data": {"root": root} | ({"annotations": columns} if columns else {}),
    }
    return (
        f"# First draft, made from '{name}'; clips found: {counts}.\n{unused}"
        "# Replace every TODO, then run rbft_trl/check.py on this file; recipes/tasks/copy_me.yaml explains it.\n"
        + yaml.safe_dump(card, allow_unicode=True, sort_keys=False, width=1000)
        + "  # group_pattern: '(cam\\d+)_'  # from the path: the clips of a group stay in one split\n"
    )


def _table(folder: Path) -> tuple[Path | None, str | None]:
    """The one table in a folder, and its name for the card (a metadata file is found without)."""
    tables = _tables(folder)
    if len(tables) > 1:
        raise UserError(
            f"'{folder}' holds {len(tables)} tables, {quoted([path.name for path in tables])}; leave the one with the "
            "labels there, or write the card by hand: cp recipes/tasks/copy_me.yaml recipes/tasks/mine.yaml"
        )
    if not tables:
        return None, None
    return tables[0], None if tables[0].name in METADATA else tables[0].name


def _tables(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return [path for path in files if path.suffix.lower() in SUFFIXES and _names_clips(path, folder)]


def _names_clips(path: Path, folder: Path) -> bool:
    """Whether a text file is a list of clips and not a README."""
    if path.suffix.lower() != ".txt":
        return True
    try:
        return any((folder / str(raw["video"])).is_file() for _, raw in read_table(path))
    except UserError:
        return False


def _labels_of_table(table: Path) -> dict[str, int]:
    labels = Counter(str(raw["label"]).strip() for _, raw in read_table(table) if raw.get("label") not in (None, ""))
    return dict(sorted(labels.items()))


def _labels_of_folders(folder: Path) -> dict[str, int]:
    """Class folders, or the class folders below split folders."""
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if inner and all(path.name.casefold() in SPLIT_NAMES for path in inner):
        inner = [path for split in inner for path in sorted(split.iterdir()) if path.is_dir()]
    counts: Counter[str] = Counter()
    for path in inner:
        counts[path.name] += sum(is_clip(clip) for clip in path.rglob("*"))
    return {name: count for name, count in sorted(counts.items()) if count}
