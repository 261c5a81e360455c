"""What a setup gives to a recipe, which line wins, and that each mistake names the file in which it stands."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import compare, rationales, sft
from rbft_trl.cells import shared
from rbft_trl.compare_config import CompareArguments
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments
from rbft_trl.errors import UserError, run_entry
from rbft_trl.plan import OPTIONS
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.setups import OF_ONE_STAGE, read_setup
from tests.helpers import REPOSITORY, toy_recipe

STAGE0 = (DataArguments, ModelArguments, RationaleArguments)
EVAL = (DataArguments, ModelArguments, EvalArguments)
SETUP = {"task": "card.yaml", "model_name_or_path": "org/base", "learning_rate": 1e-4, "lora_r": 8}
SETUP |= {"per_device_batch_size": 3, "use_cpu": True, "report_to": "none"}
STAGE = {"init": "base", "target": "label", "output_dir": "out"}
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a setup and a recipe that names it; `recipe(setup={...}, **stage)` returns the recipe's path."""

    def both(setup: dict[str, Any] | None = None, **stage: Any) -> str:
        (tmp_path / "setups").mkdir(exist_ok=True)
        (tmp_path / "setups/s.yaml").write_text(yaml.safe_dump(SETUP | (setup or {})), encoding="utf-8")
        path = tmp_path / "stage.yaml"
        path.write_text(yaml.safe_dump({"setup": "setups/s.yaml"} | stage), encoding="utf-8")
        return str(path)

    return both


def said(argv: list[str], *classes: type) -> str:
    with pytest.raises(UserError) as caught:
        parse_recipe(argv, *classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_entry_takes_what_it_has(write: Write) -> None:
    data, base, adapters, stage, training = parse_recipe([write(**STAGE)], *OPTIONS)
    assert (data.task, base.model_name_or_path, adapters.lora_r, stage.init) == ("card.yaml", "org/base", 8, "base")
    assert training.learning_rate == 1e-4 and training.use_cpu
    _, base, stage0 = parse_recipe([write(output_file="r.jsonl")], *STAGE0)
    assert base.model_name_or_path == "org/base" and stage0.per_device_batch_size == 3 and stage0.use_cpu
    assert parse_recipe([write(output_dir="out")], *EVAL)[2].per_device_batch_size == 3


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_the_setup(write: Write) -> None:
    for stage, words, rate in [
        ({}, [], 1e-4),
        ({"learning_rate": 2e-4}, [], 2e-4),
        ({}, ["--learning_rate", "3e-4"], 3e-4),
        ({"learning_rate": 2e-4}, ["--learning_rate", "3e-4"], 3e-4),
    ]:
        assert parse_recipe([write(**STAGE, **stage), *words], *OPTIONS)[4].learning_rate == rate
    fewer = parse_recipe([write({"num_frames": 16}, **STAGE, num_frames=None, fps=1.0)], *OPTIONS)[0]
    assert (fewer.num_frames, fewer.fps) == (None, 1.0)  # null takes a key of the setup away


def test_another_setup_on_the_command_line_starts_at_the_current_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(**STAGE)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/other.yaml").write_text(yaml.safe_dump(SETUP | {"lora_r": 4}), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    assert parse_recipe([recipe, "--setup", "other.yaml"], *OPTIONS)[2].lora_r == 4
    assert parse_recipe(["--setup=other.yaml", "--init=base", "--target=label", "--output_dir=o"], *OPTIONS)[2].lora_r
    assert "'task' is missing" in said([recipe, "--setup", "null"], *OPTIONS)
    assert "the setup 'setups/s.yaml' is no file" in said([recipe, "--setup", "setups/s.yaml"], *OPTIONS)


def test_paths_in_a_setup_start_at_the_setup(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(**STAGE)
    for place in ("card.yaml", "setups/card.yaml"):
        (tmp_path / place).touch()
    monkeypatch.chdir("/")
    assert parse_recipe([recipe], *OPTIONS)[0].task == str(tmp_path / "setups/card.yaml")


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"learning_rat": 1e-3}, ["unknown key 'learning_rat'", "did you mean 'learning_rate'?"]),
        ({"max_seq_length": 400}, ["'max_seq_length' is now called max_length"]),
        ({"save_safetensors": True}, ["'save_safetensors' is gone", "leave it out"]),
        ({"learning_rate": "fast"}, ["'learning_rate' is 'fast' (str) but must be float"]),
        ({"on_bad_clip": "skip"}, ["'on_bad_clip' is 'skip'", "choose one of"]),
        ({"setup": "t.yaml"}, ["names no other setup"]),
        *[({key: "x"}, [f"'{key}' belongs to one stage"]) for key in OF_ONE_STAGE],
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_entry_refuses_a_wrong_setup_and_names_it(write: Write, setup: dict, words: list[str]) -> None:
    recipe = write(setup)
    for classes in (OPTIONS, STAGE0, EVAL):
        message = said([recipe], *classes)
        assert message.startswith(f"{Path(recipe).parent}/setups/s.yaml: ")
        assert all(word in message for word in words)


