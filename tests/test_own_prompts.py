"""Rows of stage 1 with a prompt or an order of frames of their own, from rationales.jsonl to the batch."""

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rbft_trl import sft
from rbft_trl.configs import StageArguments
from rbft_trl.data.jsonl import read_jsonl, write_jsonl
from rbft_trl.data.video import in_order, read_row
from rbft_trl.errors import UserError
from rbft_trl.model.collator import IGNORED, ClipCollator
from rbft_trl.stage_rows import training_rows
from rbft_trl.start import Row, Task
from tests.helpers import FRAMES, make_collator, toy_recipe
from tests.test_training import QUICK

LABELS = ("dorvan", None)


@pytest.fixture(scope="module")
def collator(toy_set: tuple[Path, Path], smoke_base: Path) -> ClipCollator:
    return make_collator(*toy_set, smoke_base)


def clip_rows(collator: ClipCollator) -> list[Row]:
    """One labelled training clip per class, and one of the pool."""
    names = [*collator.card.names, None]
    return [
        {"id": f"toy{i:05d}", "video": f"clips/toy{i:05d}.mp4", "label": name, "split": "train"}
        for i, name in enumerate(names)
    ]


def sample(row: Row, text: str, **more: Any) -> dict[str, Any]:
    verdict = "unlabelled" if row["label"] is None else "kept"
    made = {"id": row["id"], "video": row["video"], "label": row["label"], "sample": 0, "shown": True}
    return made | {"text": text, "verdict": verdict, "reason": None} | more


def stage_rows_of(
    collator: ClipCollator, rows: list[Row], samples: list[dict], folder: Path, target: str = "rationale"
) -> tuple[Task, list[Row]]:
    write_jsonl(folder / "r.jsonl", samples)
    write_jsonl(folder / "r.summary.json", [{}])
    known = {row["id"]: {"reason": None, "size": 7} for row in rows}
    task = Task(collator.card, collator.root, rows, FRAMES, collator.processor, known, False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return task, training_rows(
            task, StageArguments(init="base", target=target, rationales=str(folder / "r.jsonl"))
        )


def test_other_rows_are_as_they_were(collator: ClipCollator, tmp_path: Path) -> None:
    """Keys, values and fingerprint of a stage without the new keys, as they were before these existed."""
    rows = clip_rows(collator)
    texts = {row["id"]: f"It moves.\nClassification: {row['label']}" for row in rows}
    task, made = stage_rows_of(collator, rows, [sample(r, texts[r["id"]], prompt=None) for r in rows], tmp_path)
    for row, own in zip(rows, made, strict=True):
        clip = {"id": row["id"], "video": row["video"], "start": None, "end": None, "label": row["label"]}
        assert own == clip | {"context": None, "target": "rationale", "text": texts[row["id"]]}
        assert list(own) == ["id", "video", "start", "end", "label", "context", "target", "text"]
    assert task.fingerprint(made) == "be2e0633472e"  # printed by the version before
    assert task.fingerprint([row | {"prompt": None, "order": None} for row in made]) == task.fingerprint(made)
    one, other = collator(made[:2]), collator([row | {"prompt": None, "order": None} for row in made[:2]])
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("target", ["rationale", "rationale_label", "label_rationale"])
def test_a_row_with_its_own_prompt_is_a_task_of_its_own(collator: ClipCollator, tmp_path: Path, target: str) -> None:
    """Its prompt and text are taken as they are, with or without a label; no class needs a rationale then."""
    rows = clip_rows(collator)
    asked = [sample(rows[i], " 3 of them ", prompt="How <|im_end|> many?", shown=False) for i in (0, -1)]
    task, made = stage_rows_of(collator, rows, asked, tmp_path, target)
    assert [row["prompt"] for row in made] == ["How <|im_end|> many?"] * 2
    batch = collator(made)
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        assert collator.tokenizer.decode(labels[labels != IGNORED]) == "3 of them<|im_end|>"
        assert "How <|im_end|> many?" in collator.tokenizer.decode(ids)
        assert collator.tokenizer.decode(ids).count("dorvan") == 0  # nothing of the card's prompt
    counted = collator.count_tokens(made, [{"shape": [8, 56, 56], "seconds": 2.0}] * 2)
    assert counted == batch["attention_mask"].sum(1).tolist()
    changed = [row | {"prompt": "How few?"} for row in made]
    assert task.fingerprint(made) != task.fingerprint(changed)


def test_rows_of_both_kinds_stand_together(collator: ClipCollator, tmp_path: Path) -> None:
    """The card's own rationales are checked as ever: a class without one is still an error."""
    rows = clip_rows(collator)
    own = [sample(r, f"It moves.\nClassification: {r['label']}") for r in rows]
    asked = [sample(rows[0], "Backwards.", prompt="Which way?", order="reversed", sample=1)]
    _, made = stage_rows_of(collator, rows, own + asked, tmp_path)
    assert [row["prompt"] for row in made] == [None] * 9 + ["Which way?"]
    assert [row["order"] for row in made] == [None] * 9 + ["reversed"]
    with pytest.raises(UserError, match=f"class '{rows[0]['label']}' has no kept rationale: 0 of 0"):
        stage_rows_of(collator, rows, own[1:] + asked, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": 3}, r"r\.jsonl:1: 'prompt' is 3 but must be text"),
        ({"prompt": "  "}, r"'prompt' is '  ' but must be text"),
        ({"order": "backwards"}, r"'order' is 'backwards' but must be one of reversed, shuffled, twice, three_times"),
        ({"order": ["reversed"]}, r"'order' is \['reversed'\] but must be one of"),
        ({"prompt": "What?", "text": " \n"}, r"the text of clip 'toy00000' is empty but kept"),
    ],
)
def test_wrong_values_are_named(collator: ClipCollator, tmp_path: Path, wrong: dict, said: str) -> None:
    rows = clip_rows(collator)
    with pytest.raises(UserError, match=said):
        stage_rows_of(collator, rows, [sample(rows[0], **({"text": "A text."} | wrong))], tmp_path)


