"""What must not become a result: random weights, runs that trained nothing, checkpoints of others, damaged records."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from rbft_trl import compare, rationales, sft, star, writers
from rbft_trl import eval as evaluation
from rbft_trl.configs import StageArguments
from rbft_trl.data.jsonl import write_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence.conclusion import conclude
from rbft_trl.evidence.verify import check_rationales
from rbft_trl.model.loading import base_fingerprint, check_model_arguments, check_scoring_attention, load_base
from rbft_trl.model.provenance import RECORD_FILE, read_record
from rbft_trl.stage_rows import training_rows
from rbft_trl.start import Task
from rbft_trl.training_config import TrainingConfig
from tests.helpers import REPOSITORY, base_arguments, toy_recipe

SETTINGS: dict[str, Any] = {"eval_strategy": "no", "load_best_model_at_end": False, "per_device_train_batch_size": 4}
SETTINGS |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 3}


@pytest.fixture(scope="module")
def run(toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished direct SFT with its checkpoints."""
    folder = tmp_path_factory.mktemp("refusals")
    sft.main([toy_recipe("direct", folder, toy_set[0], smoke_base, output_dir=folder / "run", **SETTINGS)])
    return folder / "run"


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize("asked", ["eager", {"text_config": "eager"}, "flash_attention_2"])
def test_attention_that_does_not_mask_the_trie_is_refused(smoke_base: Path, asked: Any) -> None:
    with pytest.raises(UserError, match="4-D mask of label scoring"):
        check_scoring_attention(base_arguments(smoke_base, attn_implementation=asked))


@pytest.mark.parametrize("asked", ["foo", {"text_config": 5}])
def test_unknown_attention_is_refused_before_loading(smoke_base: Path, asked: Any) -> None:
    with pytest.raises(UserError, match=r"attn_implementation '(foo|5)' is none of eager, sdpa"):
        check_model_arguments(base_arguments(smoke_base, attn_implementation=asked), use_cpu=True)


def test_a_base_that_lacks_weights_is_refused(smoke_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(smoke_base, tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".layers.1." not in name}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks \d+ weights .*layers\.1\..* fetch the model again"):
        load_base(base_arguments(base), device="cpu")


def test_another_template_is_another_base(smoke_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(smoke_base, tmp_path / "base"))
    assert base_fingerprint(str(base)) == base_fingerprint(str(smoke_base))
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert base_fingerprint(str(base)) != base_fingerprint(str(smoke_base))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate_vision": float("nan")}, "'learning_rate_vision' is nan"),
        ({"learning_rate_merger": 7.0}, "'learning_rate_merger' is 7.0"),
        ({"weight_decay": -1.0}, "'weight_decay' is -1.0"),
        ({"gradient_accumulation_steps": -1}, "'gradient_accumulation_steps' is -1"),
        ({"num_train_epochs": float("nan")}, "num_train_epochs is nan"),
        ({"seed": 2**33}, "'seed' is 8589934592"),
        ({"max_length": -5}, "'max_length' is -5"),
        ({"dataloader_num_workers": -1}, "'dataloader_num_workers' is -1"),
        ({"dataloader_persistent_workers": True}, "dataloader_num_workers is 0"),
        ({"report_to": "os"}, "report_to 'os' is no tracker"),
        ({"report_to": "foo.bar"}, "report_to 'foo.bar' is no tracker"),
    ],
)
def test_numbers_out_of_bounds_are_refused(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        TrainingConfig(**({"output_dir": "out", "use_cpu": True, "report_to": "none"} | change))


def test_a_run_that_diverged_or_did_nothing_is_not_recorded(run: Path) -> None:
    class Trainer:
        state = type("State", (), {"global_step": 0})()
        model = torch.nn.Linear(2, 2)

    with pytest.raises(UserError, match="no step was trained"):
        sft.check_trained(Trainer())
    Trainer.state.global_step = 1
    sft.check_trained(Trainer())
    Trainer.model.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="training diverged: 'weight'"):
        sft.check_trained(Trainer())


def test_swapped_weights_are_refused_and_a_checkpoint_has_its_own_hash(copied: Path) -> None:
    final, first = read_record(copied)["weights"], read_record(copied / "checkpoint-1")["weights"]
    assert final == json.loads((copied / RECORD_FILE).read_text())["weights"] != first
    shutil.copy(copied / "checkpoint-1/adapter_model.safetensors", copied)
    with pytest.raises(UserError, match="are not those that were trained"):
        read_record(copied)
    (copied / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"lacks adapter_config\.json"):
        read_record(copied)


@pytest.mark.parametrize(("text", "words"), [("{", "is not JSON"), ("[]", "not an object"), ("{}", "lacks 'labels'")])
def test_a_damaged_record_is_one_sentence(copied: Path, text: str, words: str) -> None:
    (copied / RECORD_FILE).write_text(text)
    with pytest.raises(UserError, match=words):
        read_record(copied)


