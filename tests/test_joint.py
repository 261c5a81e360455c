"""Target `joint`: label and rationale of every row in one loss, equal to the formula of RD-MLDG (arXiv 2602.23777).

L = mean over rows of -log p(label) - 1/T sum over the rationale's T tokens of log p(token).
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rbft_trl import eval as evaluation
from rbft_trl import sft
from rbft_trl.configs import DataArguments, StageArguments
from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.errors import UserError
from rbft_trl.evidence.card import KINDS
from rbft_trl.memory import clips_of
from rbft_trl.model import collator as collator_module
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.cost import base_config
from rbft_trl.model.loading import load_base
from rbft_trl.model.provenance import read_record
from rbft_trl.plan import OPTIONS, make_plan
from rbft_trl.preview import example_of
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import open_task
from tests.helpers import base_arguments, make_collator, toy_recipe
from tests.launching import launch
from tests.test_distributed import CONFIG, expect_two
from tests.test_own_prompts import clip_rows, sample, stage_rows_of
from tests.test_training import QUICK, losses

LONG = "It moves left, then it moves right, and at the end it stands still in a corner for a while."


@pytest.fixture(scope="module")
def collator(toy_set: tuple[Path, Path], smoke_base: Path) -> ClipCollator:
    return make_collator(*toy_set, smoke_base)


@pytest.fixture(scope="module")
def file(toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rationales.jsonl of the draw with 2 shots: long and short ones, one dropped, and 8 of the pool."""
    data = DataArguments(task=str(toy_set[0]), shots=2, min_pixels=3136, max_pixels=3136)
    rows = [row for row in open_task(data, base_arguments(smoke_base)).rows if row["split"] == "train"]
    samples = []
    for number, row in enumerate(rows):
        text = LONG if number % 2 else "It moves."
        samples.append(sample(row, text if row["label"] is None else f"{text}\nClassification: {row['label']}"))
    samples[0] |= {"verdict": "dropped", "reason": "cut"}
    assert rows[0]["label"] is not None
    path = tmp_path_factory.mktemp("joint") / "r.jsonl"
    write_jsonl(path, samples)
    return path


def by_hand(model: torch.nn.Module, collator: ClipCollator, row: dict[str, Any]) -> torch.Tensor:
    """One row's loss from full forwards over its sequences, each alone and without padding."""
    loss = torch.zeros(())
    asked = []
    if row["label"] is not None:
        asked.append((collator.label_prompt(row), row["label"], "sum"))
    if row["text"]:
        text = row["text"] if row["label"] is not None else collator.card.without_final_line(row["text"])
        asked.append((collator.rationale_prompt(row), text, "mean"))
    for prompt, answer, how in asked:
        batch = collator.prompts([row], [prompt])
        ids = torch.tensor([[*collator.encode(answer), collator.end_id]])
        start = batch["input_ids"].shape[1]
        batch |= {
            "input_ids": torch.cat([batch["input_ids"], ids], 1),
            "attention_mask": torch.ones(1, start + ids.shape[1], dtype=torch.long),
            "mm_token_type_ids": torch.cat([batch["mm_token_type_ids"], torch.zeros_like(ids)], 1),
        }
        logprobs = model(**batch).logits.log_softmax(-1)[0, start - 1 : -1]
        said = logprobs.gather(1, ids.T).squeeze(1)
        loss = loss - (said.sum() if how == "sum" else said.mean())
    return loss


def test_the_loss_is_the_formula(
    toy_set: tuple, smoke_base: Path, collator: ClipCollator, file: Path, tmp_path: Path
) -> None:
    recipe = joint_recipe(toy_set, smoke_base, file, tmp_path, lora_dropout=0.0)
    plan = make_plan(*parse_recipe([recipe], *OPTIONS))
    trainer = sft.make_trainer(plan)
    assert type(trainer).__name__ == "JointTrainer"
    labelled = [row for row in plan.train if row["label"] is not None]
    rows = [*labelled[:3], labelled[-1], next(row for row in plan.train if row["label"] is None)]
    assert rows[3]["text"] == "" and len({row["text"] for row in rows}) > 3  # the clip whose rationale was dropped
    model = load_base(base_arguments(smoke_base), device="cpu").eval()
    with torch.no_grad():
        expected = sum(by_hand(model, collator, row) for row in rows) / len(rows)
        batch = collator(rows)
        trainer.model.train()
        found = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=batch["loss_items"].sum())
        weighed = [row | {"weight": 2.0} for row in rows]
        double = trainer.compute_loss(trainer.model, collator(weighed), num_items_in_batch=len(rows))
    assert len(batch["input_ids"]) == 8 and batch["loss_items"].sum() == 5
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert float(double) == pytest.approx(2 * float(expected), rel=1e-6)