def test_keys_of_one_stage_exist() -> None:
    known = {spec.name for cls in (*OPTIONS, *STAGE0, *EVAL) for spec in dataclasses.fields(cls)}
    assert set(OF_ONE_STAGE) <= known


@pytest.mark.parametrize(
    ("setup", "stage", "words", "place"),
    [
        ({"use_peft": False}, {}, "'lora_r' is 8 but use_peft is false", "setups/s.yaml"),
        ({"learning_rate": 5}, {}, "'learning_rate' is 5.0 but must be", "setups/s.yaml"),
        ({"shots": 0}, {}, "'shots' is 0", "setups/s.yaml"),
        ({"dtype": "float16"}, {}, "dtype 'float16' gives NaN", "setups/s.yaml"),
        ({}, {"learning_rate": 5}, "'learning_rate' is 5.0 but must be", "stage.yaml"),
        ({"learning_rate": 5}, {"learning_rate": 6}, "'learning_rate' is 6.0 but must be", "stage.yaml"),
        ({}, {"target": "rationale"}, "target 'rationale' needs 'rationales'", "stage.yaml"),
    ],
)
def test_a_value_that_cannot_be_names_the_file_in_which_it_stands(
    write: Write, setup: dict, stage: dict, words: str, place: str
) -> None:
    recipe = write(setup, **STAGE | stage)
    message = said([recipe], *OPTIONS)
    assert message.startswith(f"{Path(recipe).parent / place}: ") and words in message


@pytest.mark.parametrize("setup", ["nowhere.yaml", 3, "setups"])
def test_a_setup_that_is_not_there_is_told_with_the_recipe(tmp_path: Path, setup: Any) -> None:
    (tmp_path / "setups").mkdir()
    recipe = tmp_path / "stage.yaml"
    recipe.write_text(yaml.safe_dump(STAGE | {"setup": setup}), encoding="utf-8")
    message = said([str(recipe)], *OPTIONS)
    assert message.startswith(f"{recipe}: the setup {setup!r} is no file") and "setups/qlora_24gb.yaml" in message


