"""Splits by group and class, few-shot draws, and the search for leaks.

Input: flat rows. Output: rows with a split; a group (one source's clips) never sits in two splits.
"""

import random
import warnings
from collections import defaultdict
from typing import Any

from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError

Row = dict[str, Any]


def assign_splits(rows: list[Row], *, validation: float, test: float, seed: int, closed: bool = True) -> list[Row]:
    """Gives every row a split: stratified by class, whole groups only, the same for any order of the rows.

    Groups are dealt largest first, in a seeded order, each to the split that lacks most clips of that group's classes.
    A class of three clips or more is wanted at least once in every split. Groups with clips of the pool stay in train.

    Args:
        rows (`list[Row]`): Rows without a split.
        validation (`float`): Share of the labelled clips.
        test (`float`): Share of the labelled clips.
        seed (`int`): Seed of the order.
        closed (`bool`, *optional*, defaults to `True`): Whether labels are classes; open answers are not stratified.

    Raises:
        UserError: if a split with a share gets no clip.
    """
    if validation + test >= 1:
        raise UserError(f"data.validation {validation} and data.test {test} leave nothing to train on; lower one")
    shares = {"test": test, "validation": validation}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r["id"]):
        groups[row["group"]].append(row)
    lacking = _wanted(_count(_class(row, closed) for row in rows), shares)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    labels = {group: _count(_class(row, closed) for row in groups[group]) for group in order}
    order.sort(key=lambda g: (None not in labels[g], -len(groups[g])))  # those without a choice, then the largest
    splits = {}
    for group in order:
        choice = ["train"] if None in labels[group] else list(lacking)
        split = max(choice, key=lambda s: sum(n * lacking[s][label] for label, n in labels[group].items()))
        splits[group] = split
        for label, count in labels[group].items():
            lacking[split][label] -= count
    for split in shares:
        if shares[split] > 0 and split not in splits.values():
            raise UserError(
                f"data.{split} is {shares[split]} but {len(rows)} clips in {len(groups)} groups leave none for it; "
                f"add labelled clips, name the splits in the annotations, or set data.{split} to 0"
            )
    return [row | {"split": splits[row["group"]]} for row in rows]


def _wanted(totals: dict[Any, int], shares: dict[str, float]) -> dict[str, dict[Any, float]]:
    """Clips per split and class; a split without a share is left out."""
    wanted = {}
    for split, share in shares.items():
        if share > 0:
            wanted[split] = {label: max(share * n, 1.0 if n >= 3 else 0.0) for label, n in totals.items()}
    rest = {label: n - sum(of[label] for of in wanted.values()) for label, n in totals.items()}
    return wanted | {"train": rest}


def draw_shots(rows: list[Row], shots: int | None, *, seed: int, closed: bool = True) -> list[Row]:
    """Keeps `shots` labelled training clips per class (of open answers: in all); the pool, validation and test stay as
    they are.

    Raises:
        UserError: if a class has fewer labelled training clips than `shots`.
    """
    if shots is None:
        return rows
    by_label: dict[str, list[str]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r["id"]):
        if row["split"] == "train" and row["label"] is not None:
            by_label[_class(row, closed)].append(row["id"])
    drawn: set[str] = set()
    for label, ids in sorted(by_label.items()):
        if len(ids) < shots:
            whose = f"class '{label}' has" if closed else "there are"
            raise UserError(f"shots is {shots} but {whose} {len(ids)} training clips; lower shots or add clips")
        drawn |= set(random.Random(f"{seed}:{label}").sample(ids, shots))
    return [row for row in rows if row["split"] != "train" or row["label"] is None or row["id"] in drawn]


def split_classes(counts: dict[str, int], *, seed: int | None) -> list[str]:
    """The base half of the classes, the larger half of an odd number; the others are novel.

    Args:
        counts (`dict[str, int]`): Class name → training clips.
        seed (`int`, *optional*): Seed of a random half; None: the classes with most clips, ties by name.
    """
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if seed is not None:
        names = sorted(counts)
        random.Random(seed).shuffle(names)
    base = set(names[: (len(names) + 1) // 2])
    return [name for name in counts if name in base]


def check_splits(rows: list[Row], card: TaskCard) -> None:
    """Finds leaks and empty classes. Rows without any training clip can be evaluated, and each stage that trains
    refuses them.

    Raises:
        UserError: for a group in two splits, and for a class without a training clip where others have some.
    """
    trains = any(row["split"] == "train" for row in rows)
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row["group"], row)
        if other["split"] != row["split"]:
            raise UserError(
                f"leak: group '{row['group']}' has '{other['id']}' in {other['split']} and '{row['id']}' in "
                f"{row['split']}; one source's clips belong to one split"
            )
    if card.is_open and trains and not any(row["split"] == "train" and row["label"] for row in rows):
        raise UserError(f"{card.path}: no training clip has a label; add some")
    for name in card.names:
        counts = _count(row["split"] for row in rows if row["label"] == name)
        if trains and not counts.get("train"):
            raise UserError(
                f"class '{name}' of {card.path} has no labelled training clip; add some or remove the label"
            )
        if any(row["split"] == "test" for row in rows) and not counts.get("test"):
            warnings.warn(f"class '{name}' has no test clip, so nothing will be known about it", stacklevel=2)


def check_contents(rows: list[Row], manifest: dict[str, dict[str, Any]]) -> None:
    """The same bytes under two names in two splits, or with two labels.

    Args:
        rows (`list[dict]`): Rows whose clips can be read.
        manifest (`dict[str, dict]`): By id; `file` is the hash of a file.

    Raises:
        UserError: naming both clips and the way out.
    """
    files: dict[str, Row] = {}
    seen: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        digest = manifest[row["id"]]["file"]
        file = files.setdefault(digest, row)
        clip = (digest, row.get("start"), row.get("end"))
        other = seen.setdefault(clip, row)
        if other["label"] is None:
            seen[clip] = row  # the next copy is held against the one that has a label
        other = file if file["split"] != row["split"] else other
        same = f"'{other['video']}' ({other['split']}) and '{row['video']}' ({row['split']}) are the same file"
        if other["split"] != row["split"]:
            raise UserError(f"leak: {same}; keep one of them")
        if other["label"] != row["label"] and None not in (other["label"], row["label"]):
            raise UserError(f"{same} with labels '{other['label']}' and '{row['label']}'; keep the right one")


def _class(row: Row, closed: bool) -> str | None:
    """What a row is stratified and drawn by; None for the pool."""
    return row["label"] if closed or row["label"] is None else "labelled"


def _count(values: Any) -> dict[Any, int]:
    counts: dict[Any, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return counts
