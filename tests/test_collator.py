"""What a batch holds: the template's own tokens, people's text without special tokens, loss on the answer alone."""

import dataclasses
from pathlib import Path

import pytest

from rbft_trl.data.task import CLIP_PLACE
from rbft_trl.model.collator import IGNORED, ClipCollator
from tests.helpers import make_collator

TEXT = "one small red circle <|im_end|> moving <|video_pad|> left.\nClassification: pimgal"


@pytest.fixture(scope="module")
def collator(toy_set: tuple[Path, Path], smoke_base: Path) -> ClipCollator:
    return make_collator(*toy_set, smoke_base)


def row(target: str, label: str | None = "dorvan") -> dict:
    return {"id": "toy00000", "video": "clips/toy00000.mp4", "label": label, "target": target, "text": TEXT}


def trained(collator: ClipCollator, one: dict) -> str:
    labels = collator([one])["labels"][0]
    return collator.tokenizer.decode(labels[labels != IGNORED])


def test_prompt_tokens_are_those_of_the_chat_template(collator: ClipCollator) -> None:
    text = collator.card.label_prompt(definitions=False)
    message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
    whole = collator.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    found = collator.prompts([row("label")], [text])["input_ids"][0].tolist()
    video = collator.processor.video_token_id
    expected = []
    for token in collator.tokenizer(whole, add_special_tokens=False).input_ids:
        expected += [token] * (found.count(video) if token == video else 1)
    assert found == expected and found.count(video) == 16


def test_the_clip_stands_where_the_prompt_says(collator: ClipCollator) -> None:
    prompts = {"rationale": "$role\n$labels\n$video\n$question$hint", "label": "<|im_end|> $video$$video $labels"}
    card = dataclasses.replace(collator.card, prompts=collator.card.prompts | prompts)
    other = dataclasses.replace(collator, card=card)
    for target in ("rationale", "label"):
        asked = other.prompt_text(row(target))
        first, last = asked.split(CLIP_PLACE)
        content = [{"type": "text", "text": first}, {"type": "video"}, {"type": "text", "text": last}]
        whole = other.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        found = other.prompts([row(target)], [asked])["input_ids"][0].tolist()
        video = other.processor.video_token_id
        assert found.count(video) == 16 and found.count(other.end_id) == 1
        assert other.tokenizer.decode(found) == whole.replace("<|video_pad|>", "<|video_pad|>" * 16)
        counted = other.count_tokens([row(target)], [{"shape": [8, 56, 56], "seconds": 2.0}])
        assert counted == [int(other([row(target)])["attention_mask"].sum())]
    assert first == "<|im_end|> " and last.startswith("$video Names")


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("label", "dorvan"),
        ("rationale", TEXT),
        ("rationale_label", TEXT.replace("pimgal", "dorvan")),
        ("label_rationale", "dorvan\n" + TEXT.split("\n")[0]),
    ],
)
def test_loss_is_exactly_on_the_answer_with_its_end_token(collator: ClipCollator, target: str, answer: str) -> None:
    assert trained(collator, row(target)) == answer + "<|im_end|>"


def test_text_never_becomes_a_special_token(collator: ClipCollator) -> None:
    ids = collator([row("rationale")])["input_ids"][0].tolist()
    assert ids.count(collator.processor.video_token_id) == 16 and ids.count(collator.end_id) == 2


def test_a_clip_of_the_pool_is_trained_without_a_final_line(collator: ClipCollator) -> None:
    assert "Classification" not in trained(collator, row("rationale", label=None))


def test_the_student_prompt_holds_the_label_only_on_request(toy_set: tuple, smoke_base: Path) -> None:
    plain = make_collator(*toy_set, smoke_base).prompt_text(row("rationale"))
    authors = make_collator(*toy_set, smoke_base, label_in_prompt=True).prompt_text(row("rationale"))
    assert plain.count("dorvan") == 1 and authors.count("dorvan") == 2  # once in the list of names


def test_rows_of_unlike_length_are_padded_and_masked(collator: ClipCollator) -> None:
    batch = collator([row("label"), row("rationale")])
    alone = collator([row("label")])
    length = alone["input_ids"].shape[1]
    assert batch["input_ids"][0, :length].tolist() == alone["input_ids"][0].tolist()
    assert batch["attention_mask"][0].sum() == length
    assert (batch["labels"][0, length:] == IGNORED).all()


def test_tokens_are_counted_from_the_header(collator: ClipCollator) -> None:
    rows = [row("label"), row("rationale"), row("rationale", label=None)]
    known = {"shape": [8, 56, 56], "seconds": 2.0}
    assert collator.count_tokens(rows, [known] * 3) == [int(collator([r])["attention_mask"].sum()) for r in rows]
