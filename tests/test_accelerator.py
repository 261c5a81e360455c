"""benchmarks/accelerator.py on a CPU: every kind of work gives a row, and what cannot run is said, not left out."""

import json
from pathlib import Path
from typing import Any

import accelerator
import accelerator_work
import pytest
import torch
from accelerator import Estimates, main, row_of, ways
from accelerator_work import TOY, Way, config_of, load_of, make_base, read
from transformers import AutoConfig

from rbft_trl.configs import ModelArguments
from rbft_trl.errors import UserError

TINY = ["--base", "toy", "--rounds", "1", "--clips", "1", "--answer_tokens", "8", "--new_tokens", "2"]


def rows_of(folder: Path, *only: str) -> list[dict[str, Any]]:
    main([*TINY, "--out", str(folder / "found"), "--only", *only])
    return json.loads((folder / "found.json").read_text())["rows"]


def test_every_kind_of_work_is_measured(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "bf16", "sdpa", "plain", "–")
    assert [row["work"] for row in rows] == ["stage1", "stage2", "scoring", "generation"]
    for row in rows:
        assert row["result"] == "measured", row
        assert len(row["seconds"]) == 1
        assert min(row["clips_per_second"], row["tokens_per_second"], row["flops"], row["estimate"]["live"]) > 0
    assert rows[0]["answer_tokens"] == 8
    assert rows[0]["tokens"] > rows[1]["tokens"]
    assert rows[2]["trie_nodes"] > 0
    assert rows[3]["written"] == 2
    told = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert told.count("\n| toy |") == 4
    assert f"torch {torch.__version__.split('+')[0]}" in told


def test_nf4_and_checkpointing(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "nf4", "sdpa", "stage2", "checkpointing")
    assert row["result"] == "measured", row
    load, estimates = load_of(Way("toy", "nf4", "sdpa", "stage2", "plain"), 1, 8, None), Estimates()
    plain = row_of(Way("toy", "nf4", "sdpa", "stage2", "plain"), load, None, estimates, 1)
    assert row["flops"] > plain["flops"]


def test_out_of_memory_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(accelerator_work, "load_base", full)
    rows = rows_of(tmp_path, "nf4", "sdpa", "scoring", "generation")
    assert [row["result"] for row in rows] == ["out of memory", "out of memory"]
    assert all(row["estimate"]["live"] > 0 for row in rows)
    assert "out of memory" in (tmp_path / "found.md").read_text(encoding="utf-8")


def test_a_failure_is_a_row_and_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(accelerator, "read", broken)
    assert main([*TINY, "--out", str(tmp_path / "found"), "--only", "bf16", "sdpa", "scoring"]) == 1
    assert "failed: RuntimeError: planted" in (tmp_path / "found.md").read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may run flash attention")
def test_a_missing_package_is_a_row(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "bf16", "flash", "generation")
    assert row["result"] == "not run"
    assert "flash" in row["why"]


def test_a_real_size_is_estimated_where_it_cannot_run() -> None:
    way = Way("2b", "nf4", "sdpa", "scoring", "–")
    row = row_of(way, load_of(way, 1, 8, None), None, Estimates(), 1)
    assert row["result"] == "not measured"
    assert "clips_per_second" not in row
    assert 1e9 < row["estimate"]["live"] < 2e10
    assert row["flops"] > 2 * 1.5e9 * row["tokens"]  # two per weight of the language model and token


def test_random_weights_load_like_any_base(tmp_path: Path) -> None:
    load = load_of(Way("toy", "nf4", "sdpa", "scoring", "–"), 1, 8, None)
    config = config_of("2b", load.collator)
    text, vision = config.get_text_config(), config.vision_config
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = 2, 128, 256
    text.num_attention_heads = text.num_key_value_heads = 1
    text.layer_types = text.layer_types[:2]
    vision.depth, vision.embed_dim, vision.num_heads, vision.hidden_size = 1, 64, 4, 128
    folder = make_base(config, load.collator, tmp_path / "base", "cpu")
    assert AutoConfig.from_pretrained(folder).get_text_config().vocab_size == 151936
    seconds = read(load, ModelArguments(model_name_or_path=str(folder), load_in_4bit=True), torch.device("cpu"), 1)
    assert len(seconds) == 1
    assert seconds[0] > 0


def test_only_what_makes_sense_is_a_row() -> None:
    everything = list(ways(["2b"], []))
    assert len(everything) == len(set(everything)) == 34
    assert not [way for way in everything if way.work == "scoring" and way.attention == "flash"]
    assert {way.recompute for way in everything if not way.trains} == {"–"}
    with pytest.raises(UserError, match="'stage3' is no setting"):
        list(ways([str(TOY)], ["stage3"]))