def test_only_a_runs_own_checkpoints_are_resumed(run: Path, toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    def resume(folder: Path, wish: str) -> None:
        recipe = toy_recipe("direct", tmp_path, toy_set[0], smoke_base, output_dir=folder, **SETTINGS)
        sft.main([recipe, "--resume_from_checkpoint", wish])

    for wish in (run / "checkpoint-1", toy_set[1], tmp_path / "nowhere"):
        with pytest.raises(UserError, match="is no whole checkpoint-N of"):
            resume(tmp_path / "new", str(wish))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"foreign' is not empty and holds no recipe\.json"):
        resume(tmp_path / "foreign", "true")


CARD = TaskCard(
    "t", {"a": "x", "b": "y"}, "?", "r", ("l",), {"label": "$labels", "rationale": "$labels$hint", "hint": "$label"}
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": None}, ":2: 'id' and 'text' must be text"),
        ({"id": ["x"]}, ":2: 'id' and 'text' must be text"),
        ({"verdict": "Keep"}, ":2: verdict 'Keep' is none of"),
        ({"text": " "}, ":2: the text of clip 'y' is empty but kept"),
        ({"id": "x", "label": "a"}, ":2: clip 'x', sample 0 stands twice"),
    ],
)
def test_rationales_by_hand_are_checked(tmp_path: Path, change: dict, words: str) -> None:
    rows = [{"id": i, "video": i, "label": label, "split": "train"} for i, label in (("x", "a"), ("y", "b"))]
    written = [row | {"sample": 0, "text": "fine", "verdict": "kept"} for row in rows]
    write_jsonl(tmp_path / "r.jsonl", [written[0], written[1] | change])
    stage = StageArguments(init="base", target="rationale", rationales=str(tmp_path / "r.jsonl"))
    with pytest.raises(UserError, match=words):
        training_rows(Task(CARD, tmp_path, rows, None, None, {}, True), stage)


def test_a_rationale_that_was_cut_is_not_trained() -> None:
    pool = {"id": "p", "label": None, "sample": 0, "shown": False, "text": "three small yellow", "cut": True}
    for mode, verdict in (("label_match", "dropped"), ("all", "dropped"), ("none", "unlabelled")):
        (checked,) = check_rationales([pool], CARD, mode=mode)
        assert checked["verdict"] == verdict and (checked["reason"] == "cut") == (verdict == "dropped")


def test_few_sources_of_test_clips_claim_nothing() -> None:
    pair = {"arm": "rbft", "baseline": "direct", "difference": 20.0, "interval": [15.0, 25.0], "n": 30, "num_draws": 5}
    pair |= {"covers": "clips and draws", "smallest_detectable": {"points": 5.0}, "family": "treatments"}
    pair |= {"lacks": {}, "family_size": 1, "p_corrected": 0.001, "draws": [0, 1]}
    assert conclude([pair | {"num_groups": 30, "effective_groups": 30.0}]).startswith("RB-FT is better")
    said = conclude([pair | {"num_groups": 2, "effective_groups": 2.0}])
    assert said.startswith("No difference") and "2 sources of test clips are too few to trust" in said


@pytest.mark.parametrize(
    ("entry", "recipe", "next_step"),
    [
        (evaluation, "eval", "make_plan"),
        (rationales, "rationales", "open_task"),
        (sft, "direct", "make_plan"),
        (star, "star", "check"),
        (compare, "compare", "check"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_first(
    entry: Any, recipe: str, next_step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file, below a file, or in a folder without the right to write; even before a clip is read."""
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "locked").mkdir()
    may = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "locked" and may(path, mode))
    monkeypatch.setattr(entry, next_step, None)
    words = [str(REPOSITORY / f"recipes/toy/{recipe}.yaml")]
    words += ["--output_file" if entry is rationales else "--output_dir"]
    name = "r.jsonl" if entry is rationales else ""
    for place, message in (
        ("file", r"the folder '.*file' cannot be made \('.*file' is no folder\); choose another output"),
        ("file/a/b", r"the folder '.*file/a/b' cannot be made \('.*file' is no folder\)"),
        ("locked", "the folder '.*locked' cannot be written; choose another output, or change its rights"),
        ("locked/a/b", "the folder '.*locked' cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            entry.main([*words, str(tmp_path / place / name)])
    assert {path.name for path in tmp_path.iterdir()} == {"file", "locked"}


def test_stage_0_looks_at_every_header_before_the_weights(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "load_for_inference", None)
    root = Path(shutil.copytree(toy_set[1], tmp_path / "clips"))
    rows = [line.split(",") for line in (root / "clips.csv").read_text().splitlines()[1:]]
    (root / next(row[1] for row in rows if row[3] == "train" and not row[2])).write_bytes(b"no clip")
    card = tmp_path / "card.yaml"
    raw = yaml.safe_load(Path(toy_set[0]).read_text())
    raw["data"]["root"] = str(root)
    card.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(UserError, match="not_a_video"):
        rationales.main([toy_recipe("rationales", tmp_path, card, smoke_base, output_file=tmp_path / "r.jsonl")])
