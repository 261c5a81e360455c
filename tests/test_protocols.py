"""Protocols of a comparison on real runs: shots, parts, trials, other cards, novel classes, `accelerate launch`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import cells, compare, sft
from rbft_trl.arms import Step
from rbft_trl.compare_config import RECIPES, CompareArguments
from rbft_trl.costs import Place
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import UserError
from rbft_trl.model.provenance import read_record
from rbft_trl.recipe import parse_recipe
from tests.helpers import REPOSITORY, toy_recipe
from tests.test_compare import QUICK

TWO_ARMS = ["direct", "rbft"]
WATCHED = {"eval_strategy": "steps", "eval_steps": 0.5, "save_strategy": "steps", "save_steps": 0.5}
WATCHED |= {"load_best_model_at_end": True, "save_total_limit": 1}


def make_recipe(folder: Path, card: Path, base: Path, stage: dict[str, Any], **changes: Any) -> Path:
    """A comparison of two arms on a small data set, in one process and one epoch."""
    settings = {name: toy_recipe(name, folder, card, base, **stage) for name in ("stage1", "stage2", "direct")}
    settings["rationales"] = toy_recipe("rationales", folder, card, base, max_new_tokens=4, checks="none")
    settings["eval"] = toy_recipe("eval", folder, card, base, max_new_tokens=2)
    settings |= {"task": str(card), "output_dir": str(folder / "out"), "arms": TWO_ARMS, "seeds": 1}
    settings |= {"arms_folder": str(REPOSITORY / "recipes/arms")} | changes
    (folder / "compare.yaml").write_text(yaml.safe_dump(settings))
    return folder / "compare.yaml"


def test_shots_in_two_parts_with_trials_and_another_card(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "elsewhere.yaml"
    other.write_text(toy_set[0].read_text())
    trials = {"learning_rate": [1e-4, 5e-3]}
    more = {"seeds": 2, "first_draw": 5, "shots": [1, 2], "trials": trials, "elsewhere": [str(other)]}
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK | WATCHED, **more)
    for part in ("1/2", "2/2"):
        done = compare.main([str(recipe), "--part", part])
        assert [len(rung["arms"]["rbft"]["draws"]) for rung in done["rungs"]] == [1, 1]
        assert not (tmp_path / "out/comparison.json").exists()
    monkeypatch.setattr(sft, "load_base", None)  # the parts are gathered, nothing is trained again
    comparison = compare.main([str(recipe)])
    assert comparison["shots"] == [1, 2] and comparison["sentence"] == comparison["rungs"][-1]["sentence"]
    assert "each draw took 2 of 4 labelled clips per class" in comparison["sentence"]
    for rung in comparison["rungs"]:
        assert rung["labels"] == [4, 4]
        for arm in TWO_ARMS:
            assert [cell["draw"] for cell in rung["arms"][arm]["draws"]] == [5, 6]
            for cell in rung["arms"][arm]["draws"]:
                record = read_record(cell["checkpoint"])
                assert record["shots"] == rung["shots"] and record["draw"] == record["recipe"]["seed"] == cell["draw"]
                assert set(cell["trials"]) == {"0.0001", "0.005"}
                best = max(cell["trials"], key=cell["trials"].get)
                assert str(record["recipe"]["learning_rate"]) == best
                assert cell["validation_accuracy"] == cell["trials"][best]
                (there,) = cell["elsewhere"].values()  # the same clips under another name
                assert there["metrics"]["accuracy"] == cell["metrics"]["accuracy"]
                assert there["predictions"] != cell["predictions"]
                for key in ("steps", "presentations", "tokens", "flops", "seconds"):
                    assert cell[key] > 0
    one, two = (rung["arms"]["rbft"]["draws"][0] for rung in comparison["rungs"])
    assert two["presentations"] > one["presentations"]


def test_without_shots_draws_are_seeds_with_all_labels(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, seeds=2)
    for name in RECIPES:
        path = Path(yaml.safe_load(recipe.read_text())[name])
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"shots": None}))
    comparison = compare.main([str(recipe)])
    for arm in TWO_ARMS:
        cells = comparison["arms"][arm]["draws"]
        records = [read_record(cell["checkpoint"]) for cell in cells]
        assert [cell["draw"] for cell in cells] == [0, 1] == [record["recipe"]["seed"] for record in records]
        assert records[0]["trained_on"] == records[1]["trained_on"] and {r["shots"] for r in records} == {None}
        assert records[0]["curves"] != records[1]["curves"]
    assert "every draw had all labels and a seed of its own" in comparison["sentence"]


def test_a_value_of_trials_is_the_name_of_one_folder() -> None:
    """Ordinary values keep the names under which finished cells lie."""
    for value in ("0.0001", '["llm", "merger"]', "cosine", "null"):
        assert cells.folder_name(value) == value
    names = [cells.folder_name(value) for value in ("a/b", "a_b/", "../..", "/etc", "x" * 300, "x" * 301)]
    assert len(set(names)) == len(names) and all(Path(name).name == name and len(name) < 60 for name in names)


def test_shuffled_frames_are_a_diagnostic(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, shuffled_frames=True)
    cell = compare.main([str(recipe)])["arms"]["rbft"]["draws"][0]
    shuffled = read_jsonl(tmp_path / "out/draw0/rbft/eval_shuffled/predictions.jsonl")
    straight = read_jsonl(cell["predictions"])
    assert cell["shuffled_accuracy"] == sum(p["prediction"] == p["label"] for p in shuffled) / len(shuffled)
    assert [p["logprobs"] for p in shuffled] != [p["logprobs"] for p in straight]
    told = capsys.readouterr().out.split("does it use time?\n")[1].splitlines()
    (line,) = (line.split() for line in told if line.startswith("rbft "))
    assert line[2] == f"{100 * cell['shuffled_accuracy']:.1f}"


def test_arms_with_as_many_operations(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> None:
    """Labels are shorter than rationales, so that as many operations are more steps."""
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, arms=["direct", "direct_flops", "rbft", "captions"])
    arms = {name: entry["draws"][0] for name, entry in compare.main([str(recipe)])["arms"].items()}
    trained = {name: read_record(tmp_path / f"out/draw0/{name}") for name in ("direct/direct", "direct_flops/direct")}
    trained |= {name: read_record(tmp_path / f"out/draw0/{name}/stage1") for name in ("rbft", "captions")}
    both = trained["rbft"]["flops"] + read_record(tmp_path / "out/draw0/rbft/stage2")["flops"]
    assert trained["direct_flops/direct"]["flops"] > both, "stage 0 counts too"
    assert abs(trained["direct_flops/direct"]["flops"] / arms["rbft"]["flops"] - 1) < 0.1
    assert abs(trained["captions"]["flops"] / trained["rbft"]["flops"] - 1) < 0.15
    assert arms["direct_flops"]["steps"] > arms["direct"]["steps"] == arms["rbft"]["steps"]


def test_novel_classes(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The same clips under names of which the checkpoint has seen none, as another card's classes are."""
    raw = yaml.safe_load(toy_set[0].read_text())
    names = {name: f"{name}x" for name in raw["labels"]}
    table = toy_set[1] / "clips.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    kept = [lines[0]] + [[a, b, names[c], d, e] for a, b, c, d, e in lines[1:] if c and d == "test"]
    novel_table = toy_set[1] / "novel.csv"
    novel_table.write_text("\n".join(map(",".join, kept)) + "\n")
    raw["labels"] = {names[name]: meaning for name, meaning in raw["labels"].items()}
    raw["data"]["annotations"] = "novel.csv"
    del raw["checklist"]  # its answers speak for the other names
    novel = tmp_path / "novel.yaml"
    novel.write_text(yaml.safe_dump(raw, sort_keys=False))
    arms = [*TWO_ARMS, "majority"]  # which scores no labels there
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, novel=str(novel), arms=arms)
    comparison = compare.main([str(recipe)])
    printed = capsys.readouterr().out
    assert "left out: majority - not evaluated there" in printed.split("on novel, classes that were not trained on")[1]
    for arm in TWO_ARMS:
        (found,) = comparison["arms"][arm]["draws"][0]["elsewhere"].values()
        assert found["metrics"]["confusion"]["labels"] == list(names.values()) and found["metrics"]["n"] == 24


