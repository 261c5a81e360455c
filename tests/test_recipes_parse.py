"""Every recipe is read by the entry that its header names, with every setup and every base that this is for."""

import importlib
import importlib.metadata
import itertools
import re
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from rbft_trl.configs import DataArguments, EvalArguments, StageArguments
from rbft_trl.data.task import TaskCard
from rbft_trl.model.families import PUBLISHED
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.setups import read_setup
from rbft_trl.training_config import TrainingConfig

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "recipes"
CARDS = sorted((FOLDER / "tasks").rglob("*.yaml"))
SHARED = sorted((FOLDER / "setups").glob("*.yaml"))  # for the recipes of recipes/
SETUPS = [*SHARED, *sorted(FOLDER.rglob("setup.yaml"))]
ARMS = set((FOLDER / "arms").glob("*.yaml"))  # see tests/test_arms.py
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - set(CARDS) - set(SETUPS) - ARMS)
STAGES = ("rationales", "stage1", "stage2", "direct", "eval")
OPEN = FOLDER / "toy_answers"  # has no classes, so no stage 2 and no direct SFT
CHAINS = [(FOLDER, setup) for setup in SHARED]
CHAINS += [(setup.parent, setup) for setup in SETUPS if setup not in SHARED and setup.parent != OPEN]
DRIVERS = ("compare", "star")
BASES = sorted(f"Qwen/{path.stem}" for path in PUBLISHED.glob("*.json"))
BASE_NAME = re.compile(r"\bQwen/[\w.-]+\w")
# What may differ between the setups for one kind of hardware and another; all else is written alike in each.
OF_THE_HARDWARE = {"load_in_4bit", "gradient_accumulation_steps", "validate_by_score"}
OF_THE_HARDWARE |= {f"per_device_{kind}batch_size" for kind in ("", "eval_", "train_")}
OF_FULL_TUNING = {"use_peft", "train_parts", "learning_rate", "learning_rate_merger", "learning_rate_vision"}
OF_FULL_TUNING |= {"lora_r", "lora_alpha", "lora_dropout"}


def name(path: Any) -> str:
    return str(path.relative_to(FOLDER)) if isinstance(path, Path) else "-".join(map(name, path))


def header(path: Path) -> str:
    """The comment lines at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def command(path: Path) -> str:
    (line,) = [line for line in header(path).splitlines() if line.startswith("# Command:")]
    return line


def bases(setup: Path) -> list[str]:
    """The bases that a setup's header names."""
    (text,) = re.findall(r"^# Bases:(.*?)^# Hardware", header(setup), re.MULTILINE | re.DOTALL)
    return BASE_NAME.findall(text)


class Parsed(Exception):
    """Carries what an entry's first line, `parse_recipe(argv, ...)`, read."""


