"""A clip is read once: the trie equals full forwards, one prefill serves scoring and n samples."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rbft_trl import sft
from rbft_trl.data.rows import load_rows
from rbft_trl.model.families import vision_tower
from rbft_trl.model.inference import LabelScorer, LabelTrie, prefill, sample, score_labels
from rbft_trl.model.loading import load_base
from tests.helpers import base_arguments, make_collator


@pytest.fixture(scope="module")
def reader(toy_set: tuple[Path, Path], smoke_base: Path) -> tuple:
    card, root = toy_set
    collator = make_collator(card, root, smoke_base)
    model = load_base(base_arguments(smoke_base), device="cpu").eval()
    rows = [row for row in load_rows(collator.card) if row["split"] == "test"][:9]
    return model, collator, rows


def naive_scores(model: torch.nn.Module, scorer: LabelScorer, row: dict) -> list[tuple[float, int]]:
    """(sum of log-probabilities, tokens) of each label by a full forward over prompt and label, nothing shared."""
    scores = []
    for name in scorer.names:
        batch = scorer.collator.prompts([row], [scorer.collator.label_prompt(row)])
        answer = [*scorer.collator.encode(name), scorer.collator.end_id]
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([answer])], dim=1)
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        zeros = torch.zeros(1, len(answer), dtype=torch.long)
        batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], zeros], dim=1)
        with torch.no_grad():
            logprobs = model(**batch).logits[0].log_softmax(-1)
        steps = logprobs[-len(answer) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
        scores.append((steps.sum().item(), len(answer)))
    return scores


def test_trie_equals_naive_full_forwards(reader: tuple) -> None:
    model, collator, rows = reader
    scorer = LabelScorer(collator)
    scores = scorer.read(model, rows)[1]
    for row, found in zip(rows, scores, strict=True):
        expected = torch.tensor([total for total, _ in naive_scores(model, scorer, row)])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert found.argmax() == expected.argmax()


def test_mean_divides_by_the_tokens(reader: tuple) -> None:
    model, collator, rows = reader
    scores = LabelScorer(collator, how="mean").read(model, rows[:1])[1][0]
    expected = [total / tokens for total, tokens in naive_scores(model, LabelScorer(collator), rows[0])]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_label_that_begins_another_has_a_score_of_its_own(reader: tuple) -> None:
    model, collator, rows = reader
    short = collator.encode("dor")
    labels = [short, [*short, *collator.encode("van")]]
    read = prefill(model, collator.prompts(rows[:1], ["Which?"]))
    scores = score_labels(model, read, LabelTrie.build(labels, collator.end_id))[0]
    first = read.logits.log_softmax(-1)[0, short[0]]
    assert scores[0] != scores[1] and scores.max() < first  # the end token is part of both


def test_shared_beginnings_are_fed_once() -> None:
    trie = LabelTrie.build([[1, 2, 3], [1, 2], [1, 4]], end_id=9)
    assert trie.tokens == [1, 2, 3, 4] and trie.parents == [-1, 0, 1, 0] and trie.depths == [0, 1, 2, 1]
    assert trie.paths[1] == [(-1, 1), (0, 2), (1, 9)]
    assert trie.mask().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]


def test_one_prefill_per_clip_for_scoring_and_for_n_samples(reader: tuple) -> None:
    model, collator, rows = reader
    tower_calls, prompts = [], []
    hooks = [
        vision_tower(model).register_forward_hook(lambda *_: tower_calls.append(1)),
        model.model.language_model.register_forward_pre_hook(
            lambda _, __, kwargs: prompts.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
        ),
    ]
    scorer = LabelScorer(collator)
    read, _ = scorer.read(model, rows)
    width = read.mask.shape[1]
    kept = {"end_id": collator.end_id, "pad_id": collator.tokenizer.pad_token_id}
    tokens = sample(model, read, **kept, num_samples=4, temperature=1.0, max_new_tokens=5, seed=3)
    for hook in hooks:
        hook.remove()
    assert len(tower_calls) == 1 and tokens.shape[0] == 4 * len(rows)
    assert [shape for shape in prompts if shape[1] == width] == [(len(rows), width)]
    assert prompts[1] == (len(rows), len(scorer.trie.tokens)) and all(s == (4 * len(rows), 1) for s in prompts[2:])


def test_scoring_leaves_the_cache_for_a_greedy_answer_equal_to_generate(reader: tuple) -> None:
    model, collator, rows = reader
    scorer = LabelScorer(collator)
    read, _ = scorer.read(model, rows)
    kept = {"end_id": collator.end_id, "pad_id": collator.tokenizer.pad_token_id}
    found = sample(model, read, **kept, max_new_tokens=8)
    batch = collator.prompts(rows, [collator.label_prompt(row) for row in rows])
    expected = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert found.tolist() == expected.tolist()


def test_a_batch_has_its_own_generator(reader: tuple) -> None:
    model, collator, rows = reader
    settings = {"end_id": collator.end_id, "pad_id": collator.tokenizer.pad_token_id, "num_samples": 3}
    settings |= {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 6}

    def texts(seed: int) -> list:
        return sample(
            model, prefill(model, collator.prompts(rows, ["Say."] * len(rows))), **settings, seed=seed
        ).tolist()

    first = texts(1)
    torch.manual_seed(999)
    assert texts(1) == first and texts(2) != first


def test_padding_does_not_change_a_score(reader: tuple) -> None:
    model, collator, rows = reader
    read = prefill(model, collator.prompts(rows[:2], ["Which?", "Which one of these is it, in one word, please?"]))
    alone = prefill(model, collator.prompts(rows[:1], ["Which?"]))
    torch.testing.assert_close(read.logits[0], alone.logits[0], atol=1e-5, rtol=0)
    trie = LabelTrie.build([collator.encode(n) for n in collator.card.names], collator.end_id)
    torch.testing.assert_close(
        score_labels(model, read, trie)[0], score_labels(model, alone, trie)[0], atol=1e-5, rtol=0
    )


def test_a_model_that_reasons_first_is_validated_so(reader: tuple) -> None:
    model, collator, rows = reader
    scorer = LabelScorer(collator)
    best = scorer.reasoned(model, rows, max_new_tokens=256)[2].argmax(-1).tolist()
    right = [(row["id"], collator.card.names[i] == row["label"]) for i, row in zip(best, rows, strict=True)]
    assert scorer.right(model, rows, batch_size=9, reasons_first=True) == right


@pytest.mark.parametrize("target", ["label", "rationale_label", "label_rationale"])
def test_validation_decides_as_the_stage_answers(reader: tuple, target: str) -> None:
    training, task = SimpleNamespace(per_device_eval_batch_size=3), SimpleNamespace(card=reader[1].card)
    plan = SimpleNamespace(stage=SimpleNamespace(target=target), training=training, task=task, collator=reader[1])
    assert sft.validation_scorer(plan).keywords == {"batch_size": 3, "reasons_first": target == "rationale_label"}
