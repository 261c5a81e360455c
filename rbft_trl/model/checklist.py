"""The task card's checklist, answered by likelihood: the clip is read once for all answers to all questions.

Input: rows of clips. Output: per clip and question the best answer and by how much it is ahead.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rbft_trl.data.video import Clip
from rbft_trl.model.collator import ClipCollator, Row
from rbft_trl.model.inference import LabelTrie, prefill, score_labels


class ChecklistScorer:
    """Scores every answer of the checklist from one prefill of the clip alone.

    The trie holds `question + answer` for every pair, so a question is computed once for all its answers, and all
    questions in one forward. A question's own tokens count for each of its answers alike and cancel; the answer with
    the highest log-probability, its end token included, wins. Where layers have linear attention there is one row per
    pair instead (rbft_trl/model/inference.py).

    Args:
        collator (`ClipCollator`): Makes the prompts.
    """

    def __init__(self, collator: ClipCollator) -> None:
        self.collator, self.questions = collator, collator.card.checklist
        asked = [[*collator.encode(text), *collator.after_ids] for text in collator.card.checklist_prompts()]
        pairs = [
            tokens + collator.encode(answer)
            for tokens, question in zip(asked, self.questions, strict=True)
            for answer in question.answers
        ]
        self.trie = LabelTrie.build(pairs, collator.end_id)

    def answer(
        self, model: nn.Module, rows: Sequence[Row], clips: Sequence[Clip] | None = None
    ) -> list[list[dict[str, Any]]]:
        """Per clip, one `{question, answer, margin}` per question; the margin to the next answer is in nats."""
        batch = self.collator.clips_alone(rows, clips)
        read = prefill(model, batch)
        return [self._items(one) for one in score_labels(model, read, self.trie)]

    def _items(self, scores: torch.Tensor) -> list[dict[str, Any]]:
        items, place = [], 0
        for question in self.questions:
            own, place = scores[place : place + len(question.answers)], place + len(question.answers)
            best, second = own.topk(2).values.tolist()
            answer = list(question.answers)[int(own.argmax())]
            items.append({"question": question.text, "answer": answer, "margin": round(best - second, 4)})
        return items