def read(path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[Any, ...]:
    """Starts the `main` of the recipe's entry and stops it as soon as it has read its options."""
    (script,) = re.findall(r"rbft_trl/(\w+)\.py", command(path))
    entry = importlib.import_module(f"rbft_trl.{script}")

    def stop(argv: list[str], *classes: type) -> typing.NoReturn:
        raise Parsed(*parse_recipe(argv, *classes))

    monkeypatch.setattr(entry, "parse_recipe", stop)
    with pytest.raises(Parsed) as parsed:
        entry.main([str(path), *words])
    return parsed.value.args


def options(path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    return {key: value for group in read(path, monkeypatch, *words) for key, value in vars(group).items()}


def test_there_are_recipes_setups_and_cards() -> None:
    assert {"compare.yaml", *(f"{kind}.yaml" for kind in STAGES)} <= set(map(name, RECIPES))
    assert {f"{folder}/{kind}.yaml" for folder in ("toy", "rbft_paper") for kind in STAGES} <= set(map(name, RECIPES))
    assert {f"setups/{kind}.yaml" for kind in ("qlora_24gb", "lora_80gb", "full_8gpu")} == set(map(name, SHARED))
    assert {"tasks/copy_me.yaml", "tasks/toy.yaml"} <= set(map(name, CARDS))
    assert len(BASES) == 10


@pytest.mark.parametrize("path", [*RECIPES, *SETUPS], ids=name)
def test_the_header_says_how_to_run_it_where_and_with_what(path: Path) -> None:
    text = header(path)
    assert path in SETUPS or str(path.relative_to(REPOSITORY)) in command(path)
    for file in re.findall(r"\b\w+/(?:\w+/)*\w+\.(?:py|yaml)", text):
        if file != "recipes/tasks/mine.yaml":  # the reader's own
            assert (REPOSITORY / file).is_file() or (path.parent / file).is_file(), file
    for word in ("hardware", "memory", "time", "expected"):
        assert re.search(rf"\b{word}\b", text.lower()), word


@pytest.mark.parametrize("path", [*RECIPES, *SETUPS], ids=name)
def test_the_header_names_the_versions_that_are_installed(path: Path) -> None:
    """Of torch, which requirements.txt leaves open, a newer one may be installed than the one that was seen."""
    for library in ("torch", "transformers", "trl", "peft"):
        (named,) = re.findall(rf"\b{library} (\d+\.\d+)", header(path))
        seen, installed = (Version(text).release[:2] for text in (named, importlib.metadata.version(library)))
        assert seen == installed or (library == "torch" and seen < installed), library


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_the_recipe_is_parsed_by_its_entry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {type(group): group for group in read(path, monkeypatch)}
    assert groups
    if data := groups.get(DataArguments):
        assert Path(data.task) in CARDS
        data.frames()
    if stage := groups.get(StageArguments):
        assert (stage.rationales is not None) == (stage.target != "label")
        assert stage.init == "base" or "stage1" in stage.init
    for group in groups.values():
        written = getattr(group, "output_dir", None) or getattr(group, "output_file", None)
        if isinstance(group, TrainingConfig | RationaleArguments):
            assert written
        assert written is None or written.startswith("outputs/"), "everything that is written lies below outputs/"


@pytest.mark.parametrize(
    ("setup", "base"), [(s, b) for s in SHARED for b in bases(s)], ids=lambda v: v.stem if isinstance(v, Path) else v
)
def test_every_stage_takes_every_setup_and_base(setup: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (*STAGES, *DRIVERS):
        words = ["--setup", str(setup), *(["--model_name_or_path", base] if kind not in DRIVERS else [])]
        read(FOLDER / f"{kind}.yaml", monkeypatch, *words)


def test_the_setups_are_for_the_bases_whose_configurations_are_shipped() -> None:
    assert sorted(bases(FOLDER / "setups/lora_80gb.yaml")) == sorted(bases(FOLDER / "setups/full_8gpu.yaml")) == BASES
    in_4_bit = [base for base in BASES if "Qwen3.5" not in base]  # not recommended there
    assert sorted(bases(FOLDER / "setups/qlora_24gb.yaml")) == in_4_bit
    for setup in SHARED:
        assert read_setup(setup)["model_name_or_path"] in bases(setup)


def test_the_setups_do_not_drift_apart() -> None:
    """What is not of the hardware or of full fine-tuning is the same in all."""
    for one, other in itertools.combinations(SHARED, 2):
        a, b = read_setup(one), read_setup(other)
        may = OF_THE_HARDWARE | (OF_FULL_TUNING if "use_peft" in a | b else set())
        assert {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)} <= may
        assert a["num_frames"] == b["num_frames"]
    for setup, processes in (("qlora_24gb", 1), ("lora_80gb", 1), ("full_8gpu", 8), ("../rbft_paper/setup", 8)):
        values = read_setup(FOLDER / f"setups/{setup}.yaml")
        batch = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * processes
        assert batch == 8, "the global batch of RB-FT"


@pytest.mark.parametrize("chain", CHAINS, ids=name)
def test_the_stages_fit_each_other(chain: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be equal along a chain is equal, so that the recipes run one after the other as they are."""
    folder, setup = chain
    stage0, first, second, direct, scored = (
        options(folder / f"{kind}.yaml", monkeypatch, "--setup", str(setup)) for kind in STAGES
    )
    later, earlier = (second, direct, scored), (stage0, first)
    frames = ["num_frames", "fps", "max_frames", "min_pixels", "max_pixels"]
    for key in ["task", "shots", "draw", "definitions", "model_name_or_path", "dtype", "load_in_4bit"]:
        assert len({str(recipe[key]) for recipe in (*earlier, *later)}) == 1, key
    for key in frames:
        groups = [earlier, later] if second["frames_may_differ"] else [(*earlier, *later)]
        assert all(len({str(recipe[key]) for recipe in group}) == 1 for group in groups), key
    for key in ("use_peft", "lora_r", "lora_alpha", "lora_dropout", "seed", "optim", "gradient_accumulation_steps"):
        assert str(first[key]) == str(second[key]) == str(direct[key]), key
    assert set(direct["train_parts"]) == set(second["train_parts"]) <= set(first["train_parts"])
    assert first["init"] == direct["init"] == "base" and second["init"] == first["output_dir"]
    assert first["rationales"] == stage0["output_file"]
    assert len({recipe["output_dir"] for recipe in (first, second, direct, scored)}) == 4
    if not first["use_peft"] and folder != FOLDER / "toy":
        assert not second["validate_by_score"], "sharded engines cannot"


def test_rbft_paper_has_the_published_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source: arXiv 2511.15923 and its authors' code; what is not known stands in the header of the setup."""
    first, second, scored = (
        options(FOLDER / f"rbft_paper/{kind}.yaml", monkeypatch) for kind in ("stage1", "stage2", "eval")
    )
    assert second["model_name_or_path"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    for stage, rate in ((first, 1e-6), (second, 1e-5)):
        assert stage["use_peft"] is False and stage["train_parts"] == ["llm", "merger", "vision"]
        rates = (stage["learning_rate"], stage["learning_rate_merger"], stage["learning_rate_vision"])
        assert rates == (rate, 1e-5, 2e-6)
        assert (stage["num_train_epochs"], stage["warmup_steps"], stage["weight_decay"]) == (3, 0.03, 0.1)
        assert (str(stage["lr_scheduler_type"].value), str(stage["optim"].value)) == ("cosine", "adamw_torch")
        assert stage["max_grad_norm"] == 1.0 and stage["max_pixels"] == 360 * 420
    assert first["num_frames"] == 8 and first["fps"] is None
    assert second["fps"] == scored["fps"] == 1.0 and scored["max_frames"] == 32 and scored["max_pixels"] == 360 * 420
    assert "Not known" in header(FOLDER / "rbft_paper/setup.yaml")


def test_a_copied_folder_runs_from_anywhere_and_reads_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "project/my_recipes"
    shutil.copytree(FOLDER, copy)
    setup = copy / "setups/qlora_24gb.yaml"
    setup.write_text(setup.read_text(encoding="utf-8").replace("num_frames: 16", "num_frames: 12"), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for kind in STAGES:
        got = options(copy / f"{kind}.yaml", monkeypatch)
        assert got["task"] == str(copy / "tasks/copy_me.yaml") and got["num_frames"] == 12
    compared = options(copy / "compare.yaml", monkeypatch)
    for key in STAGES:
        assert compared[key] == str(copy / f"{key}.yaml")
    cycles = options(copy / "star.yaml", monkeypatch)
    assert all(cycles[key] == str(copy / f"{key}.yaml") for key in ("rationales", "stage1", "eval"))


def test_the_table_of_the_readme_holds_every_recipe_setup_and_base() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in [*RECIPES, *SETUPS]:
        if path.parent.name not in ("toy", "toy_answers", "rbft_paper"):
            assert f"`{name(path)}`" in text
    assert all(f"`{base}`" in text for base in BASES)
    for folder in ("toy", "toy_answers", "rbft_paper"):
        assert f"`{folder}/" in text
    methods = EvalArguments.__dataclass_fields__["method"].metadata["choices"]
    assert [method for method in methods if f"\n| `{method}` |" not in text] == []


@pytest.mark.parametrize("path", CARDS, ids=name)
def test_the_card_is_read_and_asks(path: Path) -> None:
    card = TaskCard.from_yaml(path)
    assert header(path) and card.data is not None
    for definitions in (True, False):
        asked = card.label_prompt(definitions=definitions)
        hinted = card.rationale_prompt("17" if card.is_open else card.names[0], definitions=definitions)
        assert all(label in asked and label in hinted for label in card.names)
        assert "$" not in asked + hinted and card.final_line("").strip() in hinted
        assert len(hinted) > len(card.rationale_prompt(definitions=definitions)) > len(card.question)


def test_yaml_of_the_recipes_names_no_key_twice_in_setup_and_stage() -> None:
    """A stage's own line would win over its setup: only where the stages differ on purpose."""
    meant = {"toy": {"train_parts"}, "rbft_paper": {"learning_rate"}}
    for path in RECIPES:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        setups = SHARED if path.parent == FOLDER else [path.parent / "setup.yaml"]
        shared = set().union(*(yaml.safe_load(s.read_text(encoding="utf-8")) for s in setups))
        if path.stem not in DRIVERS:
            assert (raw.keys() & shared) <= meant.get(path.parent.name, set()), path
