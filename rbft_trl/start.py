"""What every entry does before a model is loaded: task card, rows, every clip read once, draw, and all their checks.

Input: the data and model options of a recipe. Output: a `Task`.
"""

import json
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from rbft_trl.configs import DataArguments, ModelArguments
from rbft_trl.data.kept import KEPT, LIMIT
from rbft_trl.data.manifest import Entry, read_manifest
from rbft_trl.data.rows import check_inside, load_rows
from rbft_trl.data.splits import check_contents, check_splits, draw_shots
from rbft_trl.data.task import TaskCard, fingerprint
from rbft_trl.data.video import FrameSettings
from rbft_trl.errors import UserError, quoted
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.loading import frame_factor, load_processor

Row = dict[str, Any]
FINGERPRINTED = ("id", "video", "start", "end", "label", "split", "group", "context", "target", "text")


@dataclass(frozen=True)
class Task:
    """Everything that a user supplies as data, checked.

    Args:
        card (`TaskCard`): Labels and prompts.
        root (`Path`): The data root.
        rows (`list[dict]`): The rows of this draw; training rows can all be read.
        frames (`FrameSettings`): The one sampler's settings.
        processor (`ProcessorMixin`): The base's.
        manifest (`dict[str, dict]`): What is known of each clip, by id.
        definitions (`bool`): Whether prompts list the definitions.
    """

    card: TaskCard
    root: Path
    rows: list[Row]
    frames: FrameSettings
    processor: ProcessorMixin
    manifest: dict[str, Entry]
    definitions: bool

    def of_split(self, split: str) -> list[Row]:
        """The labelled rows of one split, those that cannot be read included."""
        return [row for row in self.rows if row["split"] == split and row["label"] is not None]

    def readable(self, split: str) -> list[Row]:
        """The labelled rows of one split whose clips can be read."""
        return [row for row in self.of_split(split) if self.manifest[row["id"]]["reason"] is None]

    def collator(self, *, label_in_prompt: bool = False) -> ClipCollator:
        """The one collator, with this task's prompts and frames."""
        return ClipCollator(
            self.processor,
            self.card,
            self.root,
            self.frames,
            definitions=self.definitions,
            label_in_prompt=label_in_prompt,
        )

    def facts(self) -> dict[str, Any]:
        """What may be told of the data to strangers: counts, how the split was made, and the dataset of the Hub."""
        source, counts = self.card.data, {name: Counter() for name in self.card.names or [self.card.answer.type]}
        for row in self.rows:
            if row["label"] is not None:
                counts[self.card.answer.type if self.card.is_open else row["label"]][row["split"]] += 1
        dealt = {row["split"] for row in self.rows if row["dealt"]}
        shares = {"validation": source.validation, "test": source.test}
        by_seed = {split: 0.15 if shares[split] is None else shares[split] for split in sorted(dealt - {"train"})}
        return {
            "counts": {name: dict(count) for name, count in counts.items()},
            "pool": sum(row["label"] is None for row in self.rows),
            "groups": len({row["group"] for row in self.rows}),
            "unreadable": sum(self.manifest[row["id"]]["reason"] is not None for row in self.rows),
            "split_by_seed": {"seed": source.split_seed or 0, "shares": by_seed} if dealt else None,
            "source": source.public,
        }

    def fingerprint(self, rows: list[Row]) -> str:
        """Twelve hex digits over rows and file sizes: tells whether a finished part still fits the data."""
        seen = [[*(str(row.get(k)) for k in FINGERPRINTED), self.manifest[row["id"]]["size"]] for row in rows]
        for row, what in zip(rows, seen, strict=True):  # only where they stand: other rows keep their fingerprint
            what += [f"{key}: {row[key]}" for key in ("prompt", "order") if row.get(key) is not None]
        return fingerprint(json.dumps(seen))


def open_task(data: DataArguments, base: ModelArguments) -> Task:
    """Reads and checks everything that a user supplies as data; every clip is read once, and never again to check it.

    Raises:
        UserError: for every mistake in the card or the data, before a model is loaded.
    """
    KEPT.limit = LIMIT  # epochs, evaluations and arms read the same clips again
    card = TaskCard.from_yaml(data.task)
    if card.data is None:
        raise UserError(f"{card.path}: 'data' is missing; name the folder of the clips as data.root")
    rows, root = load_rows(card), card.data.root
    check_inside(rows, root, card.data.within)
    check_splits(rows, card)
    processor = load_processor(base.model_name_or_path, base.model_revision)
    frames = data.frames()
    manifest = read_manifest(rows, root, frames, factor=frame_factor(processor))
    bad = [row for row in rows if manifest[row["id"]]["reason"] is not None]
    if bad and data.on_bad_clip == "stop":
        how = f"get the clips with: {card.data.how_to_get}" if card.data.how_to_get else "replace them"
        raise UserError(
            f"{said_of(bad, manifest, len(rows))}; {how}, or set on_bad_clip: leave_out (rbft_trl/check.py lists all)"
        )
    if bad:
        warnings.warn(f"{said_of(bad, manifest, len(rows))}; they are left out, and wrong in evaluation", stacklevel=2)
    readable = [row for row in rows if manifest[row["id"]]["reason"] is None]
    if bad:
        check_splits(readable, card)  # a class may have lost all its training clips
    check_contents(readable, manifest)
    left = [row for row in rows if row["split"] != "train" or manifest[row["id"]]["reason"] is None]
    drawn = draw_shots(left, data.shots, seed=data.draw, closed=not card.is_open)
    return Task(card, root, drawn, frames, processor, manifest, data.definitions)


def said_of(bad: list[Row], manifest: dict[str, Entry], total: int) -> str:
    """`"2 of 40 clips cannot be read: 2 truncated, e.g. 'a.mp4'"`, with the detail if it is one."""
    reasons = Counter(manifest[row["id"]]["reason"] for row in bad)
    named = [
        f"{count} {reason}, e.g. {quoted([r['video'] for r in bad if manifest[r['id']]['reason'] == reason], most=2)}"
        for reason, count in reasons.most_common()
    ]
    detail = f" ({manifest[bad[0]['id']]['detail']})" if len(bad) == 1 else ""
    return f"{len(bad)} of {total} clips cannot be read: {'; '.join(named)}{detail}"
