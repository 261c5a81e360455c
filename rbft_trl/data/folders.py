"""Folders that say what is in them: class folders, split folders, and datasets' VideoFolder layout → raw rows.

Input: the data root. Output: `(place, raw row)` as `tables.read_table` gives them; `video` starts at the root.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

from rbft_trl.data.container import VIDEO_SUFFIXES
from rbft_trl.data.source import SPLIT_NAMES
from rbft_trl.data.tables import Raw, read_table
from rbft_trl.errors import UserError, nearest, quoted

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def read_folders(root: Path, names: list[str], *, card: str, columns: dict[str, str]) -> Iterator[tuple[str, Raw]]:
    """The rows of a folder without an annotation file.

    In this order: `metadata.csv`, `.jsonl` or `.parquet` in the root; folders named train, validation (val, valid,
    dev) and test, each with a metadata file or class folders; class folders.

    Args:
        root (`Path`): The data root.
        names (`list[str]`): The class names of the card.
        card (`str`): The card's path, for messages.
        columns (`dict[str, str]`): Our column → the metadata file's, where its name is unusual.

    Raises:
        UserError: if a folder or a clip has no place in the layout.
    """
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    splits = [p for p in folders if p.name.casefold() in SPLIT_NAMES and p.name not in names]
    if _metadata(root) or not splits:
        yield from _one_folder(root, root, names, card, columns)
        return
    if other := [p.name for p in folders if p not in splits]:
        raise UserError(
            f"'{root}' holds '{other[0]}' beside the split folder '{splits[0].name}'; move it out, or into a split"
        )
    for folder in splits:
        for place, raw in _one_folder(folder, root, names, card, columns):
            yield place, raw | {"split": SPLIT_NAMES[folder.name.casefold()]}


def _metadata(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"'{found[0]}' and '{found[1].name}' lie side by side; keep one of them")
    return found[0] if found else None


def _one_folder(
    folder: Path, root: Path, names: list[str], card: str, columns: dict[str, str]
) -> Iterator[tuple[str, Raw]]:
    if (table := _metadata(folder)) is None:
        yield from _class_folders(folder, root, names, card)
        return
    listed = set()
    for place, raw in read_table(table, columns):
        video = raw["video"]
        listed.add((folder / str(video)).resolve())
        inside = (folder.relative_to(root) / video).as_posix() if isinstance(video, str) and video.strip() else video
        yield place, raw | {"video": inside}
    if unlisted := [path for path in sorted(folder.rglob("*")) if is_clip(path) and path.resolve() not in listed]:
        names = quoted([path.relative_to(folder).as_posix() for path in unlisted])
        warnings.warn(f"{len(unlisted)} clips are not in '{table}', e.g. {names}, and are not read", stacklevel=2)


def _class_folders(folder: Path, root: Path, names: list[str], card: str) -> Iterator[tuple[str, Raw]]:
    other = []  # files that are no clips, or whose ending is not known
    if loose := [p.name for p in sorted(folder.iterdir()) if is_clip(p)]:
        raise UserError(
            f"{len(loose)} clips lie directly in '{folder}', e.g. {quoted(loose)}, and would have no label; "
            "move each into the folder of its class"
        )
    for inner in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if inner.name not in names:
            raise UserError(
                f"the folder '{inner}' is no label of {card}{nearest(inner.name, names)}; "
                "rename it, move it out, or add the label"
            )
        for path in sorted(inner.rglob("*")):
            if is_clip(path):
                yield str(path), {"video": path.relative_to(root).as_posix(), "label": inner.name}
            elif path.is_file() and not path.name.startswith("."):
                other.append(path.relative_to(root).as_posix())
    if other:
        warnings.warn(
            f"{len(other)} files below '{folder}' are not read as clips, e.g. {quoted(other)}; endings that are: "
            f"{', '.join(VIDEO_SUFFIXES)}",
            stacklevel=2,
        )


def is_clip(path: Path) -> bool:
    """By its name alone; "._clip.mp4" of a Mac is none."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
