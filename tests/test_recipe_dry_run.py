"""Every recipe with every setup is run for two steps on a CPU: what is overridden is listed here, and nothing else.

The files themselves are run, from another directory, so that what one stage writes the next one reads as it says.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbft_trl import eval as evaluation
from rbft_trl import rationales, sft
from rbft_trl.data.jsonl import read_json
from tests.helpers import REPOSITORY

# What a CPU, a tiny model and a few clips cannot do or need not do; card and base are those of the test.
ALWAYS = {"attn_implementation": "sdpa", "min_pixels": 56 * 56, "max_pixels": 56 * 56, "use_cpu": "true"}
TRAINING = {"max_steps": 2, "per_device_train_batch_size": 2}
STAGE0 = {"max_new_tokens": 8, "checks": "none"}  # the tiny model writes noise
FEW_CLIPS = {"shots": 2}  # where a setup draws more clips per class than the test has
OVERRIDES: dict[str, dict[str, Any]] = {
    "rationales": ALWAYS | STAGE0,
    "stage1": ALWAYS | TRAINING,
    "stage2": ALWAYS | TRAINING,
    "direct": ALWAYS | TRAINING,
    "eval": ALWAYS,
}
MAINS = {"rationales": rationales.main, "eval": evaluation.main}

SETUPS = sorted(path.stem for path in (REPOSITORY / "recipes/setups").glob("*.yaml"))
CHAINS = [("recipes", setup) for setup in SETUPS] + [("recipes/rbft_paper", None), ("recipes/toy", None)]
Run = Callable[[str], Any]


def test_every_recipe_is_run() -> None:
    folders = {REPOSITORY / folder for folder, _ in CHAINS}
    found = {path for path in (REPOSITORY / "recipes").rglob("*.yaml") if path.parent.name not in ("setups", "tasks")}
    assert {path.parent for path in found} == folders
    assert {path.stem for path in found} == {*OVERRIDES, "setup", "compare"}


@pytest.fixture(params=CHAINS, ids=lambda chain: chain[1] or Path(chain[0]).name)
def chain(
    request: pytest.FixtureRequest,
    toy_set: tuple[Path, Path],
    smoke_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, Run]:
    """The name of a setup, and a function that runs the recipe of a stage with it."""
    folder, setup = request.param
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> Any:
        changes = OVERRIDES[name] | {"task": toy_set[0], "model_name_or_path": smoke_base}
        changes |= FEW_CLIPS if folder == "recipes/toy" else {}
        changes |= {"setup": REPOSITORY / f"recipes/setups/{setup}.yaml"} if setup else {}
        words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
        return MAINS.get(name, sft.main)([str(REPOSITORY / folder / f"{name}.yaml"), *words])

    return setup or Path(folder).name, run


def test_the_recipes_run_one_after_the_other(chain: tuple[str, Run]) -> None:
    name, run = chain
    samples = run("rationales")
    numbers = {"rbft_paper": {0}, "toy": {0, 1}}.get(name, {0, 1, 2, 3})  # blind samples, then hinted ones
    assert {sample["sample"] for sample in samples} == numbers
    first = run("stage1")
    if name == "rbft_paper":
        with pytest.warns(UserWarning, match="taken, since frames_may_differ is true"):
            second = run("stage2")
        assert (first["frames"]["num_frames"], second["frames"]["num_frames"]) == (8, None)
    else:
        second = run("stage2")
        assert first["frames"] == second["frames"]
    direct = run("direct")
    assert first["steps"] == second["steps"] == direct["steps"] == 2 and second["init"] == first["weights"]
    full = name in ("full_8gpu", "rbft_paper")
    for record in (first, second, direct):
        assert record["adapters"]["use_peft"] is not full
        assert record["recipe"]["load_in_4bit"] is (name == "qlora_24gb")
    resolved = read_json(Path(second["recipe"]["output_dir"]) / "recipe.json")  # with what the setup gave
    assert resolved == second["recipe"] and resolved["weight_decay"] == (0.0 if name == "toy" else 0.1)
    metrics = run("eval")
    assert metrics["n"] == 24
