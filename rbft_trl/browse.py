"""Clips of a comparison to look at, with their frames: rationales of the training clips, mistakes on the test clips.

Input: a task and the cells of a comparison. Output: what the report shows.
"""

from pathlib import Path
from typing import Any

from rbft_trl.classifier import VideoClassifier
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.data.video import ClipError
from rbft_trl.evidence.mistakes import choose
from rbft_trl.start import Task


def rationale_strips(task: Task, cell: dict[str, Any], *, most: int = 8) -> list[dict[str, Any]]:
    """A few rationales of a cell beside their frames: kept, dropped and unlabelled ones."""
    samples = read_jsonl(cell["rationales"])
    chosen: list[dict[str, Any]] = []
    for verdict, share in (("kept", most // 2), ("dropped", most // 4), ("unlabelled", most // 4)):
        chosen += [s for s in samples if s["verdict"] == verdict][:share]
    collator, rows = task.collator(), {row["id"]: row for row in task.rows}
    return [
        {key: sample.get(key) for key in ("id", "label", "text", "verdict", "reason", "shown")}
        | {"frames": collator.read_row(rows[sample["id"]]).frames}
        for sample in chosen
    ]


def mistake_strips(task: Task, cell: dict[str, Any], checkpoint: Path) -> list[dict[str, Any]]:
    """The clips that `choose` picks from a cell's predictions, with frames and what its model writes about them.

    A rationale is written for the report only, greedily; it does not know the decision.
    """
    chosen = choose(read_jsonl(cell["predictions"]))
    rows = {row["id"]: row for row in task.rows}
    collator = task.collator()
    shown, unread = [], []
    for clip in chosen:
        try:
            shown.append(clip | {"frames": collator.read_row(rows[clip["id"]])})
        except ClipError:  # counted as wrong; there is nothing to look at but the reason
            unread.append(clip | {"frames": None, "text": "", "concludes": None})
    if not shown:
        return unread
    classifier = VideoClassifier.from_pretrained(checkpoint)
    for start in range(0, len(shown), classifier.batch_size):
        batch = shown[start : start + classifier.batch_size]
        texts = classifier.rationales([rows[clip["id"]] for clip in batch], [clip["frames"] for clip in batch])
        for clip, text in zip(batch, texts, strict=True):
            clip |= {"text": task.card.without_final_line(text), "concludes": task.card.parse_label(text)}
    return [clip | {"frames": clip["frames"].frames} for clip in shown] + unread