def test_the_clip_is_read_once_and_the_label_learnt_from_it_as_it_is(
    collator: ClipCollator, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = clip_rows(collator)[0] | {"target": "joint", "text": "Backwards.", "prompt": "Which way?"}
    module = collator_module
    asked, real = [], module.read_row
    monkeypatch.setattr(module, "read_row", lambda *args, **how: asked.append(1) or real(*args, **how))
    batch = collator([row | {"order": "reversed"}])
    assert len(asked) == 1
    label = collator([row | {"target": "label", "prompt": None, "order": None}])
    text = collator([row | {"target": "rationale", "order": "reversed"}])
    expected = torch.cat([label["pixel_values_videos"], text["pixel_values_videos"]])
    assert torch.equal(batch["pixel_values_videos"], expected)
    for i, alone in enumerate((label, text)):
        ids = batch["input_ids"][i][batch["attention_mask"][i].bool()]
        assert torch.equal(ids, alone["input_ids"][0])


def test_lengths_and_the_example_count_both_sequences(collator: ClipCollator, smoke_base: Path) -> None:
    joint = clip_rows(collator)[0] | {"target": "joint", "text": f"{LONG}\nClassification: dorvan"}
    known = [{"shape": [8, 56, 56], "seconds": 2.0}]
    label, text = (collator.count_tokens([joint | {"target": t}], known)[0] for t in ("label", "rationale"))
    assert collator.count_tokens([joint], known) == [text] and text > label
    example = example_of(collator, joint)
    assert example["tokens"] == label + text and example["video_tokens"] == 32
    vision = base_config(str(smoke_base)).vision_config
    (clip,) = clips_of(collator, [joint], known, vision)
    assert clip.tokens(vision.spatial_merge_size) == 2 * text


def joint_recipe(toy_set: tuple, base: Path, file: Path, folder: Path, **changes: Any) -> str:
    changes = QUICK | {"target": "joint", "rationales": file, "output_dir": folder / "joint"} | changes
    return toy_recipe("stage1", folder, toy_set[0], base, **changes)


def test_accumulation_and_processes_change_nothing(
    toy_set: tuple, smoke_base: Path, file: Path, tmp_path: Path
) -> None:
    """4 rows at once, 1 row four times, and 2 rows on each of 2 processes: the same losses and weights."""
    common = {"max_steps": 3, "logging_steps": 1, "train_parts": ["llm"], "lora_dropout": 0.0}
    for name, batch, accumulation in (("4x1", 4, 1), ("1x4", 1, 4)):
        changes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        sft.main([joint_recipe(toy_set, smoke_base, file, tmp_path, **common, **changes, output_dir=tmp_path / name)])
    recipe = joint_recipe(toy_set, smoke_base, file, tmp_path, **common, output_dir=tmp_path / "two")
    expect_two(
        launch(tmp_path, CONFIG, "sft", recipe, "--per_device_train_batch_size", "2"),
        wrapper="_Weighed",  # around DDP, as equal weights show
    )
    one = load_file(tmp_path / "4x1/adapter_model.safetensors")
    for name in ("1x4", "two"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "4x1"), abs=2e-4)  # logged with 4 digits
        other = load_file(tmp_path / name / "adapter_model.safetensors")
        assert max(float((one[key] - other[key]).abs().max()) for key in one) < 1e-4, name  # of updates of 2e-3
        assert read_record(tmp_path / name)["presentations"] == read_record(tmp_path / "4x1")["presentations"]


def test_a_joint_stage_validates_and_is_scored_on_labels(
    toy_set: tuple, smoke_base: Path, file: Path, tmp_path: Path
) -> None:
    changes = {"eval_strategy": "steps", "eval_steps": 2, "per_device_train_batch_size": 2, "class_balance": "weights"}
    record = sft.main([joint_recipe(toy_set, smoke_base, file, tmp_path, **changes)])
    evaluated = [entry for entry in record["curves"] if "eval_accuracy" in entry]
    assert record["target"] == "joint" and len(evaluated) == 1 and evaluated[0]["eval_loss"] > 0
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "eval")
    assert evaluation.main([recipe, "--checkpoint", str(tmp_path / "joint")])["n"] == 24
    assert json.loads((tmp_path / "joint/rbft.json").read_text())["target"] in KINDS


def test_joint_rows(collator: ClipCollator, tmp_path: Path) -> None:
    """Every kept rationale, those of the pool, and the label alone of a clip without one."""
    rows = clip_rows(collator)
    texts = {row["id"]: f"It moves.\nClassification: {row['label']}" for row in rows}
    extra = {"id": "z", "video": "clips/toy00000.mp4", "label": rows[0]["label"], "split": "train"}
    samples = [sample(row, texts[row["id"]]) for row in rows]
    samples += [sample(extra, "It", verdict="dropped", reason="too_short")]
    _, made = stage_rows_of(collator, [*rows, extra], samples, tmp_path, "joint")
    assert [row["text"] for row in made] == [*texts.values(), ""]
    kinds = [[part["target"] for part in collator.parts(row)] for row in made]
    assert kinds == [["label", "rationale"]] * 8 + [["rationale"], ["label"]]


def test_joint_needs_rationales() -> None:
    with pytest.raises(UserError, match="target 'joint' needs 'rationales'"):
        StageArguments(init="base", target="joint")
