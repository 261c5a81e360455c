"""Video-STaR for real: the toy base on a few clips, two cycles, killed and started again, and what stops it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rbft_trl import eval as evaluation
from rbft_trl import rationales, sft, star
from rbft_trl.configs import DataArguments, EvalArguments, ModelArguments
from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence.yields import ROUTES
from rbft_trl.launched import run_launched
from rbft_trl.model.provenance import read_record
from rbft_trl.recipe import parse_recipe
from rbft_trl.start import open_task
from tests.helpers import REPOSITORY, base_arguments, toy_recipe
from tests.launching import cpu_twin

BASE = REPOSITORY / "toy/base"
QUICK = {"max_steps": 4, "num_train_epochs": ..., "per_device_train_batch_size": 4, "shots": ...}
Files = dict[str, Any]


@pytest.fixture(scope="module")
def recipe(toy_set: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("star")
    parts = {
        "rationales": toy_recipe("rationales", folder, toy_set[0], BASE, shots=..., per_device_batch_size=16),
        "stage1": toy_recipe("star_pairs", folder, toy_set[0], BASE, **QUICK),
        "eval": toy_recipe("eval", folder, toy_set[0], BASE, shots=..., max_new_tokens=32),
    }
    path = folder / "star.yaml"
    settings = {"cycles": 2, "min_rise": -1, "final_pairs": "kept", "output_dir": str(folder / "straight")}
    path.write_text(yaml.safe_dump(parts | settings))
    return path


@pytest.fixture(scope="module")
def straight(recipe: Path) -> dict[str, Any]:
    return star.main([str(recipe)])


def files_of(out: Path) -> Files:
    """All that a run decided, without times."""
    found: Files = {}
    for path in sorted(out.rglob("*.jsonl")):
        rows = read_jsonl(path)
        found[str(path.relative_to(out))] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    for path in sorted(out.rglob("adapter_model.safetensors")):
        found[str(path.relative_to(out))] = load_file(path)
    told = read_json(out / "star.json")
    told["cost"].pop("seconds")
    found["star.json"] = json.loads(json.dumps(told).replace(str(out), "OUT"))
    return found


def same(one: Files, other: Files) -> bool:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if key.endswith(".safetensors"):
            assert all(torch.equal(value[name], other[key][name]) for name in value), key
        else:
            assert value == other[key], key
    return True


def test_two_cycles_train_from_the_base_and_yields_add_up(straight: dict, recipe: Path, toy_set: tuple) -> None:
    out, card = recipe.parent / "straight", TaskCard.from_yaml(toy_set[0])
    assert straight == read_json(out / "star.json") and straight["stopped"] == "all 2 cycles were run"
    assert (out / "yields.png").read_bytes().startswith(b"\x89PNG")
    for number, cycle in enumerate(straight["cycles"]):
        assert cycle["clips"] == 32 == sum(cycle[way] for way in ROUTES)
        assert set(cycle["per_class"]) == set(card.names)
        assert all(sum(own.values()) == 4 for own in cycle["per_class"].values())
        samples = read_jsonl(out / f"cycle{number}/rationales.jsonl")
        blind = {s["id"] for s in samples if not s["shown"] and s["verdict"] == "kept"}
        hinted = {s["id"] for s in samples if s["shown"]}
        assert len(blind) == cycle["generated"] and not blind & hinted, "only failures are told the label"
        assert len(blind | hinted) == 32 and cycle["rationalised"] > 0
        record = read_record(out / f"cycle{number}/model")
        assert (
            record["init"] == "base" and record["parents"] == [] and record["weights"] == cycle["trained"]["weights"]
        )
    assert straight["cycles"][0]["written_by"] == "base"
    assert straight["cycles"][1]["written_by"] == straight["cycles"][0]["trained"]["weights"]
    summary = read_json(out / "cycle1/rationales.summary.json")
    assert summary["checkpoint"] == straight["cycles"][0]["trained"]["weights"]
    assert read_record(out / "cycle1/model")["rationales"]["checkpoint"] == summary["checkpoint"]
    assert straight["stages"]["final"]["init"] == "base" and straight["final"] == str(out / "final")
    assert straight["evaluation"]["n"] == 24 and straight["evaluation"]["generated_accuracy"] is not None
    trained = [read_record(out / name) for name in ("cycle0/model", "cycle1/model", "final")]
    assert straight["cost"]["presentations"] == sum(record["presentations"] for record in trained) == 48


def test_no_label_stands_in_a_prompt_that_is_trained(straight: dict, recipe: Path, toy_set: tuple) -> None:
    settings = yaml.safe_load(recipe.read_text())
    data, base = parse_recipe([settings["stage1"]], DataArguments, type(base_arguments(BASE)), *star.TRAINING)[:2]
    task = open_task(data, base)
    stage = parse_recipe([settings["stage1"]], DataArguments, type(base), *star.TRAINING)[3]
    stage.rationales = str(recipe.parent / "straight/cycle0/rationales.jsonl")
    rows = sft.make_plan(data, base, *parse_recipe([settings["stage1"], "--rationales", stage.rationales],
                         DataArguments, type(base), *star.TRAINING)[2:]).train  # fmt: skip
    hinted = {s["id"] for s in read_jsonl(stage.rationales) if s["shown"] and s["verdict"] == "kept"}
    assert hinted & {row["id"] for row in rows}
    plain, collator = task.card.rationale_prompt(definitions=False), task.collator()
    assert {collator.prompt_text(row) for row in rows} == {plain} and "expert" not in plain


def killed_at(recipe: Path, out: Path, reached: Callable[[], bool]) -> None:
    command = [sys.executable, "rbft_trl/star.py", str(recipe), "--output_dir", str(out)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    deadline = time.time() + 240
    while not reached():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_anywhere_and_started_again_gives_the_same_files(straight: dict, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    for point in ("cycle0/rationales.jsonl.rank0.part", "cycle0/model/recipe.json", "cycle1/rationales.jsonl"):
        killed_at(recipe, out, (out / point).exists)
        assert not (out / "star.json").exists()
    star.main([str(recipe), "--output_dir", str(out)])
    assert same(files_of(recipe.parent / "straight"), files_of(out))


def test_what_is_finished_is_not_done_again(
    straight: dict, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sft, "load_base", None)
    monkeypatch.setattr("rbft_trl.writers.load_for_inference", None)
    monkeypatch.setattr(evaluation, "load_for_inference", None)
    assert star.main([str(recipe)]) == straight
    assert "rationalised" in capsys.readouterr().out


def test_the_cycles_end_when_the_yield_does_not_rise_enough(straight: dict, recipe: Path) -> None:
    """In the same folder: only the rule differs, so all parts are there."""
    again = star.main([str(recipe), "--min_rise", "1.0"])
    assert "less than min_rise = 1.0" in again["stopped"] and again["cycles"][1]["trained"] is None
    best = max(straight["cycles"], key=lambda cycle: cycle["generated"])
    assert again["stages"]["final"]["cycle"] == best["cycle"]


def test_a_class_without_a_direct_answer_is_told_and_the_yields_are_kept(
    straight: dict, recipe: Path, capsys: pytest.CaptureFixture
) -> None:
    best = max(straight["cycles"], key=lambda cycle: cycle["generated"])
    lacking = [name for name, own in best["per_class"].items() if not own["generated"]]
    assert lacking, "four clips per class and a base at chance"
    with pytest.raises(UserError, match=rf"'{lacking[0]}' has no direct right answer .*final_pairs: kept"):
        star.main([str(recipe), "--final_pairs", "generated"])
    low = r"and the yield rose by -?0\.\d+, less than min_rise = 0\.9; lower min_rise"
    for words, ended in (
        ([], "and all 2 cycles were run; run more cycles, sample more"),
        (["--min_rise", "0.9"], f"{low} and run more cycles, sample more"),  # in the last cycle that is allowed
        (["--min_rise", "0.9", "--cycles", "5"], f"{low}, sample more"),
    ):
        with pytest.raises(UserError, match=ended):
            star.main([str(recipe), "--final_pairs", "generated", *words])
    told = read_json(recipe.parent / "straight/yields.json")["cycles"]
    assert [cycle["per_class"] for cycle in told] == [cycle["per_class"] for cycle in straight["cycles"]]
    assert "cycle  class" in capsys.readouterr().out, "the yields are printed before the final stage"


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("rationales", {"label_shown": "hint"}, "'label_shown' is 'hint' in .* needs 'blind_then_hint'"),
        ("rationales", {"checks": "none"}, "'checks' is 'none' in .* needs 'label_match'"),
        ("stage1", {"init": "outputs/x"}, "'init' is 'outputs/x' in .* needs 'base'"),
        ("stage1", {"label_in_prompt": True}, "'label_in_prompt' is True in"),
        ("stage1", {"target": "label", "rationales": None}, "'target' is 'label' in .* needs 'rationale'"),
        ("eval", {"definitions": True}, "'definitions' is False in .* differs in"),
        ("eval", {"min_decodable": 0.5}, "'min_decodable' is 1.0 in .* differs in"),
        ("eval", {"method": "probe"}, "has method 'probe' .* evaluated with score or reason"),
        ("eval", {"frame_order": "shuffled"}, "frame_order 'shuffled', .* original frames"),
        (
            "eval",
            {"calibrate": True, "split": "validation", "checkpoint": "outputs/x"},
            "calibrate needs a checkpoint, .*method 'reason'",
        ),
    ],
)
def test_recipes_that_are_no_star(recipe: Path, tmp_path: Path, part: str, change: dict, message: str) -> None:
    settings = yaml.safe_load(recipe.read_text())
    (tmp_path / "part.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path(settings[part]).read_text()) | change))
    wrong = tmp_path / "star.yaml"
    wrong.write_text(yaml.safe_dump(settings | {part: str(tmp_path / "part.yaml"), "output_dir": str(tmp_path / "o")}))
    with pytest.raises(UserError, match=message):
        star.main([str(wrong)])
    assert not (tmp_path / "o").exists()


def test_open_answers_are_evaluated_greedily_whatever_the_recipe_says() -> None:
    """docs/star.md's command with a card of numbers: recipes/eval.yaml says score, which is for classes."""
    cards = REPOSITORY / "recipes/tasks"
    options = parse_recipe([str(REPOSITORY / "recipes/star.yaml")], star.StarArguments)[0]
    told = [star.evaluated(options, TaskCard.from_yaml(str(cards / f"{card}.yaml"))) for card in ("toy_number", "toy")]
    assert told == [["--method", "greedy"], ["--method", "reason"]]
    options = [str(REPOSITORY / "recipes/eval.yaml"), "--task", str(cards / "toy_number.yaml")]
    assert parse_recipe([*options, *told[0]], DataArguments, ModelArguments, EvalArguments)[2].method == "greedy"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cycles", "0"], "'cycles' is 0 but must be at least 1"),
        (["--min_rise", "2"], "'min_rise' is 2.0 but must be a share"),
        (["--rationales", ""], "'rationales' is"),
        (["--seed", "-1"], "^the command line: 'seed' is -1 but must be from 0 to below 2"),
        (["--draw", "-1", "--shots", "2"], "'draw' is -1 but must be at least 0"),
        (["--launch", "nowhere.yaml"], "the launch file 'nowhere.yaml' does not exist"),
    ],
)
def test_options_that_make_no_sense(recipe: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        star.main([str(recipe), *words])


def test_several_processes_are_refused_with_the_way_out(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes .*launch: accelerate_configs/multi_gpu\.yaml"):
        star.main([str(recipe)])


def test_only_a_checkpoint_of_rationales_that_fits_may_write(
    straight: dict, recipe: Path, toy_set: tuple, tmp_path: Path
) -> None:
    model = recipe.parent / "straight/cycle0/model"
    write = lambda **changes: rationales.main(  # noqa: E731
        [toy_recipe("rationales", tmp_path, toy_set[0], BASE, output_file=tmp_path / "r.jsonl", **changes)]
    )
    with pytest.raises(UserError, match=r"checkpoint '.*nowhere' does not exist"):
        write(checkpoint=tmp_path / "nowhere")
    with pytest.raises(UserError, match="was trained with definitions = False"):
        write(checkpoint=model, definitions=True)
    with pytest.raises(UserError, match=r"but the server at .* writes"):
        write(checkpoint=model, server_url="http://localhost:1/v1")
    labels = toy_recipe("direct", tmp_path, toy_set[0], BASE, **QUICK, output_dir=tmp_path / "direct",
                        eval_strategy="no", save_strategy="no", load_best_model_at_end=False)  # fmt: skip
    sft.main([labels])
    with pytest.raises(UserError, match="was trained on bare labels"):
        write(checkpoint=tmp_path / "direct")
    assert not (tmp_path / "r.jsonl").exists()
    own = recipe.parent / "straight/cycle1/rationales.jsonl"
    with pytest.raises(UserError, match=r"was made with other settings \(checkpoint\)"):
        rationales.main(
            [yaml.safe_load(recipe.read_text())["rationales"], "--use_pool", "false", "--output_file", str(own)]
        )


@pytest.mark.slow
def test_a_part_is_launched_on_two_processes_and_its_failure_is_told(
    toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    recipe = toy_recipe("rationales", tmp_path, toy_set[0], smoke_base, output_file=file, max_new_tokens=4,
                        checks="none", per_device_batch_size=4)  # fmt: skip
    launch_file = str(cpu_twin(tmp_path, "multi_gpu"))
    run_launched(launch_file, "rationales", [recipe])
    ids = [(row["id"], row["sample"]) for row in read_jsonl(file)]
    assert len(ids) == len(set(ids)) and len({clip for clip, _ in ids}) == 2 * 8 + 8
    with pytest.raises(UserError, match=r"rbft_trl/rationales\.py ended with exit code \d+; its message stands above"):
        run_launched(launch_file, "rationales", [recipe, "--seed", "1"])
