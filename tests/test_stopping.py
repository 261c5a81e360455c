"""SIGTERM, sent to a worker or to the launcher: the run stops in order, and goes on as if nothing had been.

Training is made hard on purpose: dropout, accumulation, a weighted sampler, processes that read, no other save.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from rbft_trl import cells, rationales, sft, star
from rbft_trl import eval as evaluation
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import UserError
from rbft_trl.model.stop import readers_told
from rbft_trl.stopping import Stopped, listening, one_part
from tests.helpers import REPOSITORY, toy_recipe

DEADLINE = 300  # s; four runs of two processes take 80 s alone, and a busy machine is no failure
HARD = {
    "max_steps": 24,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "lora_dropout": 0.1,
    "class_balance": "sampler",
    "dataloader_num_workers": 2,
    "shots": 4,
    "save_strategy": "no",
    "save_total_limit": 1,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "logging_steps": 1,
    "disable_tqdm": True,
}


class Run:
    """An entry in processes of its own, told by what it prints."""

    def __init__(self, log: Path, *argv: str, launch: str | None = None) -> None:
        command = [sys.executable, *argv]
        if launch:
            file = str(REPOSITORY / f"accelerate_configs/{launch}.yaml")
            options = ["--config_file", file, "--main_process_port", "0"]
            command = [sys.executable, "-m", "accelerate.commands.launch", *options, *argv]
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=stream, stderr=stream, env=os.environ | {"PYTHONUNBUFFERED": "1"}
            )

    @property
    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def workers(self) -> list[psutil.Process]:
        """The processes under the launcher that run the entry."""
        return psutil.Process(self.process.pid).children()

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.time() + DEADLINE
        while not reached():
            assert self.process.poll() is None and time.time() < deadline, self.told[-3000:]
            time.sleep(0.01)

    def until_step(self, number: int) -> None:
        self.until(lambda: self.told.count("'loss':") >= number)

    def end(self, *processes: psutil.Process) -> int:
        for process in processes:
            process.wait(timeout=DEADLINE)  # a launcher may be gone before its worker
        return self.process.wait(timeout=DEADLINE)


def same_weights(one: Path, two: Path) -> bool:
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def hard_recipe(folder: Path, toy_set: tuple, base: Path, **changes: Any) -> str:
    return toy_recipe("direct", folder, toy_set[0], base, output_dir=folder / "stopped", **(HARD | changes))


def test_one_process_stopped_twice_equals_the_straight_run(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe, out = hard_recipe(tmp_path, toy_set, smoke_base), tmp_path / "stopped"
    alone = Run(tmp_path / "alone.log", "rbft_trl/sft.py", recipe)
    alone.until_step(3)
    alone.process.send_signal(signal.SIGTERM)
    assert alone.end() == 143 and "with --resume_from_checkpoint true goes on" in alone.told.splitlines()[-1]
    assert not (out / "rbft.json").exists() and [p.name[:10] for p in out.glob("checkpoint-*")] == ["checkpoint"]

    launched = Run(
        tmp_path / "launched.log", "rbft_trl/sft.py", recipe, "--resume_from_checkpoint", "true", launch="cpu"
    )
    launched.until_step(8)  # in a later epoch
    workers = launched.workers()
    launched.process.send_signal(signal.SIGTERM)  # the launcher dies of it at once and tells nobody
    assert launched.end(*workers) == -signal.SIGTERM
    assert "stopped after step" in launched.told.splitlines()[-1]
    assert len(list(out.glob("checkpoint-*"))) == 1 and not (out / "rbft.json").exists()

    record = sft.main([recipe, "--resume_from_checkpoint", "true"])
    straight = sft.main([recipe, "--output_dir", str(tmp_path / "straight")])
    assert record["steps"] == straight["steps"] == 24 and record["presentations"] == straight["presentations"]
    assert same_weights(out, tmp_path / "straight")


def test_two_processes_stopped_twice_equal_the_straight_run(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    recipe, out = hard_recipe(tmp_path, toy_set, smoke_base, per_device_train_batch_size=1), tmp_path / "stopped"
    go_on = ("rbft_trl/sft.py", recipe, "--resume_from_checkpoint", "true")
    first = Run(tmp_path / "worker.log", "rbft_trl/sft.py", recipe, launch="cpu_2_processes")
    first.until_step(3)
    first.workers()[1].send_signal(signal.SIGTERM)  # one of them knows, both stop
    assert first.end() != 0 and "stopped after step" in first.told and not (out / "rbft.json").exists()

    second = Run(tmp_path / "launcher.log", *go_on, launch="cpu_2_processes")
    second.until_step(6)
    workers = second.workers()
    second.process.send_signal(signal.SIGTERM)  # passed on to the process groups, readers of clips included
    assert second.end(*workers) != 0 and "stopped after step" in second.told and "Killed" not in second.told

    assert Run(tmp_path / "end.log", *go_on, launch="cpu_2_processes").end() == 0
    straight = Run(
        tmp_path / "straight.log", *go_on[:2], "--output_dir", str(tmp_path / "straight"), launch="cpu_2_processes"
    )
    assert straight.end() == 0 and same_weights(out, tmp_path / "straight")


def test_a_stop_at_the_end_of_an_epoch_still_evaluates_and_keeps_the_best(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation that is due there chooses the best checkpoint: leaving it out would change the result."""
    changes = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    changes |= {"dataloader_num_workers": 0, "gradient_accumulation_steps": 1, "max_steps": -1, "num_train_epochs": 3}
    recipe, out = hard_recipe(tmp_path, toy_set, smoke_base, **changes), tmp_path / "stopped"
    straight = sft.main([recipe, "--output_dir", str(tmp_path / "straight")])
    per_epoch = straight["steps"] // 3
    for step in (per_epoch, per_epoch + 3):
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"after step {step} of"):
            patch.setattr("rbft_trl.model.stop.noted", lambda step=step: _reached(step))
            sft.main([recipe, "--resume_from_checkpoint", "true"])
        assert (out / f"checkpoint-{step}/whole.json").is_file() and not (out / "rbft.json").exists()
    record = sft.main([recipe, "--resume_from_checkpoint", "true"])
    assert record["best_validation"] == straight["best_validation"] and same_weights(out, tmp_path / "straight")
    measured = [[e["eval_accuracy"] for e in r["curves"] if "eval_accuracy" in e] for r in (record, straight)]
    assert measured[0] == measured[1] and len(measured[0]) == 3


