"""Scores from texts alone and of checklists equal full forwards, on every family, right after a clip was read."""

import dataclasses

import pytest
import torch

from rbft_trl.data.checklist import Question
from rbft_trl.model.checklist import ChecklistScorer
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.inference import LabelScorer
from rbft_trl.model.rebuild import Rebuilder
from tests.test_families import Case, case, with_answers  # noqa: F401  (a fixture)

TEXTS = ["one small circle moving left.", "", "large."]


def total(logits: torch.Tensor, answer: list[int]) -> float:
    """Log-probability of the last tokens of a sequence."""
    steps = logits[0].log_softmax(-1)[-len(answer) - 1 : -1]
    return steps.gather(1, torch.tensor(answer)[:, None]).sum().item()


@torch.no_grad()
def test_scores_of_texts_equal_full_forwards(case: Case) -> None:  # noqa: F811
    collator, model = case.collator, case.model
    LabelScorer(collator).read(model, case.rows)  # leaves the positions of three clips in the module
    rebuilder = Rebuilder(collator)
    found = rebuilder.scores(model, TEXTS)
    for text, scores in zip(TEXTS, found, strict=True):
        for name, score in scores.items():
            answer = [*collator.encode(f" {name}"), collator.end_id]
            full = [
                total(model(torch.tensor([rebuilder.tokens(said) + answer])).logits, answer) for said in (text, "")
            ]
            assert score == pytest.approx(full[0] - full[1], abs=3e-5)
    assert max(map(abs, found[1].values())) < 1e-5  # no reasoning adds nothing
    assert len({round(score, 4) for score in found[0].values()}) > 3


def test_the_prompt_of_a_text_holds_no_clip_and_no_text_of_its_own(case: Case) -> None:  # noqa: F811
    collator = case.collator
    tokens = Rebuilder(collator).tokens("Flames.")
    assert collator.processor.video_token_id not in tokens
    told = collator.tokenizer.decode(tokens)
    assert told.endswith("assistant\nFlames.\nClassification:") or told.endswith(
        "</think>\n\nFlames.\nClassification:"
    )
    moved = dataclasses.replace(collator.card, prompts=collator.card.prompts | {"rationale": "$labels $video$hint"})
    other = ClipCollator(collator.processor, moved, collator.root, collator.frames, definitions=False)
    assert "\ufffc" not in collator.tokenizer.decode(Rebuilder(other).tokens(""))


QUESTIONS = (
    Question("Are they small or large?", {"small": (), "large": ()}),
    Question("Does it move?", {"yes": (), "no": (), "it is hard to say": ()}),
)


@torch.no_grad()
def test_a_checklist_is_answered_as_by_full_forwards(case: Case) -> None:  # noqa: F811
    card = dataclasses.replace(case.collator.card, checklist=QUESTIONS)
    collator = ClipCollator(case.collator.processor, card, case.collator.root, case.collator.frames, definitions=False)
    found = ChecklistScorer(collator).answer(case.model, case.rows)
    for row, items in zip(case.rows, found, strict=True):
        for question, prompt, item in zip(QUESTIONS, card.checklist_prompts(), items, strict=True):
            full = {}
            for answer in question.answers:
                tokens = [*collator.encode(answer), collator.end_id]
                batch = with_answers(collator.prompts([row], [prompt]), torch.tensor([tokens]))
                full[answer] = total(case.model(**batch).logits, tokens)
            best, second = sorted(full.values(), reverse=True)[:2]
            assert item["margin"] == pytest.approx(best - second, abs=1e-3 if case.family == "qwen3_5" else 2e-4)
            assert full[item["answer"]] == best and item["question"] == question.text