def test_each_stage_is_one_launch(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> None:
    launch = REPOSITORY / "accelerate_configs/cpu_2_processes.yaml"
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK | {"max_steps": 2}, launch=str(launch))
    comparison = compare.main([str(recipe)])
    direct, rbft = (comparison["arms"][arm]["draws"][0] for arm in TWO_ARMS)
    assert direct["steps"] == rbft["steps"] == 4
    assert direct["presentations"] == rbft["presentations"] == 4 * 8 * 2  # steps x batch x processes
    assert len(read_jsonl(rbft["predictions"])) == 24


def test_a_launch_that_fails_says_where(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = tmp_path / "none.yaml"
    launch.write_text("num_processes: 1\nnot_a_key: 3\n")
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, launch=str(launch))
    with pytest.raises(
        UserError, match=r"arm 'direct', draw 0: rbft_trl/rationales\.py ended with exit code .* its files lie"
    ):
        compare.main([str(recipe)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": [2, 1]}, "'shots' is .* rising order"),
        ({"trials": {"learning_rate": 1e-3}}, "'trials' is .* one key with its values"),
        ({"shots": [True]}, r"'shots' holds True \(bool\) but every element must be int"),
        ({"part": "3/2"}, "'part' is '3/2'"),
        ({"part": "3/9", "seeds": 2}, "'part' is '3/9' but 'seeds' is 2, so part 3 has no draw to run"),
        ({"launch": "nowhere.yaml"}, "the launch file 'nowhere.yaml' does not exist .*accelerate_configs"),
        ({"arms_folder": "nowhere"}, "arms_folder 'nowhere' holds no arm"),
    ],
)
def test_mistakes(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, **change)
    with pytest.raises(UserError, match=message):
        compare.main([str(recipe)])


