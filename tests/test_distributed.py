"""Two real processes on a CPU (gloo) give what one gives; world size, type and wrapper class are asserted.

Wrong launch files silently start one process or another engine, so each run writes down what it really was.
"""

import json
from pathlib import Path

import pytest

from rbft_trl import eval as evaluation
from rbft_trl import predict, rationales, sft
from rbft_trl.data.jsonl import read_jsonl
from tests.helpers import REPOSITORY, card_with, toy_recipe
from tests.launching import launch

CONFIG = REPOSITORY / "accelerate_configs/cpu_2_processes.yaml"


def expect_two(seen: list[dict], *, wrapper: str | None = None) -> None:
    assert [s["world"] for s in seen] == [2, 2] and {s["type"] for s in seen} == {"MULTI_CPU"}
    assert {s["backend"] for s in seen} == {"gloo"} and {s["wrapper"] for s in seen} == {wrapper}


@pytest.fixture(scope="module", params=[7, 101])
def counted(
    request: pytest.FixtureRequest, toy_set: tuple, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """A card whose test split has exactly 7 or 101 clips (copies of the clips' rows under other ids and files)."""
    card = card_with(request.param, "test", toy_set, tmp_path_factory.mktemp(f"clips{request.param}"))
    return card, request.param


def test_evaluation_on_two_processes_equals_one(counted: tuple[Path, int], smoke_base: Path, tmp_path: Path) -> None:
    card, count = counted
    recipe = toy_recipe("eval", tmp_path, card, smoke_base, per_device_batch_size=4, output_dir=tmp_path / "one")
    evaluation.main([recipe])
    expect_two(launch(tmp_path, CONFIG, "eval", recipe, "--output_dir", str(tmp_path / "two")))
    one, two = (read_jsonl(tmp_path / name / "predictions.jsonl") for name in ("one", "two"))
    assert [p["id"] for p in one] == [p["id"] for p in two] == [f"copy{i:03d}" for i in range(count)]
    for a, b in zip(one, two, strict=True):
        assert a["prediction"] == b["prediction"] and a["logprobs"] == pytest.approx(b["logprobs"], abs=1e-5)
    assert not list((tmp_path / "two").glob("*.part"))


def test_stage0_on_two_processes_equals_one(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    common = {"per_device_batch_size": 5, "num_samples": 2, "temperature": 1.0, "max_new_tokens": 8, "checks": "none"}
    common |= {"label_shown": "blind_then_hint"}
    recipe = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, output_file=tmp_path / "one.jsonl", **common)
    rationales.main([recipe])
    expect_two(launch(tmp_path, CONFIG, "rationales", recipe, "--output_file", str(tmp_path / "two.jsonl")))
    assert (tmp_path / "one.jsonl").read_text() == (tmp_path / "two.jsonl").read_text()


def test_training_on_two_processes_equals_one(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    common = {
        "max_steps": 3,
        "logging_steps": 1,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "eval_strategy": "steps",
    }
    common |= {"eval_steps": 3, "load_best_model_at_end": False, "shots": 3}  # 24 rows divide by the global batch of 4
    recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **common, output_dir=tmp_path / "one")
    one = sft.main([recipe, "--per_device_train_batch_size", "4"])
    seen = launch(
        tmp_path, CONFIG, "sft", recipe, "--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "two")
    )
    expect_two(seen, wrapper="DistributedDataParallel")
    two = json.loads((tmp_path / "two/rbft.json").read_text())
    losses = [[entry["loss"] for entry in record["curves"] if "loss" in entry] for record in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)  # logged with four digits
    accuracies = [[e["eval_accuracy"] for e in record["curves"] if "eval_accuracy" in e] for record in (one, two)]
    assert accuracies[0] == accuracies[1] and one["presentations"] == two["presentations"] == 12


def test_prediction_on_two_processes_equals_one(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    quick = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "run", **quick)])
    clips = [str(path) for path in sorted((toy_set[1] / "clips").iterdir())[:7]]
    command = [*clips, "--model", str(tmp_path / "run"), "--use_cpu", "--batch_size", "2", "--output"]
    one = predict.main([*command, str(tmp_path / "one.jsonl")])
    expect_two(launch(tmp_path, CONFIG, "predict", *command, str(tmp_path / "two.jsonl")))
    two = read_jsonl(tmp_path / "two.jsonl")
    assert [row["clip"] for row in one] == [row["clip"] for row in two] == clips
    for a, b in zip(one, two, strict=True):
        assert a["label"] == b["label"] and a["scores"] == pytest.approx(b["scores"], abs=1e-5)
    assert not list(tmp_path.glob("*.part"))
