"""Memory of stage 0 and evaluation: held against real batches on a CPU, advice, time, and no processor."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from rbft_trl import check
from rbft_trl.memory import span
from rbft_trl.model.cost import meta_model, reading_cost
from rbft_trl.model.held import Setting
from rbft_trl.model.inference import LabelScorer, prefill, score_labels, write
from rbft_trl.model.ledger import Ledger
from rbft_trl.model.loading import load_base
from rbft_trl.model.meta_step import Clip
from tests.helpers import base_arguments, make_collator, toy_recipe
from tests.tiny_families import FAMILIES, tiny_base

BASE = "Qwen/Qwen2-VL-2B-Instruct"


def measured_and_estimated(family: str, samples: int, toy_set: tuple, smoke_base: Path, folder: Path) -> tuple:
    """Bytes that real tensors held while 8 clips were scored, or while `samples` answers each were written."""
    base = tiny_base(family, folder, smoke_base)
    model, collator = load_base(base_arguments(base), device="cpu").eval(), make_collator(*toy_set, base)
    row = {"id": "a", "video": "clips/toy00000.mp4", "label": "dorvan", "context": None}
    rows, scorer = [row] * 8, LabelScorer(collator)
    batch = collator.prompts(rows, [collator.label_prompt(row)] * 8)
    video = int((batch["mm_token_type_ids"][0] > 0).sum())
    clip = Clip(tuple(batch["video_grid_thw"][0].tolist()), batch["input_ids"].shape[1] - video)
    known = [*model.parameters(), *model.buffers()]
    held = sum(t.numel() * t.element_size() for t in known)
    with Ledger(known) as ledger:
        read = prefill(model, batch)
        if samples:
            write(model, read, collator, num_samples=samples, temperature=1.0, top_p=0.9, max_new_tokens=12)
        else:
            score_labels(model, read, scorer.trie)
    counts = {"samples": samples, "new_tokens": 12} if samples else {"trie": scorer.trie}
    setting = Setting(None, torch.float32, autocast=False, device="cpu")
    said = reading_cost(meta_model(model.config, setting), setting, [clip] * 8, **counts)
    return held + sum(ledger.at_peak.values()), said.live, held


def recipe_of(name: str, folder: Path, toy_set: tuple, base: Path) -> list[str]:
    """A recipe for a GPU, and where its report goes."""
    places = {"output_file": folder / "r.jsonl"} if name == "rationales" else {"output_dir": folder / "o"}
    changes = places | {"use_cpu": False, "per_device_batch_size": 6, "dtype": "bfloat16"}
    return [toy_recipe(name, folder, toy_set[0], base, **changes), "--report_dir", str(folder / "r")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("samples", [0, 4])
def test_the_estimate_is_what_a_batch_is_seen_to_need(
    family: str, samples: int, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    seen, said, held = measured_and_estimated(family, samples, toy_set, smoke_base, tmp_path)
    print(
        f"{family}, {samples} answers: {said / 1e6:.2f} MB said, {seen / 1e6:.2f} measured, weights {held / 1e6:.2f}"
    )
    assert (said - held) / (seen - held) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["rationales", "eval"])
def test_stage_0_and_evaluation_are_told_with_advice_and_time(
    name: str, toy_set: tuple, smoke_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [*recipe_of(name, tmp_path, toy_set, smoke_base), "--gpu_memory", "1.001", "--gpu", "l4"]
    assert check.main(argv) == 0
    one = json.loads((tmp_path / "r/check.json").read_text())["memory"]
    assert one["advice"][0].startswith("per_device_batch_size: 3: ") and "load_in_4bit" in " ".join(one["advice"])
    assert not any("accumulation" in line or "checkpointing" in line for line in one["advice"])
    printed = capsys.readouterr().out
    assert "time on l4" in printed and " per batch, " in printed and " for all clips" in printed
    assert " 0 to " not in one["time"] and 0 < one["step_seconds"][0] < one["step_seconds"][1]
    assert one["time"] in (tmp_path / "r/check.html").read_text()
    longer = [*argv, "--max_new_tokens", "320"]
    assert check.main(longer) == 0
    assert (
        json.loads((tmp_path / "r/check.json").read_text())["memory"]["step_seconds"][0] > 2 * one["step_seconds"][0]
    )
    assert check.main([*argv, "--gpus", "2"]) == 0
    two = json.loads((tmp_path / "r/check.json").read_text())["memory"]
    assert two["epoch_hours"][0] < one["epoch_hours"][0] and two["step_seconds"] == one["step_seconds"]


@pytest.mark.parametrize("name", ["rationales", "eval"])
def test_without_the_processor_they_are_told_roughly(
    name: str, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    argv = recipe_of(name, tmp_path, toy_set, smoke_base)
    assert check.main([*argv, "--model_name_or_path", BASE, "--gpu_memory", "4"]) == 1
    report = json.loads((tmp_path / "r/check.json").read_text())
    (finding,) = [f for f in report["findings"] if f["level"] == "error"]
    assert "no processor could be loaded" in finding["message"] and "three characters to a token" in finding["message"]
    (row,) = report["memory"]["rows"]
    assert row["weights"] == pytest.approx(4.4, abs=0.1) and report["memory"]["time"]
    assert report["memory"]["advice"][0].startswith("per_device_batch_size: 3: ")


def test_a_split_without_clips_is_an_error_and_no_crash(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(toy_set[0].read_text(encoding="utf-8"))
    lines = (Path(raw["data"]["root"]) / raw["data"]["annotations"]).read_text().splitlines()
    table = tmp_path / "some.csv"
    table.write_text("\n".join(line for line in lines if ",test," not in line) + "\n")
    raw["data"]["annotations"] = str(table)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    argv = recipe_of("eval", tmp_path, toy_set, smoke_base)
    assert check.main([*argv, "--task", str(tmp_path / "card.yaml")]) == 1
    findings = json.loads((tmp_path / "r/check.json").read_text())["findings"]
    assert any("the test split has no clip for this recipe" in f["message"] for f in findings if f["level"] == "error")


@pytest.mark.parametrize(
    ("fast", "slow", "words"),
    [
        (0.0004, 0.0006, "0.4 to 0.6 ms"),
        (1.26, 11.4, "1.3 to 11 s"),
        (90, 4000, "1.5 to 67 min"),
        (3600, 7200, "1 to 2 h"),
        (720_000, 4_000_000, "200 to 1,111 h"),
    ],
)
def test_a_duration_is_never_0(fast: float, slow: float, words: str) -> None:
    assert span(fast, slow) == words