def test_a_card_of_novel_or_elsewhere_that_does_not_fit_is_told_first(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    raw = yaml.safe_load(toy_set[0].read_text())
    del raw["checklist"]
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump(raw | {"labels": raw["labels"] | {"another": "A ninth class."}}, sort_keys=False))
    asked, meant = tmp_path / "asked.yaml", tmp_path / "meant.yaml"
    asked.write_text(yaml.safe_dump(raw | {"labels": {"a": "A.", "b": "B."}, "question": "What?"}, sort_keys=False))
    meant.write_text(yaml.safe_dump(raw | {"labels": dict.fromkeys(raw["labels"], "It is so.")}, sort_keys=False))
    for change, message in (
        ({"novel": str(more)}, "novel: .*more.yaml names .* as the comparison's own card does"),
        ({"elsewhere": [str(more)]}, "elsewhere: .*more.yaml and the comparison's own card differ in 'another'"),
        ({"novel": str(asked)}, "novel: .*asked.yaml has another question than the comparison's own card"),
        ({"elsewhere": [str(meant)]}, "elsewhere: .*meant.yaml has other prompts, definitions or another order"),
        ({"elsewhere": [str(toy_set[0])], "novel": str(toy_set[0])}, "which is the comparison's own card; take"),
    ):
        recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, **change)
        with pytest.raises(UserError, match=message):
            compare.main([str(recipe)])
        assert not (tmp_path / "out").exists()


def test_a_pool_that_is_too_small_is_told_before_anything_is_trained(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    arms = tmp_path / "arms"
    shutil.copytree(REPOSITORY / "recipes/arms", arms)
    text = "about: more\nsteps:\n  texts: {texts: own, source: <rbft/rationales>, times_labels: 9}\n"
    (arms / "more.yaml").write_text(text + "  stage1: {recipe: stage1, rationales: <texts>}\n")
    more = {"arms_folder": str(arms), "arms": [*TWO_ARMS, "more"]}
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, **more)
    with pytest.raises(UserError, match=r"arm 'more', step 'texts': times_labels is 9, which takes \d+ clips"):
        compare.main([str(recipe)])
    assert not (tmp_path / "out").exists()


