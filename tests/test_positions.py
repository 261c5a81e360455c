"""Positions of an answer behind a clip that reaches further than its prompt, in every family."""

import dataclasses

import numpy as np
import torch

from rbft_trl.model.inference import LabelScorer, prefill, score_labels
from tests.test_families import Case, case, with_answers

__all__ = ["case"]  # the fixture


@torch.no_grad()
def test_scores_behind_a_clip_that_reaches_further_than_its_prompt(case: Case) -> None:
    """On Qwen2-VL and Qwen2.5-VL text goes on from a clip's height and width, so that the frames of a long clip have
    larger positions than the last word of a short prompt; training goes on from the word, and so must a score."""
    collator = case.collator
    short = [collator.read_row(row) for row in case.rows]
    long = [
        dataclasses.replace(
            clip, frames=np.concatenate([clip.frames] * 6), indices=np.arange(48), fps=2.0, total_frames=48
        )
        for clip in short
    ]
    batch = collator.prompts(case.rows, ["?"] * len(case.rows), clips=long)
    positions = case.model.model.get_rope_index(**batch)[0]
    assert (positions.max() > positions[..., -1].max()) == (case.family in ("qwen2_vl", "qwen2_5_vl"))
    scorer = LabelScorer(collator)
    found = score_labels(case.model, prefill(case.model, batch), scorer.trie)
    for number, label in enumerate(collator.card.names):
        answer = torch.tensor([[*collator.encode(label), collator.end_id]] * len(case.rows))
        full = case.model(**with_answers(batch, answer)).logits.log_softmax(-1)[:, -answer.shape[1] - 1 : -1]
        expected = full.gather(-1, answer[..., None]).sum((1, 2))
        torch.testing.assert_close(found[:, number], expected, atol=1e-5, rtol=0)
