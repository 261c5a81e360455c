"""Real trainers on a tiny Qwen2-VL and real clips: what moves, what does not, and what must be equal."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rbft_trl import rationales, sft
from rbft_trl.configs import AdapterArguments
from rbft_trl.data.jsonl import read_json, write_json
from rbft_trl.errors import UserError
from rbft_trl.model.families import part_of
from rbft_trl.model.loading import load_base, load_for_inference, prepare_for_training, trainable_parameters
from rbft_trl.model.provenance import read_record
from tests.helpers import base_arguments, make_collator, toy_recipe

QUICK = {"max_steps": 2, "per_device_train_batch_size": 4, "eval_strategy": "no", "save_strategy": "no"}
QUICK |= {"load_best_model_at_end": False}


@pytest.fixture(scope="module")
def stage1(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """(rationales.jsonl, folder of a trained stage 1)."""
    folder = tmp_path_factory.mktemp("stage1")
    file = folder / "rationales.jsonl"
    common = {"output_file": file, "checks": "none", "label_shown": "hint", "max_new_tokens": 8}
    rationales.main([toy_recipe("rationales", folder, toy_set[0], smoke_base, **common)])
    out = folder / "stage1"
    sft.main([toy_recipe("stage1", folder, toy_set[0], smoke_base, rationales=file, output_dir=out, **QUICK)])
    return file, out


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_record(folder)["curves"] if "loss" in entry]


def test_stage2_starts_with_exactly_the_logits_that_stage1_ended_with(
    stage1: tuple, toy_set: tuple, smoke_base: Path
) -> None:
    args, collator = base_arguments(smoke_base), make_collator(*toy_set, smoke_base)
    ended = load_for_inference(args, str(stage1[1]), device="cpu")
    begun = prepare_for_training(load_base(args, device="cpu"), AdapterArguments(), adapter=str(stage1[1])).eval()
    base = load_base(args, device="cpu").eval()
    batch = collator.prompts([{"video": "clips/toy00000.mp4"}], [collator.card.label_prompt()])
    with torch.no_grad():
        first, second, untouched = (model(**batch).logits for model in (ended, begun, base))
    assert torch.equal(first, second) and not torch.equal(first, untouched)


def test_stage2_continues_the_adapter_and_records_its_parent(
    stage1: tuple, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe(
        "stage2", tmp_path, toy_set[0], smoke_base, init=stage1[1], output_dir=tmp_path / "s2", **QUICK
    )
    record = sft.main([recipe])
    assert record["init"] == read_record(stage1[1])["weights"] != record["weights"]
    assert record["presentations"] == 2 * 4 and record["steps"] == 2
    assert (tmp_path / "s2/task_card.yaml").is_file() and record["recipe"]["learning_rate"] == 2e-3


@pytest.mark.parametrize("parts", [["llm"], ["merger"], ["llm", "merger", "vision"]])
@pytest.mark.parametrize("use_peft", [True, False])
def test_every_trained_parameter_moves_and_no_frozen_one(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, parts: list[str], use_peft: bool
) -> None:
    changes = {"train_parts": parts, "use_peft": use_peft, "output_dir": tmp_path / "run", "max_steps": 3}
    changes |= {} if use_peft else {"lora_r": ..., "lora_alpha": ..., "lora_dropout": ...}
    sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **(QUICK | changes))])
    model = load_base(base_arguments(smoke_base), device="cpu")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    args = base_arguments(smoke_base)
    after = dict(load_for_inference(args, str(tmp_path / "run"), device="cpu").named_parameters())
    if use_peft:
        found = {part_of(n) for n in load_file(tmp_path / "run/adapter_model.safetensors")}
        assert found == set(parts)
        moved = {n: p for n, p in load_file(tmp_path / "run/adapter_model.safetensors").items() if "lora_B" in n}
        assert moved and all(p.abs().sum() > 0 for p in moved.values())  # B starts at 0: it moved
        frozen = {
            n.replace("base_model.model.", "").replace(".base_layer", ""): p
            for n, p in after.items()
            if "lora" not in n
        }
        assert all(torch.equal(before[n], p) for n, p in frozen.items() if n in before)
    else:
        for name, parameter in before.items():
            same = torch.equal(parameter, after[name])
            assert same != (part_of(name) in parts), name


def test_parts_have_learning_rates_of_their_own(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    changes = {"learning_rate_vision": 0.0, "learning_rate_merger": 1e-3, "output_dir": tmp_path / "run"}
    sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **(QUICK | changes))])
    adapter = load_file(tmp_path / "run/adapter_model.safetensors")
    moved = {
        part: [p.abs().sum() for n, p in adapter.items() if "lora_B" in n and part_of(n) == part]
        for part in ("llm", "merger", "vision")
    }
    assert all(x == 0 for x in moved["vision"]) and all(x > 0 for x in moved["merger"] + moved["llm"])


def test_stage2_may_train_fewer_parts_and_resumes_with_them(
    stage1: tuple, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    """What stage 1 taught the tower stays; a resumed run must not wake it."""
    common = QUICK | {"train_parts": ["llm"], "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    common |= {"init": stage1[1], "logging_steps": 1, "save_total_limit": ...}
    adapters = {"stage1": load_file(stage1[1] / "adapter_model.safetensors")}
    for name in ("straight", "broken"):
        recipe = toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, **common, output_dir=tmp_path / name)
        sft.main([recipe])
        if name == "broken":
            for file in ("rbft.json", "adapter_model.safetensors", "checkpoint-4/trainer_state.json"):
                (tmp_path / name / file).unlink()
            sft.main([recipe, "--resume_from_checkpoint", "true"])
        adapters[name] = load_file(tmp_path / name / "adapter_model.safetensors")
    for name, weights in adapters["straight"].items():
        assert torch.equal(weights, adapters["stage1"][name]) == (part_of(name) != "llm"), name
        assert torch.equal(weights, adapters["broken"][name]), name
    few = toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, init=tmp_path / "x", output_dir=tmp_path / "y")
    sft.main([toy_recipe("stage1", tmp_path, toy_set[0], smoke_base, rationales=stage1[0], train_parts=["llm"],
                         output_dir=tmp_path / "x", **QUICK)])  # fmt: skip
    with pytest.raises(UserError, match=r"train_parts holds 'merger' but '.*x' was trained on \['llm'\]"):
        sft.main([few])


def test_one_by_four_and_four_by_one_give_the_same_loss(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    common = QUICK | {"max_steps": 3, "logging_steps": 1}
    for name, batch, accumulation in (("4x1", 4, 1), ("1x4", 1, 4)):
        changes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        sft.main(
            [toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **(common | changes), output_dir=tmp_path / name)]
        )
    assert losses(tmp_path / "4x1") == pytest.approx(losses(tmp_path / "1x4"), abs=2e-5)


def test_activation_checkpointing_changes_nothing(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    for name, on in (("off", False), ("on", True)):
        changes = {"activation_checkpointing": on, "output_dir": tmp_path / name, "logging_steps": 1}
        sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **(QUICK | changes))])
    assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), abs=1e-5)


def test_qlora_trains_on_a_cpu_and_the_tower_stays_out_of_4_bit(
    toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    changes = {"load_in_4bit": True, "dtype": "bfloat16", "train_parts": ["llm"], "output_dir": tmp_path / "q"}
    record = sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **(QUICK | changes))])
    args = base_arguments(smoke_base, load_in_4bit=True, dtype="bfloat16")
    model = load_for_inference(args, str(tmp_path / "q"), device="cpu")
    quantised = {part_of(n) for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}
    tower = {p.dtype for n, p in model.named_parameters() if part_of(n) != "llm"}
    assert quantised == {"llm"} and tower == {torch.bfloat16} and record["steps"] == 2
    moved = load_file(tmp_path / "q/adapter_model.safetensors")
    assert all(p.abs().sum() > 0 for n, p in moved.items() if "lora_B" in n)


def test_resumed_training_equals_the_straight_run(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    common = QUICK | {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "save_total_limit": ...,
    }
    common |= {"lora_dropout": 0.1}
    straight = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **common, output_dir=tmp_path / "straight")
    sft.main([straight])
    broken = tmp_path / "broken"
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **common, output_dir=broken)
    sft.main([recipe])
    for name in ("rbft.json", "adapter_model.safetensors", "checkpoint-6/trainer_state.json"):
        (broken / name).unlink()  # as if it had been killed while checkpoint 6 was written
    progress = read_json(broken / "checkpoint-4/progress.json")
    assert progress["seconds"] > 0
    (broken / "checkpoint-4/progress.json").write_text(json.dumps(progress | {"seconds": 1000 + progress["seconds"]}))
    whole = read_json(broken / "checkpoint-4/whole.json")
    whole["files"]["progress.json"] = (broken / "checkpoint-4/progress.json").stat().st_size
    write_json(broken / "checkpoint-4/whole.json", whole)
    record = sft.main([recipe, "--resume_from_checkpoint", "true"])
    assert 1000 + progress["seconds"] < record["seconds"] < 2000
    assert record["steps"] == 6 and record["presentations"] == read_record(tmp_path / "straight")["presentations"]
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("straight", "broken"))
    assert all(torch.equal(first[n], second[n]) for n in first) and losses(broken) == losses(tmp_path / "straight")
    assert sft.main([recipe, "--resume_from_checkpoint", "true"]) == record  # nothing left to do


def test_resume_refuses_another_recipe(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **QUICK, output_dir=tmp_path / "run")
    sft.main([recipe])
    with pytest.raises(UserError, match="learning_rate"):
        sft.main([recipe, "--resume_from_checkpoint", "true", "--learning_rate", "1e-5"])


def test_validation_is_scored_and_the_best_checkpoint_is_kept(
    toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    changes = {"output_dir": tmp_path / "run", "max_steps": ..., "num_train_epochs": 2}
    changes |= {"per_device_train_batch_size": 4}
    changes |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    record = sft.main([toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, init="base", **changes)])
    accuracies = [entry["eval_accuracy"] for entry in record["curves"] if "eval_accuracy" in entry]
    assert len(accuracies) == 2 and record["best_validation"] == max(accuracies)
    assert all(0 <= a <= 1 and (a * 16).is_integer() for a in accuracies)  # 16 validation clips


def test_rows_that_are_too_long_stop_the_run_before_step_1(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    changes = QUICK | {"max_length": 30, "output_dir": tmp_path / "run"}
    with pytest.raises(UserError, match=r"max_length = 30 tokens.*toy0"):
        sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)])


def test_a_frozen_tower_leaves_loss_and_gradients_unchanged(toy_set: tuple, smoke_base: Path) -> None:
    collator = make_collator(*toy_set, smoke_base)
    batch = collator([{"video": "clips/toy00000.mp4", "label": "dorvan", "target": "label", "text": ""}])
    results = []
    for cut in (True, False):
        torch.manual_seed(0)
        model = prepare_for_training(
            load_base(base_arguments(smoke_base), device="cpu"), AdapterArguments(lora_dropout=0)
        )
        if not cut:  # the tower with its graph, as PEFT and checkpointing would run it
            tower = model.get_base_model().model.visual
            tower.forward = type(tower).forward.__get__(tower)
            tower.patch_embed.register_forward_hook(lambda _, __, out: out.requires_grad_(True))
        loss = model(**batch).loss
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for _, _, p in trainable_parameters(model)]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_the_record_says_what_was_done(stage1: tuple) -> None:
    record = json.loads((stage1[1] / "rbft.json").read_text())
    assert record["target"] == "rationale" and record["init"] == "base" and record["frames"]["num_frames"] == 8
    assert {"trl", "transformers", "torch"} <= record["versions"].keys()
    assert any("answer_tokens" in entry for entry in record["curves"])
