"""What a comparison lacks in its data is told before anything is trained: clips of every card, shots, a checklist."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rbft_trl import compare
from rbft_trl.arms import Arm, Step
from rbft_trl.compare_config import CompareArguments
from rbft_trl.compare_data import check_oracle, check_truth
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY, toy_recipe
from tests.test_protocols import QUICK, TWO_ARMS, WATCHED, make_recipe

Row = dict[str, str]
Compare = Callable[..., None]
MINE = Arm("mine", "an arm", (), {}, None)


@pytest.fixture
def run(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> Compare:
    """Starts a comparison of the small toy set, which must end before it writes anything."""

    def start(card: Path | None = None, stage: dict[str, Any] | None = None, **changes: Any) -> None:
        recipe = make_recipe(tmp_path, card or toy_set[0], smoke_base, QUICK | (stage or {}), **changes)
        try:
            compare.main([str(recipe)])
        finally:
            assert not (tmp_path / "out").exists()

    return start


@pytest.fixture
def other(toy_set: tuple[Path, Path], tmp_path: Path) -> Callable[..., str]:
    """A copy of the toy's card with other rows, and other lines; `novel` renames its classes."""

    def make(change: Callable[[Row], Row | None] = dict, *, novel: bool = False, **lines: Any) -> str:
        raw = yaml.safe_load(toy_set[0].read_text())
        names = {name: f"{name}x" if novel else name for name in raw["labels"]}
        with (toy_set[1] / "clips.csv").open() as file:
            rows = [row | {"label": names.get(row["label"], "")} for row in csv.DictReader(file)]
        kept = [changed for row in rows if (changed := change(row)) is not None]
        table = toy_set[1] / f"{tmp_path.name}.csv"
        with table.open("w") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(kept)
        raw["labels"] = {names[name]: meaning for name, meaning in raw["labels"].items()}
        raw["data"]["annotations"] = table.name
        del raw["checklist"]
        card = tmp_path / "other.yaml"
        card.write_text(yaml.safe_dump(raw | lines, sort_keys=False))
        return str(card)

    return make


