"""Wrong recipes, cards and data, each given to a real command: one clear sentence, no traceback, no weights opened.

The base is whole but for its weights, which are garbage: whoever opens them fails with another sentence, as the
right recipes at the end show.
"""

import csv
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from rbft_trl.configs import AdapterArguments
from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.data.rows import load_rows
from rbft_trl.data.splits import draw_shots
from rbft_trl.data.task import TaskCard
from rbft_trl.model.loading import base_fingerprint
from rbft_trl.model.provenance import weights_fingerprint, write_record
from tests.forked import run_forked
from tests.helpers import FRAMES, REPOSITORY, toy_recipe

Done = CompletedProcess[str]
WEIGHTS_OPENED = ("SafetensorError", "no model could be loaded from")
TOO_LONG = "sft.py direct.yaml --max_length 60 --output_dir out/long"

# What is wrong → the command behind rbft_trl/, and what its sentence must hold: value, place, way out.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "unknown key": ("sft.py colour.yaml", ["colour.yaml", "unknown key 'colour'", "remove it"]),
    "misspelt key": ("sft.py learning_rat.yaml", ["'learning_rat'", "did you mean 'learning_rate'?"]),
    "misspelt override": ("eval.py eval.yaml --spilt test", ["command line", "'spilt'", "did you mean 'split'?"]),
    "key of another entry": ("rationales.py rationales.yaml --lora_r 8", ["'lora_r'", "remove it"]),
    "torch_dtype": ("eval.py torch_dtype.yaml", ["torch_dtype.yaml", "'torch_dtype' is now called dtype"]),
    "max_seq_length": ("sft.py max_seq_length.yaml", ["'max_seq_length' is now called max_length"]),
    "evaluation_strategy": ("sft.py evaluation_strategy.yaml", ["is now called eval_strategy"]),
    "gradient_checkpointing": ("sft.py direct.yaml --gradient_checkpointing", ["called activation_checkpointing"]),
    "text for a number": ("rationales.py shots.yaml", ["shots.yaml", "'shots' is 'two'", "int or null"]),
    "no choice": ("sft.py direct.yaml --target labels", ["--target is 'labels'", "did you mean 'label'?", "choose"]),
    "no recipe": ("sft.py nowhere.yaml", ["'nowhere.yaml' does not exist", "recipes/README.md"]),
    "no YAML": ("sft.py broken.yaml", ["'broken.yaml' is not valid YAML", "line 2"]),
    "two recipes": ("sft.py direct.yaml stage1.yaml", ["'stage1.yaml' is a second recipe", "give one"]),
    "fp16": ("sft.py direct.yaml --fp16", ["direct.yaml with the command line", "fp16 gives NaN", "bf16: true"]),
    "float16": ("rationales.py rationales.yaml --dtype=float16", ["dtype 'float16' gives NaN", "use bfloat16"]),
    "packing": ("sft.py packing.yaml", ["packing.yaml", "'packing' is set to True", "leave it out"]),
    "odd frames": ("rationales.py rationales.yaml --num_frames 7", ["num_frames is 7", "even number of at least 2"]),
    "frames and rate": ("rationales.py rationales.yaml --fps 2", ["num_frames is 8 and fps is 2.0", "exactly one"]),
    "no such arm": ("compare.py compare.yaml --arms [rbtf,direct]", ["'rbtf'", "did you mean 'rbft'?"]),
    "no flash attention": (
        "sft.py direct.yaml --attn_implementation flash_attention_2",
        ["'flash_attention_2'", "attn_implementation: sdpa"],
    ),
    "no model": ("eval.py eval.yaml --model_name_or_path ./cards", ["'./cards' holds no config.json", "Hub id"]),
    "no card": ("eval.py eval.yaml --task cards/no.yaml", ["'cards/no.yaml' does not exist", "copy_me.yaml"]),
    "misspelt card key": ("eval.py eval.yaml --task cards/key.yaml", ["key.yaml", "'lables'", "'labels'"]),
    "no data": (
        "eval.py eval.yaml --task cards/root.yaml",
        ["root.yaml", "nowhere' is no folder", "python toy/clips"],
    ),
    "label not in card": (
        "rationales.py rationales.yaml --task cards/label.yaml",
        ["label.csv:2", "label 'Dorvan'", "the card spells it 'dorvan'", "correct"],
    ),
    "empty class": (
        "rationales.py rationales.yaml --task cards/class.yaml",
        ["class 'dorvan' of cards/class.yaml has no labelled training clip", "add some or remove the label"],
    ),
    "leak by group": (
        "rationales.py rationales.yaml --task cards/group.yaml",
        ["leak: group 'one'", "in train", "in test", "belong to one split"],
    ),
    "leak by file": (
        "rationales.py rationales.yaml --task cards/copy.yaml",
        ["leak:", "'clips/copy.mp4' (test)", "(train)", "keep one of them"],
    ),
    "missing clip": (
        "rationales.py rationales.yaml --task cards/missing.yaml",
        ["1 of 80 clips cannot be read: 1 missing", "'clips/nowhere.mp4'", "correct the path"],
    ),
    "path out of the root": (
        "rationales.py rationales.yaml --task cards/outside.yaml",
        ["outside.csv:2", "'../secret.mp4'", "leaves data.root", "write a path below it"],
    ),
    "many shots": ("rationales.py rationales.yaml --shots 5", ["shots is 5", "has 4 training clips", "lower shots"]),
    "no rationales": (
        "sft.py stage1.yaml --rationales nowhere.jsonl",
        ["'nowhere.jsonl' does not exist", "run the step"],
    ),
    "rationales of another draw": (
        "sft.py stage1.yaml --rationales draw1.jsonl",
        ["draw1.jsonl:", "not a training clip of this draw", "same task, shots and draw"],
    ),
    "class without a rationale": (
        "sft.py stage1.yaml --rationales dropped.jsonl",
        ["class 'dorvan' has no kept rationale: 0 of 2", "blind_then_hint"],
    ),
    "stage 2 without init": ("sft.py no_init.yaml", ["no_init.yaml", "'init' is missing", "init: base"]),
    "init is not there": ("sft.py stage2.yaml --init nowhere", ["'nowhere' does not exist", "correct the path"]),
    "init is no checkpoint": ("sft.py stage2.yaml --init cards", ["'cards' holds no rbft.json", "finish that run"]),
    "other base": (
        "sft.py stage2.yaml --init parents/base",
        ["'parents/base'", "base = 0123456789ab", "equal or train"],
    ),
    "parent that learnt labels": (
        "sft.py stage2.yaml --init parents/labels_learnt",
        ["'parents/labels_learnt'", "trained on labels already", "name the folder of a stage 1"],
    ),
    "other labels": (
        "sft.py stage2.yaml --init parents/labels",
        ["['cat', 'dog']", "'dorvan'", "task_card.yaml", "train"],
    ),
    "other prompts": (
        "sft.py stage2.yaml --init parents/prompts",
        ["other prompts or definitions", "toy.yaml", "compare"],
    ),
    "other frames": ("sft.py stage2.yaml --num_frames 16", ["'num_frames': 8", "'num_frames': 16", "equal or train"]),
    "other frames in eval": (
        "eval.py eval.yaml --checkpoint parents/right --num_frames 4",
        ["'num_frames': 4", "equal"],
    ),
    "full output_dir": ("sft.py direct.yaml --output_dir cards", ["'cards' is not empty", "--resume_from_checkpoint"]),
    "too many tokens": (TOO_LONG, ["32 rows have more than max_length = 60 tokens", "toy0", "raise max_length"]),
}
RIGHT = ["rationales.py rationales.yaml", "sft.py stage1.yaml", "sft.py stage2.yaml", "eval.py eval.yaml"]

