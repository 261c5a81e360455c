"""What is wrong or worth knowing in a data set: pure functions on rows and the manifest, all findings at once.

Input: the card, its rows, the manifest. Output: `Finding`s, and the distributions that check.json holds.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rbft_trl.data.draft import DRAFT
from rbft_trl.data.manifest import Entry
from rbft_trl.data.source import SPLITS
from rbft_trl.data.task import TaskCard, normalise
from rbft_trl.data.video import TEMPORAL_PATCH
from rbft_trl.errors import quoted
from rbft_trl.evidence.answers import grouped
from rbft_trl.evidence.intervals import effective_sources
from rbft_trl.evidence.power import detectable_from_clips

Row = dict[str, Any]
QUANTILES = [0, 0.25, 0.5, 0.75, 1]
UNEVEN = 10  # largest class / smallest class from which balance is worth a word
DISCORDANCE = 0.25  # share of clips on which two models disagree; usual for fine-tunings of one base


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        level (`str`): `error` (a run would stop), or `warning`.
        kind (`str`): What it is, in a word, e.g. `truncated`, `leak`.
        message (`str`): One sentence with values and the way out.
        ids (`list[str]`): Every clip that it is about.
    """

    level: str
    kind: str
    message: str
    ids: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For check.json."""
        return asdict(self)


def find_all(card: TaskCard, rows: list[Row], manifest: dict[str, Entry], *, leave_out: bool = False) -> list[Finding]:
    """Every finding, errors first.

    Args:
        card (`TaskCard`): Labels and definitions.
        rows (`list[dict]`): All rows, before any draw.
        manifest (`dict[str, dict]`): What is known of each clip, by id.
        leave_out (`bool`, *optional*): Whether clips that cannot be read are left out instead of an error.
    """
    readable = [row for row in rows if manifest[row["id"]]["reason"] is None]
    found = [
        *_unreadable(rows, manifest, leave_out=leave_out),
        *_groups(rows),
        *_copies(readable, manifest),
        *_classes(card, readable, trains=any(row["split"] == "train" for row in rows)),
        *_labels(card),
    ]
    return sorted(found, key=lambda finding: finding.level)


def _unreadable(rows: list[Row], manifest: dict[str, Entry], *, leave_out: bool) -> Iterator[Finding]:
    by_reason: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if (reason := manifest[row["id"]]["reason"]) is not None:
            by_reason[reason].append(row)
    for reason, bad in sorted(by_reason.items()):
        detail = manifest[bad[0]["id"]]["detail"]
        message = f"{len(bad)} clips cannot be read, e.g. '{bad[0]['video']}': {detail}"
        yield Finding("warning" if leave_out else "error", reason, message, [row["id"] for row in bad])
    if damaged := [row for row in rows if manifest[row["id"]].get("lost")]:
        lost = manifest[damaged[0]["id"]]["lost"]
        message = f"{len(damaged)} clips are damaged but used, e.g. '{damaged[0]['video']}' without {lost} frames"
        yield Finding("warning", "damaged_but_used", message, [row["id"] for row in damaged])
    partly = [row for row in rows if manifest[row["id"]].get("whole") is False]
    if partly:
        message = (
            f"{len(partly)} clips are too long to be decoded as a whole here, e.g. '{partly[0]['video']}'; damage "
        )
        message += "between their sampled frames would not be seen"
        yield Finding("warning", "long", message, [row["id"] for row in partly])
    beyond = [row for row in rows if row["end"] and row["end"] > manifest[row["id"]].get("file_seconds", 1e9) + 0.5]
    if beyond:
        seconds = manifest[beyond[0]["id"]]["file_seconds"]
        message = f"{len(beyond)} parts end after their file, e.g. '{beyond[0]['video']}' at {beyond[0]['end']:g} of "
        message += f"{seconds:.1f} s; they end with the file"
        yield Finding("warning", "end_beyond", message, [row["id"] for row in beyond])
    short = [row for row in rows if _is_short(manifest[row["id"]])]
    if short:
        entry = manifest[short[0]["id"]]
        message = f"{len(short)} clips have fewer frames than are sampled, e.g. '{short[0]['video']}' with "
        message += f"{entry['total_frames']} for {entry['shape'][0]}; their last frame is repeated"
        yield Finding("warning", "short", message, [row["id"] for row in short])


def _is_short(entry: Entry) -> bool:
    return entry["reason"] is None and entry["total_frames"] < entry["shape"][0]


def _groups(rows: list[Row]) -> Iterator[Finding]:
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        members[row["group"]].append(row)
    spelt: dict[str, str] = {}
    for group, inside in members.items():
        plain = normalise(group)
        if other := spelt.setdefault(plain, group) != group and spelt[plain]:
            message = (
                f"the groups '{other}' and '{group}' differ only in case or spacing; if they are one, spell them alike"
            )
            yield Finding("warning", "group_spelling", message, [row["id"] for row in inside])
        if len(splits := {row["split"] for row in inside}) > 1:
            message = f"the clips of group '{group}' are in {' and '.join(sorted(splits))}; move them into one split"
            yield Finding("error", "leak", message, [row["id"] for row in inside])


def _copies(rows: list[Row], manifest: dict[str, Entry]) -> Iterator[Finding]:
    """The same file, or the same pictures in another file, more than once; parts of one file are no copies."""
    for key, what, level in (("file", "the same file", "error"), ("content", "the same pictures", "warning")):
        copies: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            copies[manifest[row["id"]][key]].append(row)
        for same in copies.values():
            if len(same) < 2 or (key == "content" and len({manifest[row["id"]]["file"] for row in same}) == 1):
                continue
            names, ids = quoted(sorted({row["video"] for row in same})), [row["id"] for row in same]
            if len(splits := sorted({row["split"] for row in same})) > 1:
                yield Finding(level, "leak", f"{names}: {what}, in {' and '.join(splits)}; keep one of them", ids)
            yield from _equal_parts(same, f"{names}: {what}", level, alone=len(splits) == 1)


def _equal_parts(same: list[Row], what: str, level: str, *, alone: bool) -> Iterator[Finding]:
    parts: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in same:
        parts[(row["start"], row["end"])].append(row)
    for equal in parts.values():
        labels, ids = sorted({row["label"] for row in equal if row["label"] is not None}), [row["id"] for row in equal]
        if len(labels) > 1:
            yield Finding(
                level, "conflicting_labels", f"{what}, with labels {quoted(labels)}; keep the right one", ids
            )
        elif len(equal) > 1 and alone:
            yield Finding("warning", "duplicate", f"{what}, more than once; keep one of them", ids)


def _classes(card: TaskCard, rows: list[Row], *, trains: bool) -> Iterator[Finding]:
    if not trains:
        message = "there is no training clip, so models can be evaluated on these clips but not trained"
        yield Finding("warning", "evaluation_only", message)
    for split in SPLITS if trains else SPLITS[1:]:
        counts = Counter(row["label"] for row in rows if row["split"] == split and row["label"] is not None)
        empty = [name for name in card.names if not counts[name]]
        if empty and (counts or split == "train"):
            level = "error" if split == "train" else "warning"
            yield Finding(level, "empty_class", f"{quoted(empty)} have no readable {split} clip; add some")
        if len(counts) == 1:
            yield Finding("warning", "one_class", f"the {split} split holds '{next(iter(counts))}' only; add others")
        if not counts and split != "train":
            yield Finding("warning", "empty_split", f"there is no labelled {split} clip, so nothing is measured on it")
        most, least = max(counts.values(), default=0), min(counts.values(), default=0)
        if split == "train" and not card.is_open and least and most >= UNEVEN * least:
            rarest = min(counts, key=counts.__getitem__)
            message = f"classes are uneven: {most} clips of the largest, {least} of '{rarest}'; see class_balance"
            yield Finding("warning", "uneven", message)


def _labels(card: TaskCard) -> Iterator[Finding]:
    for name in card.names:
        longer = [other for other in card.names if other != name and normalise(other).startswith(normalise(name))]
        if longer:
            message = f"the label '{name}' begins {quoted(longer)}; their scores are right, but people mix them up"
            yield Finding("warning", "prefix", message)
    drafts = {
        "question": card.question,
        "role": card.role,
        **{f"label '{n}'": text for n, text in card.labels.items()},
    }
    if unwritten := [what for what, text in drafts.items() if text.startswith(DRAFT)]:
        yield Finding("warning", "draft", f"still {DRAFT} in {card.path}: {', '.join(unwritten)}; write them")


def distributions(entries: list[Entry], *, factor: int) -> dict[str, list[float]]:
    """Per readable clip: `seconds`, `fps`, `height` and `width` of the file; `frames` and `video_tokens` as the model
    sees them, with frames whose sides are multiples of `factor`."""
    good = [entry for entry in entries if entry["reason"] is None]
    shapes = [entry["shape"] for entry in good]
    return {
        **{key: [entry[key] for entry in good] for key in ("seconds", "fps", "height", "width")},
        "frames": [frames for frames, _, _ in shapes],
        "video_tokens": [f // TEMPORAL_PATCH * (h // factor) * (w // factor) for f, h, w in shapes],
    }


def overview(
    card: TaskCard, rows: list[Row], manifest: dict[str, Entry], values: dict[str, list[float]]
) -> dict[str, Any]:
    """Counts and distributions: what there is, for people and check.json.

    Returns:
        `dict`: `splits` (clips, pool, sources and clips per class of each split, of open answers per bucket),
        quantiles (0, 25, 50, 75, 100 %) of `values` (see `distributions`), `codecs`, and `test_shows`: the smallest
        difference in points that the sources of the test split (their effective number) show with 80 % power, None if
        they show none.
    """
    splits = {}
    names, group = grouped(card, [row["label"] for row in rows if row["label"] is not None])
    for split in SPLITS:
        inside = [row for row in rows if row["split"] == split]
        counts = Counter(group.get(row["label"]) for row in inside)
        splits[split] = {
            "clips": len(inside),
            "pool": counts[None],
            "sources": len({row["group"] for row in inside}),
            "classes": {name: counts[name] for name in names},
        }
    tested = Counter(row["group"] for row in rows if row["split"] == "test")
    sources = effective_sources([*tested.values()]) if tested else None
    shows = round(detectable_from_clips(sources, DISCORDANCE), 1) if sources else None
    codecs = Counter(manifest[row["id"]].get("codec") for row in rows)
    return {
        "splits": splits,
        **{key: np.quantile(value, QUANTILES).round(3).tolist() for key, value in values.items() if value},
        "codecs": {name: count for name, count in codecs.most_common() if name is not None},
        "test_shows": shows if shows is not None and shows < 100 else None,
    }