def test_the_two_arms_of_the_answer_are_trained(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> None:
    arms = tmp_path / "arms"
    arms.mkdir()
    for name in TWO_ARMS:
        (arms / f"{name}.yaml").write_text((REPOSITORY / f"recipes/arms/{name}.yaml").read_text())
    (arms / "direct.yaml").write_text("about: nothing\nsteps: {}\n")
    (arms / "rbft_blind.yaml").write_text((REPOSITORY / "recipes/arms/rbft_blind.yaml").read_text())
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, arms_folder=str(arms))
    with pytest.raises(UserError, match="arm 'direct' trains nothing"):
        compare.main([str(recipe)])


def test_video_star_is_an_arm_like_others(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its parts get the draw and the shots of the comparison, and its result is scored as all others are."""
    parts = {name: toy_recipe(name, tmp_path, toy_set[0], smoke_base, **QUICK) for name in ("star_pairs", "stage2")}
    written = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, max_new_tokens=6, checks="label_match")
    scored = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, max_new_tokens=2)
    star = {"rationales": written, "stage1": parts["star_pairs"], "stage2": parts["stage2"], "eval": scored}
    star |= {"cycles": 1, "output_dir": str(tmp_path / "unused")}
    (tmp_path / "star.yaml").write_text(yaml.safe_dump(star))
    more = {"arms": [*TWO_ARMS, "star"], "star": str(tmp_path / "star.yaml"), "shots": [2]}
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, **more)
    comparison = compare.main([str(recipe)])
    assert (tmp_path / "out/shots2/draw0/star/star/cycle0/rationales.jsonl").is_file()
    (why,) = comparison["rungs"][0]["left_out"].values()  # the tiny base writes noise: the others go on without it
    assert "has no kept rationale" in why and "draw 0, 2 shots: cycle 0: generate" in why
    assert list(comparison["arms"]) == TWO_ARMS and f"left out: star - {why}" in capsys.readouterr().out


def test_a_comparison_without_its_main_arm_ends(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK)
    strict = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, max_new_tokens=4, label_shown="blind")
    with pytest.raises(UserError, match=r"without arm 'rbft' there is nothing to compare: draw 0: class .* has no"):
        compare.main([str(recipe), "--rationales", strict])


def test_the_parts_of_video_star_are_launched(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a driver itself, which refuses to be started in several processes."""
    asked: list[list[str]] = []
    monkeypatch.setattr(cells.star, "main", asked.append)
    recipe = make_recipe(tmp_path, toy_set[0], smoke_base, QUICK, launch="accelerate_configs/cpu_2_processes.yaml")
    run = cells.Cells(*parse_recipe([str(recipe)], CompareArguments), {})
    run.run("star", ["star.yaml", "--seed", "0"])
    assert asked == [["star.yaml", "--seed", "0", "--launch", run.args.launch]]


def test_the_yields_of_video_star_are_kept(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle = {"cycle": 0, "clips": 8, "generated": 1, "rationalised": 3, "dropped": 4}
    found = {"final": "somewhere", "cost": dict.fromkeys(cells.COSTS, 1), "cycles": [cycle | {"reasons": {}}]}
    (tmp_path / "star").mkdir()
    (tmp_path / "star/star.json").write_text(json.dumps(found))
    monkeypatch.setitem(cells.MAINS, "star", lambda argv: None)
    monkeypatch.setattr(cells, "read_record", lambda folder: {"steps": 1})
    run = cells.Cells(*parse_recipe([str(make_recipe(tmp_path, toy_set[0], smoke_base, QUICK))], CompareArguments), {})
    step = Step(name="star", entry="star", recipe="star", settings={})
    assert run.trained(step, [], tmp_path / "star", Place(0, None)).record["yields"] == [cycle]
