"""Stage 0 with a checklist: the base answers the card's questions by likelihood, and the answers are the rationale.

Input: rows of clips. Output: one sample per clip, with its answers as `items`; a prefill of the clip, no generation.
"""

from rbft_trl.batches import Pairs
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import ClipError
from rbft_trl.errors import UserError
from rbft_trl.model.checklist import ChecklistScorer
from rbft_trl.writers import Sample, Writer


def check_checklist(card: TaskCard) -> None:
    """Raises `UserError` if the card has nothing to answer."""
    if not card.checklist:
        raise UserError(f"{card.path}: 'checklist' is missing but writer is checklist; recipes/tasks/toy.yaml has one")


class ChecklistWriter(Writer):
    """Answers the checklist with the base on this machine."""

    def _write_batch(self, number: int, pairs: Pairs, *, shown: bool) -> list[Sample]:
        for _, clip in pairs:
            if isinstance(clip, ClipError):
                raise clip
        rows = [row for row, _ in pairs]
        answered = ChecklistScorer(self.collator).answer(self.model, rows, [clip for _, clip in pairs])
        how = {"sample": 0, "prompt_fingerprint": "checklist", "shown": shown, "decoding": {}, "seed": self.args.seed}
        return [
            {"id": row["id"], "video": row["video"], "label": row["label"]} | how | {"cut": False, "items": items}
            for row, items in zip(rows, answered, strict=True)
        ]