WRONG_VALUES: dict[str, dict[str, Any]] = {
    "colour": {"colour": "red"},
    "learning_rat": {"learning_rat": 1e-3},
    "torch_dtype": {"torch_dtype": "bfloat16"},
    "max_seq_length": {"max_seq_length": 400},
    "evaluation_strategy": {"evaluation_strategy": "epoch"},
    "shots": {"shots": "two"},
    "packing": {"packing": True},
    "no_init": {"init": ...},
}


@pytest.fixture(scope="module")
def place(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name."""
    folder = tmp_path_factory.mktemp("wrong")
    card, root = folder / "toy.yaml", folder / "clips"
    shutil.copytree(toy_set[1], root)
    card.write_text(toy_set[0].read_text(encoding="utf-8").replace(str(toy_set[1]), str(root)), encoding="utf-8")
    base = folder / "base"
    shutil.copytree(smoke_base, base)
    (base / "model.safetensors").write_bytes(b"these are no weights " * 100)
    make_recipes(folder, card, base)
    make_cards(folder / "cards", card, root)
    make_rationales(folder, TaskCard.from_yaml(card))
    make_parents(folder / "parents", TaskCard.from_yaml(card), base)
    return folder


def make_recipes(folder: Path, card: Path, base: Path) -> None:
    paths = {"rationales": folder / "rationales.jsonl", "init": folder / "parents/right"}
    outputs = {name: {"output_dir": folder / "out" / name} for name in ("stage1", "stage2", "direct", "eval")}
    outputs["rationales"] = {"output_file": folder / "out/rationales.jsonl"}
    outputs["stage1"]["rationales"], outputs["stage2"]["init"] = paths["rationales"], paths["init"]
    kinds = dict.fromkeys(WRONG_VALUES, "direct") | {"torch_dtype": "eval", "shots": "rationales", "no_init": "stage2"}
    for name, kind in {**kinds, **{name: name for name in outputs}}.items():
        made = toy_recipe(kind, folder, card, base, **(outputs[kind] | WRONG_VALUES.get(name, {})))
        Path(made).rename(folder / f"{name}.yaml")
    compare = yaml.safe_load((REPOSITORY / "recipes/toy/compare.yaml").read_text(encoding="utf-8"))
    compare |= {name: str(folder / f"{name}.yaml") for name in outputs} | {"task": str(card)}
    compare |= {"arms_folder": str(REPOSITORY / "recipes/arms")}
    (folder / "compare.yaml").write_text(yaml.safe_dump(compare), encoding="utf-8")
    (folder / "broken.yaml").write_text("task: toy.yaml\ntrain_parts: [llm\n", encoding="utf-8")


def make_cards(folder: Path, card: Path, root: Path) -> None:
    """One card per mistake; those with a mistake in the data name a table of their own."""
    folder.mkdir()
    raw = yaml.safe_load(card.read_text(encoding="utf-8"))
    with (root / "clips.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    rows.sort(key=lambda row: (row["label"] != "dorvan", row["split"] != "train"))  # dorvan's training clips first
    first, test = rows[0], next(row for row in rows if row["split"] == "test")
    shutil.copy(root / first["video"], root / "clips/copy.mp4")
    tables = {
        "label": [first | {"label": "Dorvan"}, *rows[1:]],
        "class": [row for row in rows if row["label"] != "dorvan" or row["split"] != "train"],
        "group": [row | {"group": "one"} if row in (first, test) else row for row in rows],
        "copy": [*rows, test | {"id": "copy", "video": "clips/copy.mp4"}],
        "missing": [first | {"video": "clips/nowhere.mp4"}, *rows[1:]],
        "outside": [first | {"video": "../secret.mp4"}, *rows[1:]],
    }
    cards = {"key": {"lables" if k == "labels" else k: v for k, v in raw.items()}}
    cards["root"] = raw | {"data": raw["data"] | {"root": "nowhere"}}
    for name, table in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(first))
            writer.writeheader()
            writer.writerows(table)
        cards[name] = raw | {"data": raw["data"] | {"annotations": str(folder / f"{name}.csv")}}
    for name, content in cards.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def make_rationales(folder: Path, card: TaskCard) -> None:
    for draw, name in enumerate(("rationales.jsonl", "draw1.jsonl")):
        drawn = [row for row in draw_shots(load_rows(card), 2, seed=draw) if row["split"] == "train" and row["label"]]
        samples = [
            {"id": row["id"], "label": row["label"], "text": f"It moves.\n{card.final_line(row['label'])}"}
            for row in drawn
        ]
        samples = [sample | {"verdict": "kept", "reason": None, "shown": True} for sample in samples]
        write_jsonl(folder / name, samples)
        if draw == 0:
            dropped = {"verdict": "dropped", "reason": "wrong_label"}
            write_jsonl(folder / "dropped.jsonl", [s | dropped if s["label"] == "dorvan" else s for s in samples])


def make_parents(folder: Path, card: TaskCard, base: Path) -> None:
    """Records of finished stages 1, one of them right."""
    adapters = AdapterArguments(lora_dropout=0.0, train_parts=["llm", "merger", "vision"])
    record: dict[str, Any] = {"base": base_fingerprint(str(base)), "frames": FRAMES.to_dict(), "definitions": False}
    record |= {"adapters": asdict(adapters), "labels": card.names, "target": "rationale", "recipe": {}}
    record |= {"load_in_4bit": False, "shots": 2, "draw": 0}
    record |= {key: [] for key in ("trained_on", "trained_on_files", "selected_by", "selected_by_files")}
    changes: dict[str, dict[str, Any]] = {
        "right": {},
        "labels_learnt": {"target": "label"},
        "base": {"base": "0123456789ab"},
        "labels": {"labels": ["cat", "dog"]},
    }
    for name, change in changes.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text("{}")
        write_record(folder / name, card, record | {"weights": weights_fingerprint(folder / name)} | change)
    shutil.copytree(folder / "right", folder / "prompts")
    changed = json.loads((folder / "prompts/rbft.json").read_text(encoding="utf-8")) | {"card": "0123456789ab"}
    (folder / "prompts/rbft.json").write_text(json.dumps(changed), encoding="utf-8")


@pytest.fixture(scope="module")
def commands(place: Path) -> Callable[[str], Done]:
    """Runs a command once, whichever tests ask for it."""

    @functools.cache
    def run(command: str) -> Done:
        script, *words = command.split()
        return run_forked(REPOSITORY / "rbft_trl" / script, *words, cwd=place)

    return run


def sentence(done: Done) -> str:
    """The one sentence of a refused command."""
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Traceback" not in done.stderr + done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and done.stderr.endswith(said[0] + "\n"), done.stderr
    return said[0]


@pytest.mark.parametrize(
    ("command", "words"), [pytest.param(*case, id=name.replace(" ", "_")) for name, case in COMMANDS.items()]
)
def test_one_sentence_and_no_weights(commands: Callable[[str], Done], command: str, words: list[str]) -> None:
    done = commands(command)
    said = sentence(done)
    for word in words:
        assert word in said
    assert not any(trace in done.stderr for trace in WEIGHTS_OPENED)


def test_refused_commands_write_nothing(commands: Callable[[str], Done], place: Path) -> None:
    for command, _ in COMMANDS.values():
        commands(command)
    assert {path.name for path in (place / "out").glob("*")} <= {"stage1", "stage2", "eval", "long"}
    assert not (place / "outputs").exists()


@pytest.mark.parametrize("command", [TOO_LONG])
def test_too_long_rows_leave_the_folder_free_for_the_next_try(
    commands: Callable[[str], Done], command: str, place: Path
) -> None:
    sentence(commands(command))
    assert not (place / "out/long").exists()


@pytest.mark.parametrize("command", RIGHT)
def test_the_right_recipe_gets_as_far_as_the_weights(commands: Callable[[str], Done], command: str) -> None:
    """So every recipe above is refused for its mistake alone, and whoever opened the weights was seen."""
    done = commands(command)
    assert done.returncode != 0 and any(trace in done.stderr for trace in WEIGHTS_OPENED), done.stderr[-3000:]
