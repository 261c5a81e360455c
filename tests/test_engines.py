"""The shipped launch files on two CPU processes: both stages, a kill and a resume, equal to one process.

Real processes (gloo) with a limit of time; each says which engine it really was. What is refused is in test_matrix.py.
"""

import socket
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from trl import SFTTrainer

from rbft_trl import check, rationales, sft
from rbft_trl import eval as evaluation
from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.model.provenance import read_record
from tests.helpers import toy_recipe
from tests.launching import COMPILES, cpu_twin, ended, launch, start

COMMON: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": ...}
COMMON |= {"eval_strategy": "no", "load_best_model_at_end": False, "shots": 3}  # 24 rows: a multiple of the batch of 4
ENGINES = {"multi_gpu": ("MULTI_CPU", "DistributedDataParallel", None)}
ENGINES |= {f"zero{stage}": ("DEEPSPEED", "DeepSpeedEngine", stage) for stage in (2, 3)}
ENGINES |= {"fsdp2": ("FSDP", "FSDPPeftModelForCausalLM", None)}
UNSCORED = ("zero3", "fsdp2")
ON_CPU = {"fsdp2": {"ON_CPU": "1"}}  # accelerate leaves FSDP to GPUs: see fsdp_on_cpu.py
# DDP is slow here, since test_distributed.py and the two launchers show it in every run; ZeRO-2 is a part of ZeRO-3.
MARKS = {"multi_gpu": pytest.mark.slow, "zero2": [COMPILES, pytest.mark.slow], "zero3": COMPILES, "fsdp2": ()}
CASES = [pytest.param(name, marks=MARKS[name]) for name in ENGINES]