def held_out(row: Row) -> Row | None:
    return row if row["split"] == "test" else None


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_own_card_has_clips_to_train_and_to_test_on(
    run: Compare, other: Callable[..., str], split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card = other(lambda row: row if row["split"] != split else None)
    with pytest.raises(UserError, match=rf"^{card}: the {split} split has no labelled clip; a comparison trains and"):
        run(Path(card))
    assert "nan" not in capsys.readouterr().out


def test_a_stage_that_looks_at_validation_clips_which_are_not_there(
    run: Compare, other: Callable[..., str], toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    """Of whatever arm and stage; Video-STaR's own trainings are among them."""
    card = Path(other(lambda row: row if row["split"] != "validation" else None))
    said = "arm '{}', step '{}': eval_strategy is 'steps' but .*other.yaml has no validation clip; {}"
    for name, arm in (("direct", "direct"), ("stage1", "rbft"), ("stage2", "rbft")):
        watched = toy_recipe(name, tmp_path, card, smoke_base, **QUICK | WATCHED)
        with pytest.raises(UserError, match=said.format(arm, name, "set it to no")):
            run(card, **{name: watched})
    parts = {"stage1": toy_recipe("star_pairs", tmp_path, card, smoke_base, **QUICK | WATCHED)}
    parts |= {name: toy_recipe(name, tmp_path, card, smoke_base) for name in ("rationales", "eval")}
    (tmp_path / "star.yaml").write_text(yaml.safe_dump(parts | {"output_dir": "star"}))
    with pytest.raises(UserError, match=said.format("star", "star", "set it to no")):
        run(card, arms=[*TWO_ARMS, "shuffled", "star"], star=str(tmp_path / "star.yaml"))
    stages = {name: toy_recipe(name, tmp_path, card, smoke_base, **QUICK | WATCHED) for name in ("direct", "stage2")}
    with pytest.raises(UserError, match=said.format("direct", "direct", "give it some, .* or leave 'trials' out")):
        run(card, trials={"learning_rate": [1e-3, 1e-4]}, **stages)


def test_a_batch_that_is_more_than_the_labelled_clips(run: Compare, tmp_path: Path) -> None:
    """Told at the smallest number of shots, and without the way out that a comparison refuses."""
    said = "arm '{}', step '{}', {} shots: {} training rows do not fill one batch of {}, and dataloader_drop_last is "
    said += "true; lower per_device_train_batch_size or raise shots$"
    with pytest.raises(UserError, match=said.format("direct", "direct", 1, 8, 16)):
        run(shots=[1, 2], stage={"per_device_train_batch_size": 16})
    with pytest.raises(UserError, match=said.format("rbft", "stage2", 2, 16, 32)):  # those of the recipes
        run(arms=["rbft", "direct"], stage={"per_device_train_batch_size": 32})
    launch = tmp_path / "launch.yaml"
    launch.write_text("num_processes: 3\n")
    with pytest.raises(UserError, match=said.format("direct", "direct", 2, 16, 24)):
        run(launch=str(launch))


def test_a_card_without_a_checklist(run: Compare, other: Callable[..., str]) -> None:
    arms = [*TWO_ARMS, "checklist"]
    with pytest.raises(UserError, match=r"arm 'checklist', step 'rationales': .*other.yaml: 'checklist' is missing"):
        run(Path(other()), arms=arms)


@pytest.mark.parametrize("arm", ["probe", "heads"])
def test_a_rival_without_enough_clips_at_one_rung(run: Compare, arm: str) -> None:
    said = rf"arm '{arm}', 1 shots: .* needs 2 training clips per class, .* has 1; set shots to 2 or more"
    with pytest.raises(UserError, match=said):
        run(arms=[*TWO_ARMS, arm], shots=[1, 2])


def test_examples_that_are_more_than_the_clips(run: Compare, tmp_path: Path) -> None:
    arms = tmp_path / "arms"
    arms.mkdir()
    for name in TWO_ARMS:
        (arms / f"{name}.yaml").write_text((REPOSITORY / f"recipes/arms/{name}.yaml").read_text())
    (arms / "many.yaml").write_text("about: many\nevaluate: {method: in_context, num_examples: 17}\n")
    with pytest.raises(UserError, match=r"arm 'many': num_examples is 17 but there are 16 training clips; lower it"):
        run(arms=[*TWO_ARMS, "many"], arms_folder=str(arms))


@pytest.mark.parametrize("key", ["novel", "elsewhere"])
def test_clips_of_another_card_that_are_not_there(run: Compare, other: Callable[..., str], key: str) -> None:
    def named(card: str) -> Any:
        return card if key == "novel" else [card]

    gone = other(lambda row: held_out(row | {"video": f"none/{row['video']}"}), novel=key == "novel")
    with pytest.raises(UserError, match=f"{key}: 24 of 24 clips cannot be read: 24 missing, .*get the clips with"):
        run(**{key: named(gone)})
    untested = other(lambda row: row if row["split"] == "train" else None, novel=key == "novel")
    with pytest.raises(UserError, match=f"{key}: .*other.yaml: the test split has no labelled clip; give it clips"):
        run(**{key: named(untested)})


def test_a_source_of_another_cards_test_clips_that_is_trained_on(
    run: Compare, other: Callable[..., str], toy_set: tuple[Path, Path]
) -> None:
    with (toy_set[1] / "clips.csv").open() as file:
        groups = {row["split"]: row["group"] for row in csv.DictReader(file) if row["label"]}
    said = r"1 groups of its test split, e\.g\. '{}', are among the training or validation clips of .*toy.yaml"
    for split in ("train", "validation"):
        there = other(lambda row, split=split: held_out(row | {"group": groups[split]}), novel=True)
        with pytest.raises(UserError, match="novel: .*other.yaml: " + said.format(groups[split])):
            run(novel=there, shots=[2, 4])


def test_a_source_that_no_draw_shows_is_no_leak(
    run: Compare,
    other: Callable[..., str],
    toy_set: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of four labelled clips of a class the draws take one each."""
    with (toy_set[1] / "clips.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train" and row["label"]]
    left = [row["group"] for row in rows if row["label"] == rows[0]["label"]]
    monkeypatch.setattr(compare, "run_rung", lambda run, shots: (_ for _ in ()).throw(KeyboardInterrupt))
    passed = []
    for group in left:
        there = other(lambda row, group=group: held_out(row | {"group": group}), novel=True)
        try:
            run(novel=there, shots=[1])
        except KeyboardInterrupt:
            passed.append(group)
        except UserError as error:
            assert group in str(error)
    assert len(passed) == len(left) - 1


def test_files_that_are_trained_on_under_another_name(run: Compare, other: Callable[..., str]) -> None:
    def renamed(row: Row) -> Row | None:
        new = row | {"split": "test", "group": f"new {row['group']}"}
        return new if row["split"] == "train" and row["label"] else None

    with pytest.raises(UserError, match=r"novel: .*other.yaml: \d+ files of its test split are among the training"):
        run(novel=other(renamed, novel=True))


def test_other_words_than_those_that_were_trained(run: Compare, other: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"elsewhere: .*other.yaml has other prompts, definitions or another order"):
        run(elsewhere=[other(held_out, question="What is it?")])
    with pytest.raises(UserError, match=r"novel: .*other.yaml has another question than the comparison's own card"):
        run(novel=other(held_out, novel=True, question="What is it?"))


def test_cards_of_a_recipe_are_looked_for_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks").mkdir()
    cards = [str(tmp_path / f"tasks/{name}.yaml") for name in ("there", "new")]
    for card in cards:
        Path(card).write_text("task: x\n")
    recipe = tmp_path / "compare.yaml"
    lines = dict.fromkeys(("output_dir", "rationales", "stage1", "stage2", "direct", "eval"), "x")
    recipe.write_text(
        yaml.safe_dump(lines | {"elsewhere": ["tasks/there.yaml", "no.yaml"], "novel": "tasks/new.yaml"})
    )
    monkeypatch.chdir("/")
    (args,) = parse_recipe([str(recipe)], CompareArguments)
    assert (args.elsewhere, args.novel) == ([cards[0], "no.yaml"], cards[1])
    (args,) = parse_recipe([str(recipe), "--elsewhere", "[tasks/there.yaml]"], CompareArguments)
    assert args.elsewhere == ["tasks/there.yaml"] and not os.path.exists(args.elsewhere[0])  # of the current folder


def test_true_descriptions_of_labelled_clips_alone() -> None:
    """With `times_labels: 1` no text of the pool is used, so none is asked for."""
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)
    rows = [
        {"id": name, "video": name, "label": label, "split": "train"} for name, label in (("a", "dorvan"), ("b", None))
    ]
    run, whole = SimpleNamespace(truth={"a": {"text": "It moves."}}), SimpleNamespace(rows=rows, card=card)
    step = Step("texts", "texts", "oracle", {"times_labels": 1})
    check_oracle(run, [(MINE, step)], whole)
    with pytest.raises(UserError, match=r"^arm 'mine', step 'texts': oracle_texts has no text for clip 'b'"):
        check_oracle(run, [(MINE, step), (MINE, Step("texts", "texts", "oracle"))], whole)
    misspelt = Step("texts", "texts", "oracle", {"column": "txt"})
    with pytest.raises(UserError, match=r"'column' is 'txt', which no line .* did you mean 'text'.* have text"):
        check_oracle(run, [(MINE, misspelt)], whole)


def test_the_truth_is_of_the_clips_of_the_task() -> None:
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)
    whole = SimpleNamespace(rows=[{"id": "a", "label": "dorvan"}, {"id": "b", "label": None}], card=card)
    check_truth({"a": {"label": "dorvan"}, "b": {"label": "miloren"}}, whole)
    with pytest.raises(UserError, match=r"the label of clip 'a' is 'miloren', but .*toy.yaml has 'dorvan'; correct"):
        check_truth({"a": {"label": "miloren"}}, whole)
    with pytest.warns(match="tells of 1 clips that .*toy.yaml does not have, e.g. 'A'; these lines are not used"):
        check_truth({"a": {}, "A": {"text": "It moves."}}, whole)


def test_labels_of_the_pool_are_asked_for_before_anything_runs() -> None:
    """Arms on labels of the pool need the class of every clip that has none in the table."""
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml", with_data=False)
    rows = [
        {"id": name, "video": name, "label": label, "split": "train"} for name, label in (("a", "dorvan"), ("b", None))
    ]
    whole, step = SimpleNamespace(rows=rows, card=card), Step("texts", "texts", "labels")
    told = {"a": {"text": "It moves."}, "b": {"label": "miloren"}}
    check_oracle(SimpleNamespace(truth=told), [(MINE, step)], whole)
    for lost, said in (("b", None), ("b", "Miloren")):
        truth = told | {lost: {"label": said}}
        with pytest.raises(
            UserError, match=f"oracle_texts: the label of clip '{lost}' is {said!r}, which is no class"
        ):
            check_oracle(SimpleNamespace(truth=truth), [(MINE, step)], whole)
    pool = Step("texts", "texts", "shuffled", {"source": "<rbft/rationales>", "pool": True})
    assert pool.knows_truth and not Step("texts", "texts", "shuffled").knows_truth
    with pytest.raises(UserError, match="the label of clip 'b' is None"):
        check_oracle(SimpleNamespace(truth={"a": told["a"]}), [(MINE, pool)], whole)
