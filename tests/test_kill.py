"""SIGKILL in stage 0 and in training, then the same command again: nothing lost, nothing twice, nothing different."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rbft_trl import rationales, sft
from rbft_trl.data.jsonl import read_jsonl
from tests.helpers import REPOSITORY, toy_recipe


def kill_when(command: list[str], reached: Callable[[], object], env: dict[str, str] | None = None) -> None:
    """Runs an entry in a process of its own and kills it as soon as `reached()`."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env or os.environ,
    )
    deadline = time.time() + 300
    while not reached():
        assert process.poll() is None, "the process ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_stage0_killed_and_started_again(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "rationales.jsonl"
    common = {"per_device_batch_size": 2, "num_samples": 2, "temperature": 1.0, "max_new_tokens": 24, "checks": "none"}
    recipe = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, output_file=file, **common)
    part = tmp_path / "rationales.jsonl.rank0.part"
    kill_when(["rbft_trl/rationales.py", recipe], lambda: part.exists() and part.read_text().count("\n") >= 3)
    assert not file.exists()
    with part.open("a") as stream:
        stream.write('{"batch": 7, "rows": [{"id": "toy')  # the line that was being written
    rationales.main([recipe])

    straight = tmp_path / "straight.jsonl"
    rationales.main([recipe, "--output_file", str(straight)])
    assert file.read_text() == straight.read_text() and not part.exists()
    keys = [(row["id"], row["sample"]) for row in read_jsonl(file)]
    assert len(keys) == len(set(keys)) and len({clip for clip, _ in keys}) == 2 * 8 + 8

    cut = file.read_text().splitlines(keepends=True)[:-1]  # at the end of a line, so that no line is damaged
    file.write_text("".join(cut))
    with pytest.warns(UserWarning, match=f"has {len(keys) - 1} rationales, its step wrote {len(keys)}"):
        assert len(rationales.main([recipe])) == len(keys) - 1


def test_training_killed_and_resumed_equals_the_straight_run(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    common = {"max_steps": 40, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
    common |= {"eval_strategy": "no", "load_best_model_at_end": False, "save_total_limit": ..., "lora_dropout": 0.1}
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **common, output_dir=tmp_path / "killed")
    state = tmp_path / "killed/checkpoint-6/trainer_state.json"
    kill_when(["rbft_trl/sft.py", recipe], state.exists)
    assert not (tmp_path / "killed/rbft.json").exists()
    record = sft.main([recipe, "--resume_from_checkpoint", "true"])
    straight = sft.main([recipe, "--output_dir", str(tmp_path / "straight")])
    assert record["steps"] == straight["steps"] == 40 and record["presentations"] == straight["presentations"] == 80
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("killed", "straight"))
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
    assert json.loads((tmp_path / "killed/recipe.json").read_text())["max_steps"] == 40
