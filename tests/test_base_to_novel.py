"""Base-to-novel: classes in two halves, a checkpoint on labels that it never saw, and the harmonic mean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rbft_trl import check, harmonic, rationales, sft
from rbft_trl import eval as evaluation
from rbft_trl.data.jsonl import write_json, write_jsonl
from rbft_trl.data.splits import split_classes
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence.metrics import harmonic_mean
from rbft_trl.evidence.novel import base_to_novel
from tests.helpers import toy_recipe
from tests.miniatures import Builder, convert_small, rows_of
from tests.test_training import QUICK


def classes(report: dict[str, Any], index: int) -> list[str]:
    return TaskCard.from_yaml(report["cards"][index]["card"]).names


def test_halves_share_no_class_and_only_base_is_trained(small_sets: dict[str, Builder], tmp_path: Path) -> None:
    halves = []
    for how in ("0", "0", "1", "2", "3", "frequent"):
        report = convert_small("ucf101", small_sets["ucf101"], tmp_path / str(len(halves)), "--base_to_novel", how)
        whole, base, novel = (classes(report, i) for i in range(3))
        assert set(base) | set(novel) == set(whole) and not set(base) & set(novel) and len(base) == len(novel) == 2
        assert {row["split"] for row in rows_of(report, 1)} == {"train", "validation", "test"}
        assert {row["split"] for row in rows_of(report, 2)} == {"test"}
        tests = [{row["id"] for row in rows_of(report, i) if row["split"] == "test"} for i in range(3)]
        assert tests[0] == tests[1] | tests[2]
        halves.append(tuple(base))
    assert halves[0] == halves[1] and len(set(halves[:5])) > 1
    card = report["cards"][2]["card"]
    assert check.main([card, "--report_dir", str(tmp_path / "check")]) == 0
    found = json.loads((tmp_path / "check/check.json").read_text())["findings"]
    assert "evaluation_only" in {finding["kind"] for finding in found}


def test_base_classes_may_be_listed(small_sets: dict[str, Builder], tmp_path: Path) -> None:
    listed = tmp_path / "ucf_101_base_labels.csv"
    listed.write_text("id,name\n0,YoYo\n1,HandstandPushups\n")
    report = convert_small("ucf101", small_sets["ucf101"], tmp_path / "out", "--base_to_novel", str(listed))
    assert classes(report, 1) == ["handstand pushups", "yo yo"]
    for text, words in (("YoYo\nTyping\n", "base_labels.csv:2: 'Typing' is no class"), ("YoYo\n", "lists 1 of 4")):
        listed.write_text(text)
        with pytest.raises(UserError, match=words):
            convert_small("ucf101", small_sets["ucf101"], tmp_path / "no", "--base_to_novel", str(listed))
    with pytest.raises(UserError, match="needs 4 classes or more"):
        convert_small("ssv2", small_sets["ssv2"], tmp_path / "no", "--base_to_novel", "1")
    with pytest.raises(UserError, match="needs an official test split"):
        convert_small("smarthome", small_sets["smarthome"], tmp_path / "no", "--base_to_novel", "1")


@given(counts=st.dictionaries(st.text(min_size=1), st.integers(1, 99), min_size=2), seed=st.none() | st.integers(0, 9))
def test_half_of_the_classes_is_base(counts: dict[str, int], seed: int | None) -> None:
    base = split_classes(counts, seed=seed)
    assert len(base) == (len(counts) + 1) // 2 and [name for name in counts if name in base] == base
    assert base == split_classes(dict(reversed(counts.items())), seed=seed)[::-1]
    if seed is None:
        assert min(counts[name] for name in base) >= max(count for name, count in counts.items() if name not in base)


@pytest.fixture(scope="module")
def cards(small_sets: dict[str, Builder], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("halves")
    report = convert_small("ucf101", small_sets["ucf101"], folder, "--base_to_novel", "0")
    base, novel = (Path(made["card"]) for made in report["cards"][1:])
    return base, novel


def test_a_base_checkpoint_names_novel_classes_only_if_told(
    cards: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    base, novel = cards
    sft.main(
        [toy_recipe("direct", tmp_path, base, smoke_base, output_dir=tmp_path / "run", **QUICK | {"max_steps": 1})]
    )
    options = {"checkpoint": tmp_path / "run", "generate": False, "shots": ...}
    on = {
        card: toy_recipe("eval", tmp_path, card, smoke_base, output_dir=tmp_path / card.stem, **options | {"shots": 2})
        for card in cards
    }
    recipe = yaml.safe_load(Path(on[novel]).read_text())
    del recipe["shots"]  # nothing is drawn: there is no training clip
    Path(on[novel]).write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=r"the labels of '.*run' are .* use the card that it was trained with"):
        evaluation.main([on[novel]])
    with pytest.raises(UserError, match=r"unseen_labels is true but '.*run' was trained on 2 labels of .*base.yaml"):
        evaluation.main([on[base], "--unseen_labels", "true"])
    changed = tmp_path / "changed.yaml"
    changed.write_text(novel.read_text().replace("Which action", "What action"))
    with pytest.raises(UserError, match=r"was trained with another question than .*changed.yaml"):
        evaluation.main([on[novel], "--unseen_labels", "true", "--task", str(changed)])
    raw = yaml.safe_load(novel.read_text())
    for prompt in ("label", "checklist"):
        (tmp_path / prompt).mkdir()
        (tmp_path / prompt / f"{prompt}.txt").write_text(TaskCard.from_yaml(novel).prompts[prompt] + " Look twice.")
        (tmp_path / f"{prompt}.yaml").write_text(yaml.safe_dump(raw | {"prompts": prompt}, sort_keys=False))
    with pytest.raises(UserError, match=r"was trained with another wording of the prompts than .*label.yaml"):
        evaluation.main([on[novel], "--unseen_labels", "true", "--task", str(tmp_path / "label.yaml")])
    with pytest.raises(UserError, match="was trained with definitions"):
        evaluation.main([on[novel], "--unseen_labels", "true", "--definitions", "true"])
    asks = ["--task", str(tmp_path / "checklist.yaml")]  # which stage 0 alone sees
    assert evaluation.main([on[novel], "--unseen_labels", "true", *asks])["n"] == 2
    assert evaluation.main([on[novel], "--unseen_labels", "true"])["n"] == evaluation.main([on[base]])["n"] == 2
    found = harmonic.main(["--base", str(tmp_path / base.stem), "--novel", str(tmp_path / novel.stem)])
    assert found["harmonic_mean"] == harmonic_mean(found["base"], found["novel"])


def test_clips_that_were_trained_on_stay_out_under_other_labels(
    cards: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    """The same files under novel names: the labels are unseen, the clips are not."""
    base, novel = cards
    sft.main(
        [toy_recipe("direct", tmp_path, base, smoke_base, output_dir=tmp_path / "run", **QUICK | {"max_steps": 1})]
    )
    trained, names = TaskCard.from_yaml(base), TaskCard.from_yaml(novel).names
    table = Path(trained.data.annotations).read_text().replace(",test,", ",x,").replace(",train,", ",test,")
    for old, new in zip(trained.names, names, strict=True):
        table = table.replace(f",{old},", f",{new},")
    rows = [line for line in table.splitlines() if ",x," not in line]
    (tmp_path / "clips.csv").write_text("\n".join(line.rpartition(",")[0] for line in rows))  # groups go, too
    raw = yaml.safe_load(novel.read_text())
    raw["data"]["annotations"] = str(tmp_path / "clips.csv")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    recipe = toy_recipe("eval", tmp_path, tmp_path / "card.yaml", smoke_base, shots=..., generate=False)
    argv = [
        recipe,
        "--unseen_labels",
        "true",
        "--checkpoint",
        str(tmp_path / "run"),
        "--output_dir",
        str(tmp_path / "o"),
    ]
    with pytest.raises(UserError, match="files of the test split were used to train"):
        evaluation.main(argv)


@pytest.mark.parametrize(
    ("entry", "recipe", "words"),
    [
        (sft, "direct", "there is no training clip; such a card is for evaluation"),
        (rationales, "rationales", "no training clip to write a rationale for"),
        (evaluation, "eval", "the probe needs training clips"),
    ],
)
def test_a_card_without_training_clips_trains_nothing(
    entry: Any, recipe: str, words: str, cards: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    more = {"method": "probe", "generate": False} if recipe == "eval" else {}
    where = "output_file" if recipe == "rationales" else "output_dir"
    path = toy_recipe(recipe, tmp_path, cards[1], smoke_base, shots=..., **{where: tmp_path / "out/o"}, **more)
    with pytest.raises(UserError, match=words):
        entry.main([path])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--method", "probe"], "it needs a checkpoint .*None.*, method score .*probe"),
        (["--checkpoint", "a", "--calibrate", "true", "--split", "validation"], "and no calibrate .*True"),
    ],
)
def test_unseen_labels_alone_is_refused(
    more: list[str], words: str, cards: tuple[Path, Path], smoke_base: Path, tmp_path: Path
) -> None:
    changes = {"shots": ..., "unseen_labels": True, "output_dir": tmp_path / "o"}
    path = toy_recipe("eval", tmp_path, cards[1], smoke_base, **changes)
    with pytest.raises(UserError, match=words):
        evaluation.main([path, *more])


def test_the_harmonic_mean_of_known_accuracies() -> None:
    assert harmonic_mean(0.8, 0.4) == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    assert harmonic_mean(0, 0) == 0 and harmonic_mean(1, 0) == 0 and harmonic_mean(0.3, 0.3) == pytest.approx(0.3)


def predictions(right: int, total: int, label: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{i:04}", "label": label, "prediction": label if i < right else "other", "group": f"g{i}"}
        for i in range(total)
    ]


def test_its_interval_is_that_of_simulated_test_sets() -> None:
    found = base_to_novel([predictions(320, 400, "a")], [predictions(100, 250, "b")])
    assert (found["base"], found["novel"]) == (0.8, 0.4) and found["covers"] == "clips only"
    rng = np.random.default_rng(0)
    pairs = zip(rng.binomial(400, 0.8, 20000) / 400, rng.binomial(250, 0.4, 20000) / 250, strict=True)
    wanted = np.percentile([harmonic_mean(b, n) for b, n in pairs], [2.5, 97.5])
    assert found["interval"] == pytest.approx(wanted, abs=0.006)


def evaluated(folder: Path, label: str, rows: list[dict[str, Any]], **settings: Any) -> str:
    made = {"base": "b", "checkpoint": "c", "frames": {}, "options": {}} | settings
    right = sum(row["prediction"] == label for row in rows)
    confusion = {"labels": [label, f"{label}2"], "matrix": [[right, 0, len(rows) - right], [0, 0, 0]]}
    write_json(folder / "metrics.json", {"n": len(rows), "settings": made, "confusion": confusion})
    write_jsonl(folder / "predictions.jsonl", rows)
    return str(folder)


def test_the_command_takes_draws_and_refuses_what_does_not_belong_together(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for i in (0, 1):
        evaluated(tmp_path / f"base{i}", "a", predictions(8 - 2 * i, 10, "a"), checkpoint=f"c{i}")
        evaluated(tmp_path / f"novel{i}", "b", predictions(4, 10, "b"), checkpoint=f"c{i}")
    base, novel = ([str(tmp_path / f"{part}{i}") for i in (0, 1)] for part in ("base", "novel"))
    out = tmp_path / "h.json"
    found = harmonic.main(["--base", *base, "--novel", *novel, "--output", str(out)])
    assert (found["base"], found["novel"], found["covers"]) == (0.7, 0.4, "clips and draws")
    assert found["harmonic_mean"] == pytest.approx(2 * 0.7 * 0.4 / 1.1) == json.loads(out.read_text())["harmonic_mean"]
    assert "harmonic mean 0.509" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"checkpoint = c0 and .* with c1"):
        harmonic.main(["--base", base[0], "--novel", novel[1]])
    with pytest.raises(UserError, match="names 2 evaluations and --novel 1"):
        harmonic.main(["--base", *base, "--novel", novel[1]])
    with pytest.raises(UserError, match="both have the class 'a'"):
        harmonic.main(["--base", base[0], "--novel", base[0]])
    file = tmp_path / "base1/predictions.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        UserError, match=r"predictions.jsonl' holds 9 rows of 9 clips, but metrics.json .* is of 10; del"
    ):
        harmonic.main(["--base", *base, "--novel", *novel])
    write_json(tmp_path / "open/metrics.json", {"n": 3, "answer": {"type": "number"}})
    with pytest.raises(UserError, match="open' is no evaluation of classes"):
        harmonic.main(["--base", base[0], "--novel", str(tmp_path / "open")])
    evaluated(tmp_path / "base1", "a", predictions(4, 9, "a"), checkpoint="c1")
    with pytest.raises(UserError, match="evaluated other clips"):
        harmonic.main(["--base", *base, "--novel", *novel])
