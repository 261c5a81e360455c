"""Every GPU recipe is run for two steps on a CPU: what is changed is listed here, every other key is as written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import eval as evaluation
from rbft_trl import rationales, sft
from tests.helpers import REPOSITORY

# What a CPU and a tiny model cannot do or need not do; nothing else is changed.
ALWAYS = {
    "attn_implementation": "sdpa",
    "min_pixels": 56 * 56,
    "max_pixels": 56 * 56,
    "num_frames": 8,
    "use_cpu": True,
}
TRAINING = {
    "max_steps": 2,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
}
TRAINING |= {"save_steps": 2}
CHANGES: dict[str, dict[str, Any]] = {
    "rationales": {"per_device_batch_size": 8, "max_new_tokens": 8, "checks": "none"},  # the tiny model writes noise
    "stage1": TRAINING,
    "stage2": TRAINING | {"eval_strategy": "steps", "eval_steps": 2},
    "direct": TRAINING | {"eval_strategy": "steps", "eval_steps": 2},
    "eval": {"per_device_batch_size": 8},
}


def test_every_gpu_recipe_is_listed() -> None:
    assert {path.stem for path in (REPOSITORY / "recipes").glob("*.yaml")} == {*CHANGES, "compare"}


@pytest.fixture(scope="module")
def run(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("dry")

    def one(name: str, main: Any) -> Any:
        recipe = yaml.safe_load((REPOSITORY / f"recipes/{name}.yaml").read_text(encoding="utf-8"))
        for key in ("output_dir", "output_file", "rationales", "checkpoint", "init"):
            if key in recipe and recipe[key] != "base":
                recipe[key] = str(folder / recipe[key])
        recipe |= ALWAYS | CHANGES[name] | {"task": str(toy_set[0]), "model_name_or_path": str(smoke_base)}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return main([str(path)])

    return one


def test_the_gpu_recipes_run_one_after_the_other(run: Any) -> None:
    samples = run("rationales", rationales.main)
    assert {s["sample"] for s in samples} == {0, 1, 2, 3}  # two blind samples, two hinted ones
    first = run("stage1", sft.main)
    second = run("stage2", sft.main)
    direct = run("direct", sft.main)
    assert first["steps"] == second["steps"] == direct["steps"] == 2 and second["init"] == first["weights"]
    assert second["adapters"]["train_parts"] == ["llm"] and second["recipe"]["load_in_4bit"]
    metrics = run("eval", evaluation.main)
    assert metrics["n"] == 24
