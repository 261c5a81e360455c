"""Pushing with the real client to a Hub on loopback, and what a stranger with an empty cache can do with it.

Xet is off here (HF_HUB_DISABLE_XET=1): uploads go by LFS over HTTP. Author and stranger are two processes.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl.data.jsonl import read_jsonl
from tests.helpers import toy_recipe
from tests.hub_process import PUSH, QUICK, HubProcess, expect_clean
from tests.hub_server import HubServer


@pytest.fixture(scope="module")
def stage1(hub: HubServer, me: HubProcess, place: Path, toy_set: tuple, smoke_base: Path) -> Path:
    """Stage 1, pushed at every save and at the end, to a public repository."""
    common = {"output_file": place / "r.jsonl", "checks": "none", "label_shown": "hint", "max_new_tokens": 8}
    me.ok("rationales", toy_recipe("rationales", place, toy_set[0], smoke_base, **common))
    changes = QUICK | PUSH | {"hub_model_id": "me/stage1", "hub_strategy": "every_save", "save_strategy": "steps"}
    changes |= {"save_steps": 1, "rationales": place / "r.jsonl", "output_dir": place / "stage1"}
    me.ok("sft", toy_recipe("stage1", place, toy_set[0], smoke_base, **changes))
    return place / "stage1"


@pytest.fixture(scope="module")
def stage2(stage1: Path, me: HubProcess, place: Path, toy_set: tuple, smoke_base: Path) -> Path:
    """Stage 2 from the stage 1 that was pushed, named by its id; pushed at the end."""
    changes = QUICK | PUSH | {"init": "me/stage1", "hub_model_id": "me/stage2", "output_dir": place / "stage2"}
    me.ok("sft", toy_recipe("stage2", place, toy_set[0], smoke_base, **changes))
    return place / "stage2"


@pytest.fixture(scope="module")
def clip(toy_set: tuple) -> Path:
    return sorted((toy_set[1] / "clips").iterdir())[0]


def scores(process: HubProcess, model: Any, clip: Path, *argv: str) -> dict[str, float]:
    out = process.cwd / f"scores_{len(list(process.cwd.iterdir()))}.jsonl"
    process.ok("predict", clip, "--model", model, "--use_cpu", "--workers", "0", "--output", out, *argv)
    return read_jsonl(out)[0]["scores"]


def test_a_run_pushes_every_save_and_its_end(stage1: Path, hub: HubServer, place: Path) -> None:
    repo = hub.repos["models", "me/stage1"]
    record = json.loads((stage1 / "rbft.json").read_text())
    assert "step 1" in repo.messages[1] and record["weights"] in repo.messages[-1] and not repo.private
    first, last = repo.commits[list(repo.commits)[1]], repo.files
    assert b"still going on (step 1)" in first["README.md"] and b"still going on" not in last["README.md"]
    assert first["adapter_model.safetensors"] != last["adapter_model.safetensors"]
    assert last["adapter_model.safetensors"] == (stage1 / "adapter_model.safetensors").read_bytes()
    for files in (first, last):
        expect_clean(files, str(place), "camera0000")
    assert (stage1 / "training_args.bin").is_file() and not list(place.glob(".push_*"))
    config = json.loads(last["adapter_config.json"])
    commit = hub.repos["models", "org/base"].head
    assert config["base_model_name_or_path"] == "org/base" and config["revision"] == commit
    own = json.loads((stage1 / "adapter_config.json").read_text())
    assert own["base_model_name_or_path"].startswith("/")  # the run's own folder is as it was


def test_a_stage_starts_from_a_pushed_parent(stage2: Path, hub: HubServer) -> None:
    record, parent = json.loads((stage2 / "rbft.json").read_text()), hub.repos["models", "me/stage1"]
    assert record["parents"][0]["hub"] == f"me/stage1@{parent.head}"
    assert record["init"] == json.loads(parent.files["rbft.json"])["weights"] == record["parents"][0]["weights"]
    assert any(name.startswith("sha256:") for name in record["trained_on"])
    pushed = hub.repos["models", "me/stage2"].files
    assert yaml.safe_load(pushed["recipe.yaml"])["init"] == f"me/stage1@{parent.head}"
    assert f"me/stage1\\@{parent.head}".encode() in pushed["README.md"]


def test_pushed_clips_of_the_parent_cannot_become_test_clips(
    stage1: Path, me: HubProcess, place: Path, toy_set: tuple, smoke_base: Path
) -> None:
    raw = yaml.safe_load(Path(toy_set[0]).read_text())
    lines = (toy_set[1] / "clips.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    pool = {row[4] for row in rows if not row[2]}
    chosen = next(g for g in json.loads((stage1 / "rbft.json").read_text())["trained_on"] if g not in pool)
    rows = [[*row[:3], "test" if row[4] == chosen else row[3], *row[4:]] for row in rows]
    (toy_set[1] / "moved.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    raw["data"]["annotations"] = "moved.csv"
    (place / "moved.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    recipe = toy_recipe(
        "stage2", place, place / "moved.yaml", smoke_base, **QUICK, init="me/stage1", output_dir=place / "no"
    )
    done = me.run("sft", recipe)
    assert done.code == 2, done.said
    assert f"'{chosen}', were used to train" in done.said and not (place / "no").exists()


def test_pushed_again_with_metrics_then_without_a_change(
    stage2: Path, me: HubProcess, hub: HubServer, place: Path, toy_set: tuple, smoke_base: Path, clip: Path
) -> None:
    recipe = toy_recipe("eval", place, toy_set[0], smoke_base, output_dir=place / "eval", generate=False)
    me.ok("eval", recipe, "--checkpoint", "me/stage2")  # by its id: the weights are the same
    command = [stage2, "--repo", "me/stage2", "--base_id", "org/base", "--private", "false", "--license", "apache-2.0"]
    command += ["--eval", place / "eval", "--clip", clip, "--use_cpu"]
    before = len(hub.repos["models", "me/stage2"].commits)
    assert "pushed" in me.ok("push", *command)
    assert "nothing to push" in me.ok("push", *command)
    repo = hub.repos["models", "me/stage2"]
    assert len(repo.commits) == before + 1
    expect_clean(repo.files, str(place), "camera0000")
    card = repo.files["README.md"].decode()
    metrics = json.loads(repo.files["metrics.json"])
    assert f"| accuracy | {metrics['accuracy']:.3f} |" in card and "printed:" in card
    done = me.run("push", stage2, "--repo", "me/stage2", "--base_id", "org/base")
    assert done.code == 2 and "is public already" in done.said


def test_a_stranger_classifies_with_the_snippet_of_the_card(
    stage2: Path, stranger: HubProcess, me: HubProcess, hub: HubServer, clip: Path
) -> None:
    local = scores(me, stage2, clip)
    assert scores(stranger, "me/stage2", clip) == pytest.approx(local, abs=1e-6)
    (stranger.cwd / "clip.mp4").write_bytes(clip.read_bytes())
    snippet = re.search(
        r"```python\n(.*?)```", hub.repos["models", "me/stage2"].files["README.md"].decode(), re.DOTALL
    )
    said = stranger.ok("python", snippet[1])
    ranked = sorted(local.items(), key=lambda pair: -pair[1])[:3]
    answers = re.findall(r"\{'label': '(\w+)', 'score': ([\d.]+)\}", said)
    assert [(label, pytest.approx(score, abs=1e-6)) for label, score in ranked] == [
        (label, float(score)) for label, score in answers
    ]


def my_card(snapshot: Path, root: Path, out: Path) -> Path:
    """What the card tells a stranger to write: the pushed card and its prompts, with a `data` part."""
    raw = yaml.safe_load((snapshot / "task_card.yaml").read_text())
    raw |= {"prompts": str(snapshot / "prompts"), "data": {"root": str(root), "annotations": "clips.csv"}}
    out.write_text(yaml.safe_dump(raw, sort_keys=False))
    return out


def snapshot_of(place: Path, hub: HubServer, name: str, home: str = "other_home") -> Path:
    folder = place / f"{home}/hub/models--{name.replace('/', '--')}/snapshots"
    return folder / hub.repos["models", name].head


def test_the_recipe_of_a_pushed_folder_runs_and_gives_the_same_losses(
    stage2: Path, stranger: HubProcess, hub: HubServer, place: Path, toy_set: tuple, clip: Path
) -> None:
    scores(stranger, "me/stage2", clip)
    snapshot = snapshot_of(place, hub, "me/stage2")
    done = stranger.run("sft", snapshot / "recipe.yaml")
    assert done.code == 2 and "'data' is missing" in done.said and "Traceback" not in done.said
    card = my_card(snapshot, toy_set[1], stranger.cwd / "my_card.yaml")
    stranger.ok("sft", snapshot / "recipe.yaml", "--task", card)
    runs = [json.loads((folder / "rbft.json").read_text()) for folder in (stage2, stranger.cwd / "outputs/label")]
    losses = [[entry["loss"] for entry in run["curves"] if "loss" in entry] for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_with_a_dataset_of_the_hub_the_recipe_runs_as_it_is(
    me: HubProcess, stranger: HubProcess, hub: HubServer, place: Path, toy_set: tuple, smoke_base: Path, clip: Path
) -> None:
    data = hub.put("org/clips", toy_set[1], kind="datasets")
    raw = yaml.safe_load(Path(toy_set[0]).read_text())
    raw["data"] = {"dataset": "org/clips", "annotations": "clips.csv"}
    (place / "on_hub.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    changes = QUICK | PUSH | {"use_peft": False, "lora_r": ..., "lora_alpha": ..., "lora_dropout": ...}
    changes |= {"hub_model_id": "me/full", "output_dir": place / "full", "init": "base"}
    me.ok("sft", toy_recipe("direct", place, place / "on_hub.yaml", smoke_base, **changes))
    files = hub.repos["models", "me/full"].files
    expect_clean(files, str(place))
    assert yaml.safe_load(files["training_card.yaml"])["data"] == raw["data"] | {"revision": data}
    assert "datasets:\n- org/clips\n" in files["README.md"].decode()
    local = scores(me, place / "full", clip)
    before = hub.seen["GET /org/base/resolve/main/model.safetensors"]
    assert scores(stranger, "me/full", clip) == pytest.approx(local, abs=1e-6)  # full weights need no base
    assert hub.seen["GET /org/base/resolve/main/model.safetensors"] == before
    stranger.ok("sft", snapshot_of(place, hub, "me/full") / "recipe.yaml", "--output_dir", stranger.cwd / "again")
    runs = [json.loads((folder / "rbft.json").read_text()) for folder in (place / "full", stranger.cwd / "again")]
    assert runs[0]["weights"] == runs[1]["weights"]


def test_merged_weights_are_private_unless_asked_and_need_no_base(
    stage2: Path, me: HubProcess, stranger: HubProcess, hub: HubServer, place: Path, clip: Path
) -> None:
    me.ok("merge", stage2, "--output", place / "merged", "--clips", clip, "--use_cpu")
    me.ok("push", place / "merged", "--repo", "me/merged")
    repo = hub.repos["models", "me/merged"]
    assert repo.private and "adapter_config.json" not in repo.files
    expect_clean(repo.files, str(place), "camera0000")
    done = stranger.run("predict", clip, "--model", "me/merged", "--output", stranger.cwd / "no.jsonl")
    assert done.code == 2 and "nothing of that id comes from the Hub" in done.said
    assert scores(me, "me/merged", clip) == pytest.approx(scores(me, place / "merged", clip), abs=1e-6)
