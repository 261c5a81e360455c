"""Merging: labels stay the same or nothing is written; the second way from stage 1 to stage 2, a new adapter on it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rbft_trl import eval as evaluation
from rbft_trl import merge, rationales, sft
from rbft_trl.classifier import VideoClassifier
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import UserError
from rbft_trl.model.provenance import read_record, weights_fingerprint
from tests.helpers import toy_recipe

QUICK: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 4, "eval_strategy": "no"}
QUICK |= {"save_strategy": "no", "load_best_model_at_end": False, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def stage1(toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    texts = folder / "rationales.jsonl"
    common = {"checks": "none", "max_new_tokens": 8, "output_file": texts}
    rationales.main([toy_recipe("rationales", folder, toy_set[0], smoke_base, **common)])
    sft.main(
        [toy_recipe("stage1", folder, toy_set[0], smoke_base, **QUICK, rationales=texts, output_dir=folder / "one")]
    )
    return folder / "one"


@pytest.fixture(scope="module")
def merged(stage1: Path, toy_set: tuple) -> Path:
    out = stage1.parent / "merged"
    record = merge.main(command(stage1, out, toy_set))
    assert record["merged_check"]["same"] == record["merged_check"]["clips"] == 12
    return out


def command(checkpoint: Path, out: Path, toy_set: tuple, *more: str) -> list[str]:
    return [
        str(checkpoint),
        "--output",
        str(out),
        "--clips",
        str(toy_set[1] / "clips"),
        "--use_cpu",
        "--most",
        "12",
        *more,
    ]


def test_merged_weights_score_as_base_and_adapter_do(stage1: Path, merged: Path, toy_set: tuple) -> None:
    clips = sorted((toy_set[1] / "clips").iterdir())[:5]
    before, after = (VideoClassifier.from_pretrained(folder, device="cpu")(clips) for folder in (stage1, merged))
    for first, second in zip(before, after, strict=True):
        assert [a["label"] for a in first] == [a["label"] for a in second]
        assert [a["score"] for a in first] == pytest.approx([a["score"] for a in second], abs=1e-5)
    assert not (merged / "adapter_config.json").exists() and read_record(merged)["merged_from"]["weights"] != ""
    assert not list(merged.parent.glob(".*.merging"))


def test_stage2_with_a_new_adapter_on_the_merged_stage1(
    stage1: Path, merged: Path, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    """Another rank than stage 1 had, on other parts; evaluation finds the weights under the adapter by itself."""
    changes = QUICK | {"init": merged, "lora_r": 4, "train_parts": ["llm"], "output_dir": tmp_path / "two"}
    record = sft.main([toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, **changes)])
    assert record["adapter_on"] == {"folder": str(merged), "weights": weights_fingerprint(merged)}
    assert record["trained_on"] and record["init"] == read_record(merged)["weights"]
    config = json.loads((tmp_path / "two/adapter_config.json").read_text())
    assert config["r"] == 4 and Path(config["base_model_name_or_path"]) == merged
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "eval", generate=False)
    evaluation.main([recipe, "--checkpoint", str(tmp_path / "two")])
    evaluated = read_jsonl(tmp_path / "eval/predictions.jsonl")[:3]
    clf = VideoClassifier.from_pretrained(tmp_path / "two", device="cpu")
    for row in evaluated:
        found = {a["label"]: a["score"] for a in clf(toy_set[1] / row["video"])}
        assert found == pytest.approx(row["scores"], abs=1e-5)
    # and merging once more gives one model again, equal to both adapters one after the other
    again = merge.main(command(tmp_path / "two", tmp_path / "final", toy_set))
    assert again["merged_check"]["same"] == 12 and again["target"] == "label"


def test_step_0_of_the_second_way_is_the_merged_stage1(
    merged: Path, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    """A new LoRA begins as a zero: with learning rate 0 the scores are those of stage 1."""
    changes = QUICK | {"init": merged, "output_dir": tmp_path / "two", "learning_rate": 0.0, "max_steps": 1}
    sft.main([toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, **changes)])
    clip = sorted((toy_set[1] / "clips").iterdir())[0]
    first, second = (VideoClassifier.from_pretrained(f, device="cpu")(clip) for f in (merged, tmp_path / "two"))
    assert [a["score"] for a in first] == pytest.approx([a["score"] for a in second], abs=1e-6)


def test_a_changed_or_missing_parent_under_an_adapter_is_refused(
    merged: Path, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "merged"
    shutil.copytree(merged, copy)
    changes = QUICK | {"init": copy, "output_dir": tmp_path / "two", "max_steps": 1}
    sft.main([toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, **changes)])
    shutil.rmtree(copy)
    with pytest.raises(UserError, match=r"merged weights .* not there any more; put them back"):
        VideoClassifier.from_pretrained(tmp_path / "two", device="cpu")


def test_four_bit_on_merged_weights_is_refused(merged: Path, toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    changes = QUICK | {"init": merged, "output_dir": tmp_path / "two", "load_in_4bit": True, "dtype": "bfloat16"}
    with pytest.raises(UserError, match=r"load_in_4bit is true but .* bf16 only"):
        sft.main([toy_recipe("stage2", tmp_path, toy_set[0], smoke_base, **changes)])


def test_an_adapter_of_4bit_weights_is_merged_into_16_bit_ones(
    toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    """The base under it is not the one it was trained on: how many labels change is counted, and decides."""
    changes = QUICK | {"load_in_4bit": True, "dtype": "bfloat16", "output_dir": tmp_path / "q"}
    sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)])
    record = merge.main(command(tmp_path / "q", tmp_path / "merged", toy_set, "--min_agreement", "0"))
    weights = load_file(tmp_path / "merged/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16} and not record["load_in_4bit"]
    assert record["merged_from"]["load_in_4bit"] and record["merged_check"]["largest_change"] > 0
    assert VideoClassifier.from_pretrained(tmp_path / "merged", device="cpu").model.dtype == torch.bfloat16


def test_nothing_is_written_if_a_label_changes(
    stage1: Path, toy_set: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a merge that loses the adapter's change of the language model and reverses the embeddings."""
    from peft import LoraModel

    inner = LoraModel.merge_and_unload

    def wrong(self: Any, **options: Any) -> Any:
        model = inner(self, **options)
        embeddings = model.get_input_embeddings().weight
        embeddings.data = -embeddings.data.flip(0)
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", wrong)
    with pytest.raises(UserError, match=r"only \d+ of 12 labels stay the same .*--min_agreement"):
        merge.main(command(stage1, tmp_path / "out", toy_set))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--most", "0"], "--most is 0"), (["--min_agreement", "2"], "2.0"), (["--clips", "nowhere"], "'nowhere'")],
)
def test_wrong_commands(stage1: Path, toy_set: tuple, tmp_path: Path, more: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        merge.main(command(stage1, tmp_path / "out", toy_set, *more))


def test_what_cannot_be_merged_is_refused(stage1: Path, merged: Path, toy_set: tuple, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds full weights already"):
        merge.main(command(merged, tmp_path / "out", toy_set))
    with pytest.raises(UserError, match="exists; delete it"):
        merge.main(command(stage1, merged, toy_set))


def test_weights_that_are_no_numbers_are_not_merged(stage1: Path, toy_set: tuple, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "broken"
    shutil.copytree(stage1, copy)
    weights = load_file(copy / "adapter_model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, copy / "adapter_model.safetensors")
    with pytest.raises(UserError, match="not those that were trained"):
        merge.main(command(copy, tmp_path / "out", toy_set))


def test_a_place_that_cannot_be_written_and_several_processes_are_told_before_the_work(
    stage1: Path, toy_set: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoClassifier, "from_checkpoint", None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be made"):
        merge.main(command(stage1, tmp_path / "file/out", toy_set))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"merge\.py works alone, but 2 processes"):
        merge.main(command(stage1, tmp_path / "out", toy_set))
