"""Every YAML file in recipes/ is read by the entry that its header names, with that entry's own options."""

import importlib
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from rbft_trl.configs import DataArguments, StageArguments
from rbft_trl.data.task import FINAL_LINE, TaskCard
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.training_config import TrainingConfig

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "recipes"
CARDS = sorted((FOLDER / "tasks").rglob("*.yaml"))
RECIPES = sorted(set(FOLDER.rglob("*.yaml")) - set(CARDS))
LAUNCH_FILE = re.compile(r"accelerate_configs/\w+\.yaml")


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def header(path: Path) -> str:
    """The comment lines at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def command(path: Path) -> str:
    (line,) = [line for line in header(path).splitlines() if line.startswith("# Command:")]
    return line


class Parsed(Exception):
    """Carries what an entry's first line, `parse_recipe(argv, ...)`, read."""


def read(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Starts the `main` of the recipe's entry and stops it as soon as it has read its options."""
    (script,) = re.findall(r"rbft_trl/(\w+)\.py", command(path))
    entry = importlib.import_module(f"rbft_trl.{script}")

    def stop(argv: list[str], *classes: type) -> typing.NoReturn:
        raise Parsed(*parse_recipe(argv, *classes))

    monkeypatch.setattr(entry, "parse_recipe", stop)
    with pytest.raises(Parsed) as parsed:
        entry.main([str(path)])
    return parsed.value.args


def test_there_are_recipes_and_cards() -> None:
    kinds = {"rationales.yaml", "stage1.yaml", "stage2.yaml", "direct.yaml", "eval.yaml"}
    assert kinds <= {name(path) for path in RECIPES} and {f"toy/{kind}" for kind in kinds} <= set(map(name, RECIPES))
    assert {"tasks/copy_me.yaml", "tasks/toy.yaml"} <= set(map(name, CARDS))


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_the_header_says_how_to_run_it_where_and_with_what(path: Path) -> None:
    text = header(path)
    assert str(path.relative_to(REPOSITORY)) in command(path)
    for file in [*re.findall(r"\w+/\w+\.py", command(path)), *LAUNCH_FILE.findall(command(path))]:
        assert (REPOSITORY / file).is_file(), file
    assert re.search(r"^# Hardware: \S", text, re.MULTILINE)
    for library in ("torch", "transformers", "trl"):
        assert re.search(rf"\b{library} \d+\.\d+", text), f"the version of {library}"


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


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "toy"], ids=name)
def test_the_stages_fit_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be equal along a chain is equal, so that the recipes run one after the other as they are."""
    stage0, first, second, direct, scored = (
        {key: value for group in read(folder / f"{kind}.yaml", monkeypatch) for key, value in vars(group).items()}
        for kind in ("rationales", "stage1", "stage2", "direct", "eval")
    )
    data = ["task", "shots", "draw", "definitions", "num_frames", "fps", "max_frames", "min_pixels", "max_pixels"]
    for key in [*data, "model_name_or_path", "dtype", "load_in_4bit"]:
        assert len({str(recipe[key]) for recipe in (stage0, first, second, direct, scored)}) == 1, key
    for key in ("use_peft", "lora_r", "lora_alpha", "lora_dropout", "seed", "optim"):
        assert str(first[key]) == str(second[key]) == str(direct[key]), key
    assert set(direct["train_parts"]) == set(second["train_parts"]) <= set(first["train_parts"])
    assert first["init"] == direct["init"] == "base"
    # A folder that a run makes may be there already, and is then named from above recipes/.
    assert Path(second["init"]).parts[-2:] == Path(first["output_dir"]).parts[-2:]
    assert Path(first["rationales"]).parts[-2:] == Path(stage0["output_file"]).parts[-2:]
    assert len({recipe["output_dir"] for recipe in (first, second, direct, scored)}) == 4


@pytest.mark.parametrize("path", CARDS, ids=name)
def test_the_card_is_read_and_asks(path: Path) -> None:
    card = TaskCard.from_yaml(path)
    assert header(path) and card.data is not None
    for definitions in (True, False):
        asked = card.label_prompt(definitions=definitions)
        hinted = card.rationale_prompt(card.names[0], definitions=definitions)
        assert all(label in asked and label in hinted for label in card.names)
        assert "$" not in asked + hinted and FINAL_LINE in hinted
        assert len(hinted) > len(card.rationale_prompt(definitions=definitions)) > len(card.question)