def test_what_is_found_after_parsing_names_the_setup_too(
    tmp_path: Path,
    toy_set: tuple,
    smoke_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The recipe was read long ago when the plan finds that a rate has no part to train."""
    recipe = Path(toy_recipe("direct", tmp_path, toy_set[0], smoke_base, train_parts=["llm"]))
    setup = tmp_path / "s.yaml"
    shared = yaml.safe_load((REPOSITORY / "recipes/toy/setup.yaml").read_text(encoding="utf-8"))
    setup.write_text(yaml.safe_dump(shared | {"learning_rate_vision": 1e-4}), encoding="utf-8")
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"setup": "s.yaml"}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["sft.py", str(recipe)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        run_entry(sft.main)
    assert f"error: {recipe}: {setup}: learning_rate_vision is set but train_parts" in capsys.readouterr().err


def test_frames_may_differ_is_asked_for(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    quick = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    card, texts = toy_set[0], tmp_path / "r.jsonl"
    stage0 = toy_recipe("rationales", tmp_path, card, smoke_base, checks="none", max_new_tokens=4, output_file=texts)
    rationales.main([stage0])
    first = quick | {"output_dir": tmp_path / "one", "rationales": texts}
    sft.main([toy_recipe("stage1", tmp_path, card, smoke_base, **first)])
    second = toy_recipe("stage2", tmp_path, card, smoke_base, **quick, init=tmp_path / "one", num_frames=4)
    with pytest.raises(UserError, match=r"was trained with frames = .*make them equal"):
        sft.main([second, "--output_dir", str(tmp_path / "two")])
    with pytest.warns(UserWarning, match="'num_frames': 8.*'num_frames': 4.*frames_may_differ is true"):
        record = sft.main([second, "--output_dir", str(tmp_path / "two"), "--frames_may_differ"])
    assert record["frames"]["num_frames"] == 4
    direct = toy_recipe("direct", tmp_path, card, smoke_base, frames_may_differ=True, output_dir=tmp_path / "three")
    with pytest.raises(UserError, match="'frames_may_differ' is true but init is base"):
        sft.main([direct])


def test_a_comparison_passes_its_setup_and_card_to_every_stage(tmp_path: Path) -> None:
    recipe, card = str(REPOSITORY / "recipes/compare.yaml"), str(tmp_path / "mine.yaml")
    shutil.copy(REPOSITORY / "recipes/tasks/copy_me.yaml", card)
    for setup in ("qlora_24gb", "lora_80gb", "full_8gpu"):
        file = str(REPOSITORY / f"recipes/setups/{setup}.yaml")
        (args,) = parse_recipe([recipe, "--setup", file, "--task", card], CompareArguments)
        assert shared(args) == ["--task", card, "--setup", file]
        if setup != "full_8gpu":  # of bf16 weights: refused in one process (test_full_precision.py)
            compare.check(args)
    (args,) = parse_recipe([recipe], CompareArguments)
    assert shared(args) == []
    compare.check(args)


def test_a_comparison_refuses_recipes_with_other_cards(tmp_path: Path) -> None:
    stage = yaml.safe_load((REPOSITORY / "recipes/stage1.yaml").read_text(encoding="utf-8"))
    stage |= {"setup": str(REPOSITORY / "recipes/setups/qlora_24gb.yaml"), "task": "other.yaml"}
    (tmp_path / "stage1.yaml").write_text(yaml.safe_dump(stage), encoding="utf-8")
    words = [str(REPOSITORY / "recipes/compare.yaml"), "--stage1", str(tmp_path / "stage1.yaml")]
    (args,) = parse_recipe(words, CompareArguments)
    with pytest.raises(UserError, match=r"'task' is other.yaml in .*stage1.yaml and differs in"):
        compare.check(args)


def test_what_is_shipped_is_a_setup() -> None:
    for file in (REPOSITORY / "recipes").rglob("*setup*/*.yaml"):
        assert read_setup(file)["model_name_or_path"].startswith("Qwen/")


class TestMessages:
    """What is said of files that lie elsewhere, or are another kind of file than they are taken for."""

    def test_a_folder_that_was_copied_alone_says_where_its_card_and_base_were_looked_for(
        self, toy_set: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = shutil.copytree(REPOSITORY / "recipes/toy", tmp_path / "home/project/toy")
        monkeypatch.chdir(tmp_path)
        folders = f"(looked for in '{copy}', '{copy.parent}', '{copy.parent.parent}')"
        with pytest.raises(UserError) as caught:
            sft.main([str(copy / "direct.yaml")])
        assert f"the task card 'tasks/toy.yaml' does not exist {folders}; recipes/tasks" in str(caught.value)
        with pytest.raises(UserError) as caught:
            sft.main([str(copy / "direct.yaml"), "--task", str(toy_set[0])])
        assert f"no processor could be loaded from 'toy/base' {folders}: " in str(caught.value)
        assert str(caught.value).endswith("; make the base with: make base")
        with pytest.raises(UserError) as caught:
            sft.main([str(copy / "direct.yaml"), "--task", "mine.yaml"])
        assert f"'mine.yaml' does not exist (looked for in '{tmp_path}'); recipes" in str(caught.value)

    def test_a_setup_that_is_not_there_says_where_it_was_looked_for(self, tmp_path: Path) -> None:
        recipe = tmp_path / "a/b/stage.yaml"
        recipe.parent.mkdir(parents=True)
        recipe.write_text(yaml.safe_dump(STAGE | {"setup": "s.yaml"}), encoding="utf-8")
        folders = f"'{tmp_path}/a/b', '{tmp_path}/a', '{tmp_path}'"
        assert f"the setup 's.yaml' is no file (looked for in {folders}); name one" in said([str(recipe)], *OPTIONS)

    def test_a_setup_of_the_command_line_starts_at_the_current_folder(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = write(**STAGE)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        message = said([recipe, "--setup", "setups/s.yaml"], *OPTIONS)
        assert message.startswith(f"the setup 'setups/s.yaml' is no file in the current folder '{tmp_path}/here', ")
        assert message.endswith(f"; write --setup {tmp_path}/setups/s.yaml"), "the one beside the recipe"
        message = said([recipe, "--setup", "setups/t.yaml"], *OPTIONS)
        assert "write --setup recipes/setups/qlora_24gb.yaml" in message
        assert "current folder" not in said([recipe, "--setup", "/setups/t.yaml"], *OPTIONS)

    @pytest.mark.parametrize(
        ("setup", "classes", "kind"),
        [
            ("setups/lora_80gb", OPTIONS, "stage1"),
            ("rbft_paper/setup", OPTIONS, "rbft_paper/stage1"),
            ("setups/lora_80gb", STAGE0, "rationales"),
            ("toy/setup", EVAL, "toy/eval"),
        ],
    )
    def test_a_setup_that_is_run_as_a_recipe_names_the_recipe_to_run(
        self, setup: str, classes: tuple[type, ...], kind: str
    ) -> None:
        file = REPOSITORY / f"recipes/{setup}.yaml"
        message = said([str(file)], *classes)
        assert message.startswith(f"'{file}' is a setup, ")
        assert message.endswith(f"run one with it, e.g. {REPOSITORY}/recipes/{kind}.yaml --setup {file}")
        parse_recipe([f"{REPOSITORY}/recipes/{kind}.yaml", "--setup", str(file)], *classes)

    def test_a_recipe_that_writes_everything_itself_is_no_setup(self, tmp_path: Path) -> None:
        recipe = tmp_path / "x.yaml"
        shared = {key: value for key, value in SETUP.items() if key != "per_device_batch_size"}
        recipe.write_text(yaml.safe_dump(shared | STAGE), encoding="utf-8")
        assert parse_recipe([str(recipe)], *OPTIONS)[3].target == "label"
        recipe.write_text(yaml.safe_dump(shared), encoding="utf-8")
        words = [word for key, value in STAGE.items() for word in (f"--{key}", value)]
        assert parse_recipe([str(recipe), *words], *OPTIONS)[3].target == "label"