def _reached(step: int) -> bool:
    """Whether the callback that asks (two frames up) is at the end of this step."""
    return sys._getframe(3).f_locals["state"].global_step == step


def test_stage0_and_evaluation_stop_after_a_batch_and_go_on(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    common = {"per_device_batch_size": 1, "num_samples": 2, "temperature": 1.0, "max_new_tokens": 24, "checks": "none"}
    recipe = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, output_file=tmp_path / "r.jsonl", **common)
    part = tmp_path / "r.jsonl.rank0.part"
    run = Run(tmp_path / "stage0.log", "rbft_trl/rationales.py", recipe)
    run.until(lambda: part.exists() and part.read_text().count("\n") >= 3)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 143 and "the same command goes on" in run.told.splitlines()[-1]
    assert part.read_text().endswith("\n") and not (tmp_path / "r.jsonl").exists()
    rationales.main([recipe])
    rationales.main([recipe, "--output_file", str(tmp_path / "straight.jsonl")])
    assert (tmp_path / "r.jsonl").read_text() == (tmp_path / "straight.jsonl").read_text()

    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, per_device_batch_size=1, output_dir=tmp_path / "e")
    part = tmp_path / "e/predictions.jsonl.rank0.part"
    run = Run(tmp_path / "eval.log", "rbft_trl/eval.py", recipe, launch="cpu")
    run.until(lambda: part.exists() and part.read_text().count("\n") >= 3)
    workers = run.workers()
    run.process.send_signal(signal.SIGTERM)
    assert run.end(*workers) == -signal.SIGTERM and "the same command goes on" in run.told.splitlines()[-1]
    evaluation.main([recipe])
    evaluation.main([recipe, "--output_dir", str(tmp_path / "straight")])
    stopped, straight = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_jsonl(tmp_path / name / "predictions.jsonl")]
        for name in ("e", "straight")
    )
    assert stopped == straight and all(row["error"] is None for row in straight)
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.stop"))


def test_a_reader_that_died_is_told_once() -> None:
    """Its end is noticed where it handed over a batch, and its SIGCHLD may come while that is being told."""

    def torchs(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, torchs)
    try:
        with pytest.raises(UserError, match=r"that reads clips was killed or hangs \(EOFError\)"), readers_told():
            raise EOFError
        os.kill(os.getpid(), signal.SIGCHLD)
        time.sleep(0.05)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_signal_after_the_last_look_of_a_part_stops_the_driver() -> None:
    """Saving the weights is such a moment: the part is finished, and the next one must not begin."""
    with pytest.raises(Stopped, match="the part that was running is finished"), one_part(), listening():
        os.kill(os.getpid(), signal.SIGTERM)
    with one_part(), listening():  # what was said before is of no more concern
        pass


@pytest.mark.parametrize("driver", ["compare", "star"])
def test_drivers_run_their_parts_so(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(argv: list[str]) -> None:
        with listening():
            os.kill(os.getpid(), signal.SIGTERM)

    nothing = SimpleNamespace(launch=None, task=None, setup=None)
    if driver == "compare":
        monkeypatch.setitem(cells.MAINS, "sft", part)
        run = functools.partial(cells.Cells.run, SimpleNamespace(args=nothing), "sft", [])
    else:
        monkeypatch.setitem(star.MAINS, "sft", part)
        monkeypatch.setattr(star, "shared", lambda args: [])
        run = functools.partial(star.Star.run, SimpleNamespace(args=nothing, out="out"), "train", "sft", "x.yaml")
    with pytest.raises(Stopped, match="the part that was running is finished"):
        run()
