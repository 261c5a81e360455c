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
            clip |= {"text": task.card.reasoning(text), "concludes": task.card.parse_label(text)}
    return [clip | {"frames": clip["frames"].frames} for clip in shown] + unread


def agreement(task: Task, cell: dict[str, Any], checkpoint: Path, *, most: int = 100) -> dict[str, int]:
    """On how many test clips what a model writes ends in what it decides. Costs a greedy rationale per clip.

    Args:
        task (`Task`): With the test clips.
        cell (`dict`): With `predictions`, the file that `checkpoint` was evaluated into.
        checkpoint (`Path`): The model.
        most (`int`, *optional*, defaults to 100): Clips, taken evenly from those that could be read, in order of ids.

    Returns:
        `dict`: `n`, and of these `same` (a rationale for the label as decided), `other` (for another label), `none`
        (no label) and `bare` (only a class name was written: there is no rationale to agree).
    """
    predictions = sorted((p for p in read_jsonl(cell["predictions"]) if p["scores"]), key=lambda p: p["id"])
    step = max(1, -(-len(predictions) // most))
    chosen = predictions[::step]
    found = {"n": len(chosen), "same": 0, "other": 0, "none": 0, "bare": 0}
    if not chosen:
        return found
    rows, collator = {row["id"]: row for row in task.rows}, task.collator()
    classifier = VideoClassifier.from_pretrained(checkpoint)
    for start in range(0, len(chosen), classifier.batch_size):
        batch = chosen[start : start + classifier.batch_size]
        clips = [rows[p["id"]] for p in batch]
        texts = classifier.rationales(clips, [collator.read_row(row) for row in clips])
        for prediction, text in zip(batch, texts, strict=True):
            said = task.card.parse_label(text)
            bare = said is not None and not task.card.reasoning(text)
            found["bare" if bare else "same" if said == prediction["prediction"] else "other" if said else "none"] += 1
    return found