@pytest.fixture(scope="module")
def one_process(toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Stage 0, stage 1 and stage 2 in this process: the recipes, and what came out."""
    folder = tmp_path_factory.mktemp("one")
    texts = folder / "rationales.jsonl"
    written = {"output_file": texts, "checks": "none", "label_shown": "hint", "max_new_tokens": 8}
    rationales.main([toy_recipe("rationales", folder, toy_set[0], smoke_base, **written | {"shots": 3})])
    made: dict[str, Any] = {"rationales": texts}
    for stage, more in (("stage1", {"rationales": texts}), ("stage2", {"init": folder / "stage1"})):
        recipe = toy_recipe(stage, folder, toy_set[0], smoke_base, **COMMON | more, output_dir=folder / stage)
        made[stage] = {"recipe": recipe, "losses": trained_here(recipe), "run": folder / stage}
    made["stage2"]["scores"] = scored(made["stage2"]["run"], folder, toy_set[0], smoke_base)
    return made


def trained_here(recipe: str, *more: str) -> list[float]:
    """The losses of a training in this process, as they were before they were rounded for the log."""
    losses, step = [], SFTTrainer.training_step

    def training_step(self: SFTTrainer, *args: Any, **kwargs: Any) -> Any:
        losses.append(step(self, *args, **kwargs))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFTTrainer, "training_step", training_step)
        sft.main([recipe, "--per_device_train_batch_size", "4", *more])
    return [loss.item() for loss in losses]


def scored(run: Path, folder: Path, card: Path, base: Path) -> list[list[float]]:
    """The scores of the test clips by a trained stage, loaded in this process."""
    out = folder / f"scores_{len(list(folder.iterdir()))}"
    quick = {"generate": False, "max_new_tokens": ...}
    evaluation.main([toy_recipe("eval", folder, card, base, checkpoint=run, output_dir=out, **quick)])
    return [row["logprobs"] for row in read_jsonl(out / "predictions.jsonl")]


def expect(seen: list[dict], name: str, *, full: bool = False) -> list[float]:
    """Asserts what the processes were; returns the losses of the whole batch, the mean over the processes."""
    kind, wrapper, stage = ENGINES[name]
    wrapper = "FSDPQwen2VLForConditionalGeneration" if full and name == "fsdp2" else wrapper
    assert [s["world"] for s in seen] == [2, 2] and {s["backend"] for s in seen} == {"gloo"}
    assert {(s["type"], s["wrapper"], s["zero"]) for s in seen} == {(kind, wrapper, stage)}
    if name == "fsdp2":
        whole = {"Qwen2VLDecoderLayer", "Qwen2VLVisionBlock"}
        assert all(set(s["layers"]) >= whole for s in seen), "the layers that the model itself names"
    return [sum(pair) / 2 for pair in zip(*(s["losses"] for s in seen), strict=True)]


def options(name: str) -> list[str]:
    """Half of the batch per process; a sharded model is not scored."""
    return [
        "--per_device_train_batch_size",
        "2",
        *(["--validate_by_score", "false"] if name in UNSCORED else []),
    ]


@pytest.mark.parametrize("name", CASES)
def test_both_stages_a_kill_and_a_resume_equal_one_process(
    name: str, one_process: dict[str, Any], toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    config, more, env = cpu_twin(tmp_path, name), options(name), ON_CPU.get(name, {})
    first, second = (one_process[stage] for stage in ("stage1", "stage2"))
    seen = launch(tmp_path, config, "sft", first["recipe"], *more, "--output_dir", str(tmp_path / "stage1"), **env)
    assert expect(seen, name) == pytest.approx(first["losses"], abs=1e-5)

    more += ["--init", str(tmp_path / "stage1"), "--output_dir", str(tmp_path / "stage2")]
    launch(tmp_path, config, "sft", second["recipe"], *more, fails=True, DIE_AFTER="3", **env)
    assert (tmp_path / "stage2/checkpoint-2").is_dir() and not (tmp_path / "stage2/rbft.json").exists()
    seen = launch(tmp_path, config, "sft", second["recipe"], *more, "--resume_from_checkpoint", "true", **env)
    assert expect(seen, name) == pytest.approx(second["losses"][2:], abs=1e-5)

    for stage, alone in (("stage1", first), ("stage2", second)):  # what a comparison counts, of all processes
        wanted, found = read_record(alone["run"]), read_record(tmp_path / stage)
        assert found["tokens"] == wanted["tokens"] > 0 and found["presentations"] == wanted["presentations"]
        if name == "zero3":
            assert found["flops"] is None
        else:  # padding counts, and smaller batches have less of it
            assert 0.8 < found["flops"] / wanted["flops"] <= 1

    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (second["run"], tmp_path / "stage2"))
    assert ours.keys() == theirs.keys() and all((ours[key] - theirs[key]).abs().max() < 1e-5 for key in ours)
    for row, wanted in zip(
        scored(tmp_path / "stage2", tmp_path, toy_set[0], smoke_base), second["scores"], strict=True
    ):
        assert row == pytest.approx(wanted, abs=1e-4)


def test_two_launchers_train_one_run(one_process: dict[str, Any], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    config, recipe = cpu_twin(tmp_path, "multi_node"), one_process["stage1"]["recipe"]
    argv = [recipe, *options("multi_gpu"), "--output_dir", str(tmp_path / "run")]
    started = [
        start(tmp_path, config, "sft", *argv, options=("--machine_rank", rank, "--main_process_port", port))
        for rank in ("0", "1")
    ]
    seen = [process for launcher, place in started for process in ended(launcher, place)]
    assert expect(seen, "multi_gpu") == pytest.approx(one_process["stage1"]["losses"], abs=1e-5)
    assert (tmp_path / "run/rbft.json").is_file()


@COMPILES
@pytest.mark.parametrize("name", UNSCORED)
def test_a_launch_file_that_shards_is_refused_for_evaluation(
    name: str, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "eval")
    told = launch(tmp_path, cpu_twin(tmp_path, name), "eval", recipe, fails=True, **ON_CPU.get(name, {}))
    assert "stage 0, evaluation, prediction under" in told and "use multi_gpu.yaml" in told
    assert not (tmp_path / "eval").exists()


@pytest.mark.slow
@COMPILES
@pytest.mark.parametrize("kind", ["parts", "full"])
@pytest.mark.parametrize("name", list(ENGINES))
def test_parts_with_rates_of_their_own_and_whole_weights_equal_one_process(
    name: str, kind: str, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"learning_rate_vision": 1e-4, "learning_rate_merger": 5e-4}
    changes |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    changes |= {"metric_for_best_model": "eval_loss"}
    if kind == "full":
        changes |= {"use_peft": False, "lora_r": ..., "lora_alpha": ..., "lora_dropout": ...}
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **COMMON | changes, output_dir=tmp_path / "one")
    wanted = trained_here(recipe, *(["--validate_by_score", "false"] if name in UNSCORED else []))
    argv = [recipe, *options(name), "--output_dir", str(tmp_path / "two")]
    seen = launch(tmp_path, cpu_twin(tmp_path, name), "sft", *argv, **ON_CPU.get(name, {}))
    assert expect(seen, name, full=kind == "full") == pytest.approx(wanted, abs=1e-5)
    curves = [read_record(tmp_path / run)["curves"] for run in ("one", "two")]
    for key in ("eval_loss", "eval_accuracy"):
        first, second = ([entry[key] for entry in curve if key in entry] for curve in curves)
        assert first == pytest.approx(second, abs=2e-4) and len(first) == 2 * (
            key == "eval_loss" or name not in UNSCORED
        )
    scores = [scored(tmp_path / run, tmp_path, toy_set[0], smoke_base) for run in ("one", "two")]
    for row, other in zip(*scores, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


@pytest.mark.slow
@COMPILES
@pytest.mark.parametrize("name", [*ENGINES, "multi_gpu in 4 bit", "zero2 in 4 bit"])
def test_the_precision_of_a_gpu_run_trains_on_every_engine(
    name: str, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    name, _, quantised = name.partition(" ")
    changes = {"dtype": "bfloat16", "bf16": True, "activation_checkpointing": True, "load_in_4bit": bool(quantised)}
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **COMMON | changes, output_dir=tmp_path / "one")
    wanted = trained_here(recipe)
    argv = [recipe, *options(name), "--output_dir", str(tmp_path / "two")]
    config = cpu_twin(tmp_path, name, mixed_precision="bf16")
    seen = launch(tmp_path, config, "sft", *argv, **ON_CPU.get(name, {}))
    assert expect(seen, name) == pytest.approx(wanted, abs=1e-2)  # bf16 has three digits


def test_rows_that_are_shown_twice_are_counted(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(
        "direct", tmp_path, toy_set[0], smoke_base, dataloader_drop_last=False, output_dir=tmp_path / "x"
    )
    out = ["--report_dir", str(tmp_path / "report"), "--per_device_train_batch_size"]
    for batch, processes, repeated in (("5", "1", 0), ("5", "2", 4), ("4", "2", 0), ("3", "3", 2)):
        check.main([recipe, *out, batch, "--processes", processes])
        assert read_json(tmp_path / "report/check.json")["budget"]["repeated"] == repeated  # of 16 rows
