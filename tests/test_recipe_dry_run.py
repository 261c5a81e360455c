"""Every recipe with every setup is run for two steps on a CPU: what is overridden is listed here, and nothing else.

The files themselves are run, from another directory, so that what one stage writes the next one reads as it says. A
comparison hands its stages nothing but card and setup: its folder is copied, and the rest is written into the copies.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import compare, rationales, sft, star
from rbft_trl import eval as evaluation
from rbft_trl.data.jsonl import read_json
from tests.helpers import REPOSITORY
from tests.tiny_families import FAMILIES, tiny_base

# What a CPU, a tiny model and a few clips cannot do or need not do; card and base are those of the test.
ALWAYS = {"attn_implementation": "sdpa", "min_pixels": 56 * 56, "max_pixels": 64 * 64, "use_cpu": True}
TRAINING = {"max_steps": 2, "per_device_train_batch_size": 2}
STAGE0 = {"max_new_tokens": 8, "checks": "none"}  # the tiny model writes noise
FULL = {"dtype": "float32"}  # one process has no fp32 copies of bf16 weights, as FSDP2 and ZeRO have
FEW_CLIPS = {"shots": 2}  # where a setup draws more clips per class than the test has
OVERRIDES: dict[str, dict[str, Any]] = {
    "rationales": ALWAYS | STAGE0,
    "stage1": ALWAYS | TRAINING,
    "stage2": ALWAYS | TRAINING,
    "direct": ALWAYS | TRAINING,
    "eval": ALWAYS,
    # The other arms and draws are those of tests/test_compare.py; oracle_texts is for an arm that is left out.
    "compare": {"arms": "[direct, rbft]", "seeds": 1, "oracle_texts": "null"},
}
BASE = REPOSITORY / "toy/base"
MAINS = {"rationales": rationales.main, "eval": evaluation.main}

SETUPS = sorted(path.stem for path in (REPOSITORY / "recipes/setups").glob("*.yaml"))
FOLDERS = [("recipes", setup) for setup in SETUPS] + [("recipes/rbft_paper", None), ("recipes/toy", None)]
# Each family trains in one of them at least; every family in every one that is for it is marked slow.
FIRST = {
    ("recipes", "qlora_24gb"): "qwen3_vl",
    ("recipes", "lora_80gb"): "qwen3_5",
    ("recipes", "full_8gpu"): "qwen2_vl",
}
FIRST |= {("recipes/rbft_paper", None): "qwen2_5_vl", ("recipes/toy", None): "qwen2_vl"}
CHAINS = [
    pytest.param(*place, family, marks=() if family == FIRST[place] else pytest.mark.slow)
    for place in FOLDERS
    for family in ((FIRST[place],) if place[1] is None else FAMILIES)
    if (place[1], family) != ("qlora_24gb", "qwen3_5")  # not recommended in 4 bit
]


def test_every_recipe_is_run() -> None:
    folders = {REPOSITORY / folder for folder, _ in FOLDERS}
    others = ("setups", "tasks", "arms", "toy_answers")  # for the last see tests/test_open_answers.py
    found = {path for path in (REPOSITORY / "recipes").rglob("*.yaml") if path.parent.name not in others}
    assert {path.parent for path in found} == folders
    assert {path.stem for path in found} == {*OVERRIDES, "setup", "star", "star_pairs"}


@pytest.fixture(scope="module")
def bases(smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny base of a family, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("bases")
    return lambda family: folder / family if (folder / family).exists() else tiny_base(family, folder, smoke_base)


@pytest.mark.parametrize(("folder", "setup", "family"), CHAINS)
def test_the_recipes_run_one_after_the_other(
    folder: str,
    setup: str | None,
    family: str,
    toy_set: tuple[Path, Path],
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    name, base = setup or Path(folder).name, bases(family)
    full = name in ("full_8gpu", "rbft_paper")

    def run(name: str) -> Any:
        changes = OVERRIDES[name] | {"task": toy_set[0], "model_name_or_path": base}
        changes |= FEW_CLIPS if folder == "recipes/toy" else {}
        changes |= FULL if full else {}
        changes |= {"setup": REPOSITORY / f"recipes/setups/{setup}.yaml"} if setup else {}
        words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
        return MAINS.get(name, sft.main)([str(REPOSITORY / folder / f"{name}.yaml"), *words])

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
    for record in (first, second, direct):
        assert record["adapters"]["use_peft"] is not full
        assert record["recipe"]["load_in_4bit"] is (name == "qlora_24gb")
    resolved = read_json(Path(second["recipe"]["output_dir"]) / "recipe.json")  # with what the setup gave
    assert resolved == second["recipe"] and resolved["weight_decay"] == (0.0 if name == "toy" else 0.1)
    metrics = run("eval")
    assert metrics["n"] == 24


@pytest.mark.parametrize(
    ("folder", "family"),
    [("recipes", FIRST["recipes", "qlora_24gb"]), ("recipes/toy", FIRST["recipes/toy", None])],
    ids=lambda value: value,
)
def test_the_comparison_runs_the_recipes_beside_it(
    folder: str,
    family: str,
    toy_set: tuple[Path, Path],
    bases: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    for name in OVERRIDES.keys() - {"compare"}:
        file = tmp_path / folder / f"{name}.yaml"
        changes = OVERRIDES[name] | {"model_name_or_path": str(bases(family))}
        changes |= FEW_CLIPS if folder == "recipes/toy" else {}
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    words = [word for key, value in OVERRIDES["compare"].items() for word in (f"--{key}", str(value))]
    result = compare.main([f"{folder}/compare.yaml", "--task", str(toy_set[0]), *words])
    direct, rbft = (result["arms"][name]["draws"][0] for name in ("direct", "rbft"))
    assert set(result["arms"]) == {"direct", "rbft"} and direct["metrics"]["n"] == rbft["metrics"]["n"] == 24
    assert direct["steps"] == rbft["steps"] == 4 and direct["presentations"] == rbft["presentations"]
    written = tmp_path / yaml.safe_load((tmp_path / folder / "compare.yaml").read_text())["output_dir"]
    assert (written / "report.html").is_file()
    for arm, stage in (("direct", "direct"), ("rbft", "stage1"), ("rbft", "stage2")):
        tried = sorted((written / "draw0" / arm).glob(f"{stage}*"))  # one folder per value where there are trials
        resolved = read_json(tried[0] / "recipe.json")  # with what the setup gave
        assert resolved["load_in_4bit"] is (folder == "recipes")
        assert resolved["weight_decay"] == (0.0 if folder == "recipes/toy" else 0.1)


@pytest.mark.parametrize("folder", ["recipes", "recipes/toy"])
def test_video_star_runs_the_recipes_beside_it(
    folder: str, toy_set: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the toy's base: one that writes noise keeps nothing to train on, even if it is told the label."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    for name in ("rationales", "stage1", "stage2", "eval", "star_pairs"):
        if (file := tmp_path / folder / f"{name}.yaml").is_file():
            changes = OVERRIDES["stage1" if name == "star_pairs" else name] | {"model_name_or_path": str(BASE)}
            changes |= {"max_new_tokens": 40, "checks": "label_match"} if name == "rationales" else {}
            changes |= FEW_CLIPS if folder == "recipes/toy" else {}
            recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
            file.write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
    words = ["--cycles", "2", "--min_rise", "-1", "--final_pairs", "kept"]
    result = star.main([f"{folder}/star.yaml", "--task", str(toy_set[0]), *words])
    written = Path(yaml.safe_load((tmp_path / folder / "star.yaml").read_text())["output_dir"])
    assert result["final"] == str(written / ("stage2" if folder == "recipes/toy" else "final"))
    assert [cycle["trained"]["steps"] for cycle in result["cycles"]] == [2, 2] and result["evaluation"]["n"] == 24
    assert result["cost"]["steps"] == 2 * (4 if folder == "recipes/toy" else 3)
    for stage in ("cycle0/model", "cycle1/model", "final"):
        resolved = read_json(written / stage / "recipe.json")  # with what the setup gave
        assert resolved["init"] == "base" and resolved["load_in_4bit"] is (folder == "recipes")
