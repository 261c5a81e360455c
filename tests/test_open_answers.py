"""Cards whose answers are numbers, ranges or lists, through the real entries: data, check, training, evaluation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from rbft_trl import check, rationales, sft, star
from rbft_trl import eval as evaluation
from rbft_trl.classifier import VideoClassifier
from rbft_trl.data.answers import AnswerType
from rbft_trl.data.jsonl import read_jsonl, write_jsonl
from rbft_trl.data.rows import load_rows
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.evidence.answers import buckets_of, open_metrics
from rbft_trl.evidence.yields import yields_of
from tests.helpers import REPOSITORY, toy_recipe
from toy.answers import KINDS, draw
from toy.answers import main as make_clips

QUICK = {"max_steps": 2, "per_device_train_batch_size": 4, "train_parts": ["llm"], "shots": 8, "max_length": 500}


@pytest.fixture(scope="module", params=list(KINDS))
def card(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped card of a kind, on a few clips."""
    folder = tmp_path_factory.mktemp(request.param)
    counts = ["--train", "12", "--validation", "4", "--test", "6"]
    make_clips(["--answers", request.param, "--out", str(folder / "clips"), *counts])
    raw = yaml.safe_load((REPOSITORY / f"recipes/tasks/toy_{request.param}.yaml").read_text(encoding="utf-8"))
    raw["data"]["root"] = str(folder / "clips")
    (folder / "card.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder / "card.yaml"


def test_the_entries_take_an_open_card(card: Path, smoke_base: Path, tmp_path: Path) -> None:
    direct = toy_recipe("direct", tmp_path, card, smoke_base, **QUICK, output_dir=tmp_path / "direct",
                        eval_strategy="steps", eval_steps=2, save_steps=2)  # fmt: skip
    record = sft.main([direct])
    assert record["labels"] == [] and record["best_validation"] is not None, "validated by greedy answers"
    scored = toy_recipe("eval", tmp_path, card, smoke_base, method="greedy", output_dir=tmp_path / "eval", shots=8)
    metrics = evaluation.main([scored, "--checkpoint", str(tmp_path / "direct")])
    rows = read_jsonl(tmp_path / "eval/predictions.jsonl")
    kind = TaskCard.from_yaml(card).answer.type
    assert metrics["n"] == 6 == len(rows) and metrics["answer"]["type"] == kind
    assert ("mean_iou" in metrics) == (kind == "time_range")
    assert ("mean_absolute_error" in metrics) == (kind == "number")
    assert sum(metrics["reasons"].values()) == sum(row["reason"] is not None for row in rows)
    assert sum(own["support"] for own in metrics["per_bucket"].values()) == 6
    assert not (tmp_path / "eval/confusion.png").exists()
    assert evaluation.main([scored, "--checkpoint", str(tmp_path / "direct")]) == metrics, "reused"
    for method in ("score", "probe", "majority"):
        with pytest.raises(UserError, match=f"method is '{method}' but the answers of"):
            evaluation.main([scored, "--method", method])
    with pytest.raises(UserError, match="no classes; evaluate it with"):
        VideoClassifier.from_pretrained(tmp_path / "direct")
    with pytest.raises(UserError, match="class_balance is 'sampler'"):
        sft.main([direct, "--class_balance", "sampler", "--output_dir", str(tmp_path / "no")])
    written = toy_recipe("rationales", tmp_path, card, smoke_base, output_file=tmp_path / "r.jsonl", use_pool=False,
                         shots=8)  # fmt: skip
    with pytest.raises(UserError, match=rf"answer type '{kind}' has no kept rationale: 0 of"):
        rationales.main([written])  # that base writes noise
    told = yields_of(read_jsonl(tmp_path / "r.jsonl"), TaskCard.from_yaml(card))
    assert told["clips"] == told["dropped"] == 8 == sum(sum(own.values()) for own in told["per_class"].values())


def test_the_shipped_recipes_run(
    card: Path, smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 0, training and evaluation of recipes/toy_answers; the tiny base writes noise, so the texts are put in."""
    monkeypatch.chdir(tmp_path)
    folder, common = REPOSITORY / "recipes/toy_answers", ["--task", str(card), "--model_name_or_path", str(smoke_base)]
    with pytest.raises(UserError, match="has no kept rationale"):
        rationales.main([str(folder / "rationales.yaml"), *common])
    file = Path(yaml.safe_load((folder / "rationales.yaml").read_text())["output_file"])
    right = TaskCard.from_yaml(card).final_line
    told = {"verdict": "kept", "reason": None, "shown": False}
    rows = [row | told | {"text": f"It moves.\n{right(row['label'])}"} for row in read_jsonl(file)[::2]]
    write_jsonl(file, rows)
    record = sft.main([str(folder / "stage1.yaml"), *common, "--max_steps", "2", "--per_device_train_batch_size", "4"])
    assert record["steps"] == 2 and record["target"] == "rationale"
    place = record["recipe"]["output_dir"]
    assert evaluation.main([str(folder / "eval.yaml"), *common, "--checkpoint", place])["n"] == 6


def test_a_toy_base_that_was_not_made_says_how(card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As clips do that are not there; the recipes are a copy beside which nothing was made."""
    folder = shutil.copytree(REPOSITORY / "recipes/toy_answers", tmp_path / "a/b/c/toy_answers")
    monkeypatch.chdir(tmp_path)
    for entry, recipe in ((rationales, "rationales"), (sft, "stage1"), (evaluation, "eval"), (star, "star")):
        with pytest.raises(
            UserError, match=r"'outputs/toy/open_base'.*; make the base with: python toy/open_base\.py$"
        ):
            entry.main([str(folder / f"{recipe}.yaml"), "--task", str(card)])


def test_check_tells_what_there_is(card: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert check.main([str(card), "--report_dir", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "check.json").read_text())
    assert sum(report["splits"]["train"]["classes"].values()) == 12
    assert "classes are uneven" not in capsys.readouterr().err
    assert (tmp_path / "check.html").is_file()


def test_greedy_is_for_open_answers(toy_set: tuple[Path, Path], smoke_base: Path, tmp_path: Path) -> None:
    scored = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, method="greedy", output_dir=tmp_path / "eval")
    with pytest.raises(UserError, match="are class: it is for open answers; use score"):
        evaluation.main([scored])


@pytest.mark.parametrize(
    ("kind", "cell", "reason"),
    [("number", "about 3", "hedged"), ("time_range", "5-2", "empty_range"), ("number", "3 km", "unit")],
)
def test_a_label_of_another_type_is_told_with_its_line(tmp_path: Path, kind: str, cell: str, reason: str) -> None:
    (tmp_path / "clips.csv").write_text(f"video,label,split\na.mp4,{cell},train\n")
    tolerance = {"absolute": 1} if kind == "number" else {"iou": 0.5}
    raw = {"name": "t", "question": "?", "role": "r", "aspects": ["a"], "answer": {"type": kind} | tolerance}
    raw["data"] = {"root": str(tmp_path), "annotations": "clips.csv"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=rf"clips\.csv:2: label '{cell}' is no .* \({reason}\)"):
        load_rows(TaskCard.from_yaml(tmp_path / "card.yaml"))


def test_labels_are_read_in_one_spelling_and_split_without_classes(tmp_path: Path) -> None:
    rows = "".join(f'{i}.mp4,"1,{i:03d}.50"\n' for i in range(20))
    (tmp_path / "clips.csv").write_text("video,label\n" + rows)
    raw = {"name": "t", "question": "?", "role": "r", "aspects": ["a"], "answer": {"type": "number", "absolute": 1}}
    raw["data"] = {"root": str(tmp_path), "annotations": "clips.csv"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(raw))
    found = load_rows(TaskCard.from_yaml(tmp_path / "card.yaml"))
    assert {row["label"] for row in found} == {f"{1000.5 + i}" for i in range(20)}
    splits = [row["split"] for row in found]
    assert [splits.count(split) for split in ("train", "validation", "test")] == [14, 3, 3]


def test_buckets_are_quarters_or_the_values_themselves() -> None:
    number = AnswerType("number", absolute=0)
    names = buckets_of([str(n) for n in range(1, 101)], number)
    assert {name: names.count(name) for name in names} == {
        "from 1 to 25": 25, "above 25 to 50": 25, "above 50 to 75": 25, "above 75 to 100": 25
    }  # fmt: skip
    assert buckets_of(["3", "3", "7"], number) == ["3", "3", "7"]
    assert buckets_of(["1-3", "0-2", "5-9"], AnswerType("time_range", iou=0.5)) == ["2", "2", "4"]
    assert buckets_of(["up", "up, down"], AnswerType("list")) == ["1 items", "2 items"]


def test_open_metrics_have_known_answers() -> None:
    def rows(*pairs: tuple[str | None, str]) -> list[dict]:
        return [
            {"id": str(i), "label": g, "prediction": s, "reason": None if s else "hedged", "seconds": 0.5}
            for i, (s, g) in enumerate(pairs)
        ]

    found = open_metrics(
        rows(("10", "10"), ("14", "10"), (None, "10"), ("5", "50")), AnswerType("number", relative=0.1)
    )
    assert found["accuracy"] == 0.25 and found["invalid_rate"] == 0.25 and found["constant"] == 0.75
    assert found["mean_absolute_error"] == pytest.approx((0 + 4 + 45) / 3)
    spans = open_metrics(rows(("0-4", "0-8"), (None, "2-4"), ("2-4", "2-4")), AnswerType("time_range", iou=0.5))
    assert spans["mean_iou"] == pytest.approx((0.5 + 0 + 1) / 3) and spans["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(AssertionError, match="every id exactly once"):
        open_metrics(rows(("1", "1")), AnswerType("number", absolute=0), ids=["0", "1"])


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_clip_shows_its_answer(kind: str) -> None:
    """From the pixels alone: where the disc is tells how far it moves, when it is there, and which ways it goes."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene = KINDS[kind](rng)
        frames = draw(scene, rng).astype(float)
        bright = (frames.max(3) - np.median(frames.max(3))).clip(60) - 60
        there = bright.sum((1, 2)) > 200
        y, x = np.mgrid[:56, :56]
        weight = bright.sum((1, 2)).clip(1e-9)
        centre = np.stack([(bright * x).sum((1, 2)) / weight, (bright * y).sum((1, 2)) / weight], 1)
        if kind == "time_range":
            seconds = np.flatnonzero(there) / 8
            assert scene[0] == f"{seconds[0]:.0f}-{seconds[-1] + 1 / 8:.0f}"
            continue
        assert there.all()
        if kind == "number":
            assert np.abs(centre[-1] - centre[0]).max() == pytest.approx(float(scene[0]), abs=1.5)
            continue
        ways = scene[0].split(", ")
        for i, way in enumerate(ways):
            first, last = (round(15 * (i + part) / len(ways)) for part in (0.1, 0.9))
            step = centre[last] - centre[first]
            axis = int(np.abs(step[1]) > np.abs(step[0]))
            assert way == (("left", "right"), ("up", "down"))[axis][int(step[axis] > 0)]
