"""What every entry does before a model is loaded: task card, rows, draw, frames, and all their checks.

Input: the data options of a recipe. Output: the card, the rows of this draw, and the sampler's settings.
"""

import json
from pathlib import Path
from typing import Any

from rbft_trl.configs import DataArguments
from rbft_trl.data.rows import check_files, load_rows
from rbft_trl.data.source import DataSource
from rbft_trl.data.splits import check_splits, draw_shots
from rbft_trl.data.task import TaskCard, fingerprint
from rbft_trl.data.video import FrameSettings
from rbft_trl.errors import UserError

Row = dict[str, Any]
FINGERPRINTED = ("id", "video", "start", "end", "label", "split", "group", "context", "target", "text")


def open_task(args: DataArguments) -> tuple[TaskCard, DataSource, list[Row], FrameSettings]:
    """Reads and checks everything that a user supplies as data.

    Raises:
        UserError: for every mistake in the card or the data, before a model is loaded.
    """
    card = TaskCard.from_yaml(args.task)
    if card.data is None:
        raise UserError(f"{card.path}: 'data' is missing; name the folder of the clips as data.root")
    rows = load_rows(card)
    check_files(rows, card.data.root, card.data.how_to_get)
    check_splits(rows, card)
    return card, card.data, draw_shots(rows, args.shots, seed=args.draw), args.frames()


def of_split(rows: list[Row], split: str) -> list[Row]:
    """The labelled rows of one split."""
    return [row for row in rows if row["split"] == split and row["label"] is not None]


def data_fingerprint(rows: list[Row], root: Path) -> str:
    """Twelve hex digits over ids, labels, splits and file sizes: tells whether a finished part still fits the data."""
    seen = [[*(str(row.get(k)) for k in FINGERPRINTED), (root / row["video"]).stat().st_size] for row in rows]
    return fingerprint(json.dumps(seen))
