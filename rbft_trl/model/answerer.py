"""The decision rule of open answers: the greedy answer, read strictly; there are no labels to score.

Input: rows of clips. Output: what the model answers, or whether it is right.
"""

from collections.abc import Sequence

from torch import nn

from rbft_trl.data.video import Clip
from rbft_trl.model.collator import ClipCollator, Row
from rbft_trl.model.inference import prefill, write


class Answerer:
    """Answers to the label prompt, or to the rationale prompt where a model reasons first.

    Args:
        collator (`ClipCollator`): Makes the prompts, and knows the card.
        max_new_tokens (`int`, *optional*, defaults to 32): Longest answer.
    """

    def __init__(self, collator: ClipCollator, *, max_new_tokens: int = 32) -> None:
        self.collator, self.max_new_tokens = collator, max_new_tokens

    def read(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        clips: Sequence[Clip] | None = None,
        *,
        reasons_first: bool = False,
    ) -> tuple[list[str], list[bool]]:
        """The answers, and beside each whether it was cut; to the rationale prompt if the model `reasons_first`."""
        ask = self.collator.rationale_prompt if reasons_first else self.collator.label_prompt
        read = prefill(model, self.collator.prompts(rows, [ask(row) for row in rows], clips=clips))
        return write(model, read, self.collator, max_new_tokens=self.max_new_tokens)

    def right(self, model: nn.Module, rows: Sequence[Row], *, batch_size: int) -> list[tuple[str, bool]]:
        """As `LabelScorer.right`."""
        verdicts, card = [], self.collator.card
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            for row, text in zip(batch, self.read(model, batch)[0], strict=True):
                verdicts.append((row["id"], card.objection(text, row["label"], require_prefix=False) is None))
        return verdicts
