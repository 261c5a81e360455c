"""Every entry is run by its path from another directory: help, and one whole chain in processes of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.forked import ENTRIES, run_forked

REPOSITORY = Path(__file__).parents[1]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
LAUNCH += ["--config_file", str(REPOSITORY / "accelerate_configs/cpu.yaml")]


def run(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in `folder`; PYTHONPATH is taken away, since users have none."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(word) for word in words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_entries_are_found() -> None:
    assert {"rationales", "sft", "eval", "compare", "predict"} <= set(ENTRIES)


@pytest.mark.parametrize("entry", ["sft", "predict"])
def test_an_entry_finds_its_package_from_anywhere(entry: str, tmp_path: Path) -> None:
    done = run(tmp_path, sys.executable, REPOSITORY / f"rbft_trl/{entry}.py", "--help")
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr


OWN = {"predict": ("model", "output", "precision"), "check": ("init", "report_dir"), "app": ("model", "port")}
OWN |= {"push": ("repo", "private", "eval"), "merge": ("output", "clips"), "convert": ("annotations", "output")}
OWN |= {"harmonic": ("base", "novel"), "review": ("task", "apply", "output_file")}


@pytest.mark.parametrize("entry", OWN)
def test_the_entry_without_a_recipe_shows_its_options(entry: str, tmp_path: Path) -> None:
    done = run_forked(REPOSITORY / f"rbft_trl/{entry}.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and all(f"--{word}" in done.stdout for word in OWN[entry])


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    done = run_forked(REPOSITORY / "rbft_trl/predict.py", "a.mp4", "--model", "nowhere", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'nowhere' is no folder" in done.stderr


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry not in OWN])
def test_help_from_another_directory(entry: str, tmp_path: Path) -> None:
    done = run_forked(REPOSITORY / f"rbft_trl/{entry}.py", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    options = re.findall(r"^  (\w+) \[.*?\]: \S", done.stdout, re.MULTILINE)
    assert "task" in options and re.search(r"\boutput_(dir|file)\b", done.stdout)
    assert len(options) > 10 and len(options) == len(set(options)) and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def chain(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 0, stage 1, stage 2 and evaluation by `accelerate launch`, with the toy recipes and a few overrides."""
    folder = tmp_path_factory.mktemp("elsewhere")
    common = ["--task", toy_set[0], "--model_name_or_path", smoke_base, "--shots", "2"]
    training = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--logging_steps", "1"]
    validated = ["--eval_strategy=steps", "--eval_steps=2", "--save_strategy=steps", "--save_steps=2"]
    file = folder / "rationales.jsonl"
    steps: list[list[str | Path]] = [
        # the tiny base has learnt nothing, so what it writes is kept as it is
        ["rationales", "--output_file", file, "--checks", "none", "--label_shown", "blind", "--max_new_tokens", "8"],
        ["stage1", "--output_dir", "stage1", "--rationales", "rationales.jsonl", *training],
        ["stage2", "--output_dir", folder / "stage2", "--init", "stage1", *training, *validated],
        ["eval", "--output_dir", "eval", "--checkpoint", "stage2", "--max_new_tokens", "4"],
    ]
    for recipe, *overrides in steps:
        script = REPOSITORY / f"rbft_trl/{'sft' if recipe in ('stage1', 'stage2') else recipe}.py"
        done = run(folder, *LAUNCH, script, REPOSITORY / f"recipes/toy/{recipe}.yaml", *common, *overrides)
        assert done.returncode == 0, f"{recipe}: {done.stderr[-3000:]}"
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(root: Path, *, test: bool) -> list[str]:
    """Ids of clips.csv: those of the test split, or those of the pool."""
    rows = [line.split(",") for line in (root / "clips.csv").read_text(encoding="utf-8").splitlines()[1:]]
    return sorted(i for i, _, label, split, _ in rows if (split == "test" if test else not label))


def test_stage_0_wrote_every_rationale_once(chain: Path, toy_set: tuple[Path, Path]) -> None:
    samples = lines(chain / "rationales.jsonl")
    keys = [(sample["id"], sample["sample"]) for sample in samples]
    assert len(keys) == len(set(keys)) == 2 * 8 + 8
    pool = [s for s in samples if s["label"] is None]
    assert sorted(s["id"] for s in pool) == ids(toy_set[1], test=False)
    empty = ("dropped", "too_short")  # the tiny base may write nothing at all
    assert {(s["verdict"], s["reason"]) for s in pool} <= {("unlabelled", None), empty}
    assert {(s["verdict"], s["reason"]) for s in samples if s["label"]} <= {("kept", None), empty}
    summary = json.loads((chain / "rationales.summary.json").read_text(encoding="utf-8"))
    assert summary["checks"] == "none" and summary["kept"]
    assert not list(chain.glob("*.part"))


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_wrote_its_adapter_and_its_record(chain: Path, stage: str, toy_set: tuple[Path, Path]) -> None:
    folder = chain / stage
    record = json.loads((folder / "rbft.json").read_text(encoding="utf-8"))
    assert (folder / "adapter_model.safetensors").stat().st_size > 0
    labels = list(yaml.safe_load(toy_set[0].read_text(encoding="utf-8"))["labels"])
    assert record["labels"] == labels == list(yaml.safe_load((folder / "task_card.yaml").read_text())["labels"])
    assert record["steps"] == 2 and record["presentations"] == 8
    assert record["target"] == {"stage1": "rationale", "stage2": "label"}[stage]
    assert record["frames"]["num_frames"] == 8 and record["versions"]["trl"]
    assert json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["max_steps"] == 2
    assert [entry["step"] for entry in record["curves"] if "loss" in entry] == [1, 2]


def test_stage_2_went_on_from_stage_1_and_was_validated(chain: Path) -> None:
    first, second = (json.loads((chain / s / "rbft.json").read_text(encoding="utf-8")) for s in ("stage1", "stage2"))
    assert first["init"] == "base" and second["init"] == first["weights"] != second["weights"]
    assert second["best_validation"] in [
        entry["eval_accuracy"] for entry in second["curves"] if "eval_accuracy" in entry
    ]


def test_the_evaluation_has_every_test_clip_once(chain: Path, toy_set: tuple[Path, Path]) -> None:
    predictions = lines(chain / "eval/predictions.jsonl")
    assert sorted(prediction["id"] for prediction in predictions) == ids(toy_set[1], test=True)
    for prediction in predictions:
        assert prediction["error"] is None and len(prediction["scores"]) == 8
        assert sum(prediction["scores"].values()) == pytest.approx(1)
        assert prediction["prediction"] == max(prediction["scores"], key=prediction["scores"].get)
    metrics = json.loads((chain / "eval/metrics.json").read_text(encoding="utf-8"))
    right = sum(prediction["prediction"] == prediction["label"] for prediction in predictions)
    assert metrics["n"] == 24 and metrics["accuracy"] == pytest.approx(right / 24)
    assert (chain / "eval/confusion.png").read_bytes().startswith(b"\x89PNG")


def test_everything_was_written_where_the_commands_were_given(chain: Path) -> None:
    made = {path.name for path in chain.iterdir()}
    assert made == {"rationales.jsonl", "rationales.summary.json", "stage1", "stage2", "eval"}