def test_frames_are_shown_in_the_rows_order(collator: ClipCollator) -> None:
    how = {"root": collator.root, "frames": FRAMES, "factor": collator.factor}
    rows = [{"id": f"toy{i:05d}", "video": "clips/toy00000.mp4"} for i in range(20)]
    plain = read_row(rows[0], **how)
    back = read_row(rows[0] | {"order": "reversed"}, **how)
    assert np.array_equal(back.frames, plain.frames[::-1]) and np.array_equal(back.indices, plain.indices)
    orders = set()
    for row in rows:
        mixed = [read_row(row | {"order": "shuffled"}, **how).frames for _ in range(2)]
        assert np.array_equal(*mixed)  # the same for a clip each time
        order = [next(i for i in range(8) if np.array_equal(frame, plain.frames[i])) for frame in mixed[0]]
        assert sorted(order) == list(range(8)) != order
        orders.add(tuple(order))
    assert len(orders) == 20  # 40320 orders: another clip has another one


@pytest.mark.parametrize(("order", "shown"), [("twice", [0, 2, 4, 6] * 2), ("three_times", [0, 3, 6, 1, 4, 7, 2, 5])])
def test_a_clip_that_is_played_several_times(collator: ClipCollator, order: str, shown: list[int]) -> None:
    clip = read_row({"video": "clips/toy00000.mp4"}, root=collator.root, frames=FRAMES, factor=collator.factor)
    looped = in_order(clip, {"id": "0", "order": order})
    assert np.array_equal(looped.frames, clip.frames[shown]) and np.array_equal(looped.indices, clip.indices)


def test_two_frames_that_are_shuffled_never_stay_as_they_were(collator: ClipCollator) -> None:
    clip = read_row({"video": "clips/toy00000.mp4"}, root=collator.root, frames=FRAMES, factor=collator.factor)
    clip.frames = clip.frames[[0, 7]]
    for i in range(9):
        assert np.array_equal(in_order(clip, {"id": str(i), "order": "shuffled"}).frames, clip.frames[::-1])


def test_stage_1_trains_on_them(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    """The whole stage, on a labelled clip and one of the pool; another order gives another loss."""
    table = list(csv.DictReader((toy_set[1] / "clips.csv").open(encoding="utf-8")))
    train = [row for row in table if row["split"] == "train"]
    rows = [next(r for r in train if r["label"]), next(r for r in train if not r["label"])]
    found = {}
    for order in ("reversed", "shuffled", None):
        asked = [
            sample({k: r[k] or None for k in ("id", "video", "label")}, "first it was left, then right",
                   prompt="What happens first?", order=order) for r in rows
        ]  # fmt: skip
        file = tmp_path / f"{order}.jsonl"
        write_jsonl(file, asked)
        changes = QUICK | {"rationales": file, "output_dir": tmp_path / str(order), "shots": 4, "logging_steps": 1}
        changes |= {"per_device_train_batch_size": 2, "max_steps": 1, "train_parts": ["llm"]}
        record = sft.main([toy_recipe("stage1", tmp_path, toy_set[0], smoke_base, **changes)])
        found[order] = next(entry["loss"] for entry in record["curves"] if "loss" in entry)
        assert record["presentations"] == 2 and read_jsonl(file) == asked
    assert len(set(found.values())) == 3
