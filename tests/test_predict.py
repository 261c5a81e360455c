"""Prediction on new clips: scores as in the evaluation, bad clips as rows, resumable, one sentence per mistake."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbft_trl import eval as evaluation
from rbft_trl import predict, sft
from rbft_trl.classifier import VideoClassifier
from rbft_trl.data.jsonl import read_jsonl, write_json
from rbft_trl.data.video import ClipError
from rbft_trl.errors import UserError
from rbft_trl.evidence.calibration import CALIBRATION_FILE
from rbft_trl.model.provenance import weights_fingerprint
from tests.helpers import toy_recipe


@pytest.fixture(scope="module")
def trained(toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    changes: dict[str, Any] = {"output_dir": folder / "direct", "max_steps": 2, "eval_strategy": "no"}
    changes |= {"save_strategy": "no", "load_best_model_at_end": False}
    sft.main([toy_recipe("direct", folder, toy_set[0], smoke_base, **changes)])
    return folder / "direct"


@pytest.fixture(scope="module")
def evaluated(trained: Path, toy_set: tuple, smoke_base: Path) -> list[dict[str, Any]]:
    recipe = toy_recipe(
        "eval", trained.parent, toy_set[0], smoke_base, checkpoint=trained, output_dir=trained / "eval"
    )
    evaluation.main([recipe])
    return read_jsonl(trained / "eval/predictions.jsonl")


def test_prediction_scores_as_the_evaluation_does(trained: Path, evaluated: list, toy_set: tuple) -> None:
    clf = VideoClassifier.from_pretrained(trained, device="cpu", batch_size=5)
    some = evaluated[:7]
    answers = clf([toy_set[1] / row["video"] for row in some], top_k=3)
    for row, ranked in zip(some, answers, strict=True):
        best = sorted(row["scores"].values(), reverse=True)
        assert [answer["score"] for answer in ranked] == pytest.approx(best[:3], abs=1e-5)
        assert ranked[0]["label"] == row["prediction"]
    single = clf(str(toy_set[1] / some[0]["video"]))
    assert isinstance(single[0], dict) and sum(answer["score"] for answer in single) == pytest.approx(1)


def test_a_table_of_a_folder_with_a_bad_clip(trained: Path, toy_set: tuple, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for i, clip in enumerate(sorted((toy_set[1] / "clips").iterdir())[:3]):
        shutil.copy(clip, tmp_path / f"new/{i}, x.mp4")
    (tmp_path / "new/bad.mp4").write_bytes(b"no clip at all")
    out = tmp_path / "out.csv"
    command = [
        str(tmp_path / "new"),
        "--model",
        str(trained),
        "--use_cpu",
        "--output",
        str(out),
        "--threshold",
        "0.99",
    ]
    rows = predict.main([*command, "--batch_size", "2", "--rationale", "--max_new_tokens", "4"])
    with out.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [Path(row["clip"]).name for row in table] == ["0, x.mp4", "1, x.mp4", "2, x.mp4", "bad.mp4"]
    assert "not_a_video" in table[3]["error"] and not table[3]["label"] and not table[3]["score: dorvan"]
    assert all(row["abstained"] == "True" and not row["label"] and float(row["score"]) < 0.99 for row in table[:3])
    assert (
        all("rationale" in row for row in rows[:3])
        and "rationale" not in rows[3]
        and not list(tmp_path.glob("*.part"))
    )
    with pytest.raises(UserError, match=r"out\.csv' exists"):
        predict.main(command)


def test_a_stopped_prediction_goes_on_and_new_clips_may_have_come(
    trained: Path, toy_set: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = sorted(str(path) for path in (toy_set[1] / "clips").iterdir())[:6]
    out = tmp_path / "out.jsonl"
    command = ["--model", str(trained), "--use_cpu", "--output", str(out), "--batch_size", "2"]
    real, calls = VideoClassifier.scores, []

    def stops(self: VideoClassifier, rows: list, read: list) -> list:
        calls.append([row["id"] for row in rows])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, rows, read)

    monkeypatch.setattr(VideoClassifier, "scores", stops)
    with pytest.raises(KeyboardInterrupt):
        predict.main([*clips[1:5], *command])
    assert not out.exists()
    rows = predict.main([*clips, *command])
    assert [row["clip"] for row in rows] == clips
    assert sorted(name for batch in calls[2:] for name in batch) == sorted(
        set(clips) - set(calls[0])
    )  # what was finished is not read again
    monkeypatch.undo()
    straight = predict.main([*clips, *command[:-3], str(tmp_path / "other.jsonl"), *command[-2:]])
    for a, b in zip(rows, straight, strict=True):
        np.testing.assert_allclose(list(a["scores"].values()), list(b["scores"].values()), atol=1e-5)


def test_the_stored_temperature_and_precision_are_used(
    trained: Path, evaluated: list, toy_set: tuple, smoke_base: Path, tmp_path: Path
) -> None:
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, checkpoint=trained, output_dir=tmp_path / "eval")
    with pytest.raises(UserError, match=r"calibrate needs .* split 'test'"):
        evaluation.main([recipe, "--calibrate", "true"])
    with pytest.raises(UserError, match=r"16 validation clips are too few"):
        evaluation.main([recipe, "--calibrate", "true", "--split", "validation"])
    clip = str(toy_set[1] / evaluated[0]["video"])
    command = [clip, "--model", str(trained), "--use_cpu", "--precision", "0.5"]
    with pytest.raises(UserError, match="--precision needs validation scores"):
        predict.main([*command, "--output", str(tmp_path / "a.jsonl")])
    fitted = {"temperature": 4.0, "confidence": [0.9, 0.1], "right": [True, False], "n": 2}
    try:
        write_json(trained / CALIBRATION_FILE, fitted | {"weights": weights_fingerprint(trained)})
        (row,) = predict.main([*command, "--output", str(tmp_path / "b.jsonl")])
        logprobs = np.array(list(evaluated[0]["logprobs"].values())) / 4.0
        expected = np.exp(logprobs - logprobs.max())
        np.testing.assert_allclose(list(row["scores"].values()), expected / expected.sum(), atol=1e-5)
        assert json.loads((tmp_path / "b.jsonl").read_text())["clip"] == clip
        write_json(trained / CALIBRATION_FILE, fitted | {"weights": "other"})
        with pytest.raises(UserError, match="was fitted to other weights"):
            predict.main([*command, "--output", str(tmp_path / "c.jsonl")])
    finally:
        (trained / CALIBRATION_FILE).unlink()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["nowhere"], "'nowhere' does not exist"),
        (["EMPTY"], "holds no clip"),
        (["CLIP", "--threshold", "2"], "--threshold is 2.0 but must be a share"),
        (["CLIP", "--output", "x.txt"], "ends in '.txt'; write a .csv or .jsonl"),
        (["CLIP", "--model", "EMPTY"], "holds no rbft.json"),
        (["CLIP", "--batch_size", "0"], "must be at least 1"),
        (["CLIP", "--base", "EMPTY"], "no processor|config.json|is no base"),
    ],
)
def test_mistakes_are_one_sentence(
    argv: list[str], words: str, trained: Path, evaluated: list, toy_set: tuple, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "CLIP": str(toy_set[1] / evaluated[0]["video"])}
    argv = [places.get(word, word) for word in argv]
    model = [] if "--model" in argv else ["--model", str(trained)]
    output = [] if "--output" in argv else ["--output", str(tmp_path / "out.csv")]
    with pytest.raises(UserError, match=words):
        predict.main([*argv, *model, *output, "--use_cpu"])


def test_a_bad_clip_is_an_error_in_python(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"")
    with pytest.raises(ClipError, match="empty_file"):
        VideoClassifier.from_pretrained(trained, device="cpu")(tmp_path / "bad.mp4")


def test_a_table_gives_parts_and_text(trained: Path, toy_set: tuple, tmp_path: Path, recwarn: Any) -> None:
    clip = next(iter(sorted((toy_set[1] / "clips").iterdir())))
    shutil.copy(clip, tmp_path / "a.mp4")
    (tmp_path / "new.csv").write_text("video;start;end;text\na.mp4;0,5;1,5;a  title\na.mp4;;;\n")
    command = [str(tmp_path / "new.csv"), "--model", str(trained), "--use_cpu", "--output"]
    part, whole = predict.main([*command, str(tmp_path / "out.jsonl")])
    assert part["clip"].endswith("a.mp4#0.5-1.5") and whole["clip"].endswith("a.mp4")
    classifier = VideoClassifier.from_pretrained(trained, device="cpu")
    asked = {"video": tmp_path / "a.mp4", "start": 0.5, "end": 1.5, "text": "a title"}
    assert {a["label"]: a["score"] for a in classifier(asked)} == pytest.approx(part["scores"], abs=1e-5)
    assert part["scores"] != pytest.approx(whole["scores"], abs=1e-5)
    assert not [w for w in recwarn if "trained with the text" in str(w.message)]
    record = json.loads((trained / "rbft.json").read_text())
    try:
        write_json(trained / "rbft.json", record | {"uses_text": True})
        with pytest.warns(UserWarning, match="was trained with the text beside each clip"):
            predict.main([*command, str(tmp_path / "again.jsonl")])
    finally:
        write_json(trained / "rbft.json", record)


def test_odd_names_and_links_are_rows(trained: Path, toy_set: tuple, tmp_path: Path) -> None:
    clip = next(iter(sorted((toy_set[1] / "clips").iterdir())))
    inside = tmp_path / "in"
    inside.mkdir()
    shutil.copy(clip, inside / "=1+1.mp4")
    (inside / "also.mp4").symlink_to(inside / "=1+1.mp4")
    (inside / "out.mp4").symlink_to(clip)
    (inside / "gone.mp4").symlink_to(inside / "nowhere")
    names = ["=1+1.mp4", "also.mp4", "gone.mp4", "out.mp4"]
    try:
        shutil.copy(clip, os.fsdecode(os.fsencode(inside) + b"/caf\xe9.mp4"))
        names.insert(1, "also.mp4")
        names[2] = "caf\\xe9.mp4"
    except OSError:
        pass
    rows = predict.main([str(inside), "--model", str(trained), "--use_cpu", "--output", str(tmp_path / "o.csv")])
    assert sorted(Path(row["clip"]).name for row in rows) == sorted(names)
    by_name = {Path(row["clip"]).name: row for row in rows}
    assert by_name["=1+1.mp4"]["scores"] == pytest.approx(by_name["also.mp4"]["scores"], abs=1e-5)
    assert "it is a link out of" in by_name["out.mp4"]["error"] and "missing" in by_name["gone.mp4"]["error"]
    with (tmp_path / "o.csv").open(newline="") as stream:
        assert all(not row["clip"].startswith("=") for row in csv.DictReader(stream))


def test_a_clip_that_changed_is_read_again_and_two_runs_do_not_mix(
    trained: Path, toy_set: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, clip in enumerate(sorted((toy_set[1] / "clips").iterdir())[:4]):
        shutil.copy(clip, tmp_path / f"{number}.mp4")
    clips = [str(tmp_path / f"{number}.mp4") for number in range(4)]
    command = [
        *clips,
        "--model",
        str(trained),
        "--use_cpu",
        "--output",
        str(tmp_path / "o.jsonl"),
        "--batch_size",
        "2",
    ]
    real, calls = VideoClassifier.scores, []

    def stops(self: VideoClassifier, rows: list, read: list) -> list:
        calls.append(rows)
        if len(calls) == 2:
            with pytest.raises(UserError, match="another process is writing"):
                predict.main(command)
            raise KeyboardInterrupt
        return real(self, rows, read)

    monkeypatch.setattr(VideoClassifier, "scores", stops)
    with pytest.raises(KeyboardInterrupt):
        predict.main(command)
    monkeypatch.undo()
    (tmp_path / "0.mp4").write_bytes(b"spoilt")
    rows = predict.main(command)
    assert "not_a_video" in rows[0]["error"] and all(row["error"] is None for row in rows[1:])


def test_a_class_name_is_no_rationale(
    trained: Path, toy_set: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clips = sorted(str(path) for path in (toy_set[1] / "clips").iterdir())[:3]
    texts = ["Dorvan.", "Classification: dorvan", "It moves left.\nClassification: dorvan"]
    monkeypatch.setattr("rbft_trl.classifier.write", lambda *_, **__: (texts, [False] * 3))
    clf = VideoClassifier.from_pretrained(trained, device="cpu")
    rows = [{"id": clip, "video": clip} for clip in clips]
    assert clf.rationales(rows, [clf.collator.read_row(row) for row in rows]) == texts  # the report reads conclusions
    command = [*clips, "--model", str(trained), "--use_cpu", "--output", str(tmp_path / "out.csv"), "--rationale"]
    rows = predict.main(command)
    assert [row["rationale"] for row in rows] == [None, None, "It moves left."]
    assert "2 clips have no rationale: the model wrote a class name alone" in capsys.readouterr().out
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["rationale"] for row in csv.DictReader(stream)] == ["", "", "It moves left."]
