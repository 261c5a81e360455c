"""The comparison end to end on a tiny model: every arm, two draws, finished cells reused, a report at the end."""

import json
from pathlib import Path

import pytest
import yaml

from rbft_trl import compare, sft
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import UserError
from tests.helpers import REPOSITORY, toy_recipe

QUICK = {
    "num_train_epochs": 1,
    "max_steps": ...,
    "per_device_train_batch_size": 8,
    "eval_strategy": "no",
    "save_strategy": "no",
}
QUICK |= {"load_best_model_at_end": False}
ARMS = ["zero_shot", "zero_shot_definitions", "probe", "direct", "rbft", "shuffled", "oracle"]


@pytest.fixture(scope="module")
def recipe(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, (card, root) = tmp_path_factory.mktemp("compare"), toy_set
    stages = {name: toy_recipe(name, folder, card, smoke_base, **QUICK) for name in ("stage1", "stage2", "direct")}
    stages["rationales"] = toy_recipe("rationales", folder, card, smoke_base, max_new_tokens=6, checks="none")
    stages["eval"] = toy_recipe("eval", folder, card, smoke_base, max_new_tokens=4)
    settings = stages | {
        "task": str(card),
        "output_dir": str(folder / "out"),
        "seeds": 2,
        "note": "Synthetic <clips>.",
    }
    settings |= {
        "oracle_texts": str(root / "attributes.jsonl"),
        "arms": ARMS,
        "arms_folder": str(REPOSITORY / "recipes/arms"),
    }
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_all_arms_on_two_draws(recipe: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare.main([str(recipe)])
    printed = capsys.readouterr().out
    assert comparison["sentence"] in printed and "report.html" in printed and "Synthetic <clips>." in printed
    out = recipe.parent / "out"
    arms = comparison["arms"]
    assert list(arms) == ARMS and all(len(entry["draws"]) == 2 for entry in arms.values())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Synthetic &lt;clips&gt;." in page and "<script" not in page and "data:image/png;base64" in page

    for draw in range(2):
        direct, rbft, shuffled, oracle = (arms[arm]["draws"][draw] for arm in ("direct", "rbft", "shuffled", "oracle"))
        assert direct["steps"] == rbft["steps"] == shuffled["steps"] == oracle["steps"] > 0
        assert direct["presentations"] == rbft["presentations"] == 8 * rbft["steps"]
        own = {s["id"]: s for s in read_jsonl(rbft["rationales"]) if s["verdict"] != "dropped"}
        for sample in read_jsonl(shuffled["rationales"]):
            giver = (sample["reason"] or "").removeprefix("shuffled: from ")
            assert bool(giver) == (sample["label"] is not None), "who knows no class cannot exchange within it"
            if not giver:
                assert sample["text"] == own[sample["id"]]["text"]
                continue
            assert giver != sample["id"] and own[giver]["label"] == own[sample["id"]]["label"] == sample["label"]
        assert len(read_jsonl(oracle["rationales"])) == 2 * 8 + 8
    ids = [{p["id"] for p in read_jsonl(entry["draws"][0]["predictions"])} for entry in arms.values()]
    assert all(i == ids[0] and len(i) == 24 for i in ids)
    labelled = [{s["id"] for s in read_jsonl(d["rationales"]) if s["label"]} for d in arms["rbft"]["draws"]]
    assert labelled[0] != labelled[1]  # every seed draws the labelled clips anew

    monkeypatch.setattr(sft, "load_base", None)  # nothing may be trained again
    again = compare.main([str(recipe)])
    assert [again["arms"][a]["summary"] for a in arms] == [arms[a]["summary"] for a in arms]
    assert json.loads((out / "comparison.json").read_text())["sentence"] == again["sentence"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["rbft", "direct", "orakel"]}, "oracle"),
        ({"arms": ["rbft"]}, "'direct'"),
        ({"oracle_texts": None}, "true descriptions; name them as 'oracle_texts'"),
        ({"stage1": "nowhere.yaml"}, "nowhere.yaml"),
        ({"seeds": 0}, "'seeds' is 0"),
    ],
)
def test_mistakes_are_told_before_anything_runs(recipe: Path, tmp_path: Path, change: dict, message: str) -> None:
    settings = yaml.safe_load(recipe.read_text()) | change | {"output_dir": str(tmp_path / "out")}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=message):
        compare.main([str(wrong)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("eval", {"method": "probe"}, "'method' is probe"),
        ("eval", {"split": "validation"}, "'split' is validation"),
        (
            "eval",
            {"frame_order": "shuffled"},
            "'frame_order' is shuffled in the evaluation of .* needs original",
        ),
        ("direct", {"init": "outputs/stage1"}, "'init' is outputs/stage1 in .* needs base"),
        (
            "direct",
            {"per_device_train_batch_size": 4},
            "'per_device_train_batch_size' is 4 in .* steps are only matched",
        ),
        ("stage1", {"lora_r": 4}, "'lora_r' is 4 in"),
        ("stage2", {"target": "rationale", "rationales": "r.jsonl"}, "'target' is rationale in .* needs label"),
        ("stage1", {"dataloader_drop_last": False}, "'dataloader_drop_last' is False in .* needs True"),
        ("direct", {"dtype": "bfloat16"}, "'dtype' is bfloat16 in"),
        ("stage1", {"train_parts": ["llm"]}, "train_parts of .* holds 'merger', which .* leaves out"),
    ],
)
def test_arms_that_are_not_what_the_table_calls_them(
    recipe: Path, tmp_path: Path, key: str, change: dict, message: str
) -> None:
    settings = yaml.safe_load(recipe.read_text())
    changed = tmp_path / f"{key}.yaml"
    changed.write_text(yaml.safe_dump(yaml.safe_load(Path(settings[key]).read_text()) | change))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(settings | {"output_dir": str(tmp_path / "out"), key: str(changed)}))
    with pytest.raises(UserError, match=message):
        compare.main([str(wrong)])
    assert not (tmp_path / "out").exists()
