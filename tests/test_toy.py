"""The toy domain: real clips with true attributes, a base that is small, loads, sees, and knows no class name."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import UserError
from toy.base_model import make_processor, patchify
from toy.clips import main as make_clips
from toy.corpus import KNOWN, SYLLABLES, TASKS, draw_card, draw_example, draw_name
from toy.measure import CARD, Exam
from toy.scenes import ATTRIBUTES, LABELS, draw_background, draw_scene, render

BASE = Path(__file__).resolve().parents[1] / "toy/base"


def test_clips_are_real_and_their_truth_lies_beside_them(toy_set: tuple[Path, Path]) -> None:
    root = toy_set[1]
    truth = read_jsonl(root / "attributes.jsonl")
    assert len(truth) == 4 * 8 + 8 + 16 + 24
    for row in truth:
        assert all(row[name] in values for name, values in ATTRIBUTES.items())
        assert LABELS[row["label"]] == (row["size"], row["motion"]) and row["colour"] in row["text"]
    with av.open(str(root / "clips/toy00000.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and len(list(container.decode(stream))) == 16


def test_a_camera_never_leaves_its_split(toy_set: tuple[Path, Path]) -> None:
    rows = [line.split(",") for line in (toy_set[1] / "clips.csv").read_text().splitlines()[1:]]
    splits: dict[str, set[str]] = {}
    for _, _, _, split, group in rows:
        splits.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in splits.values()) and len(splits) < len(rows) / 2
    assert {row[2] for row in rows if row[3] == "test"} == set(LABELS)


def test_other_settings_in_the_same_folder_are_refused(toy_set: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="choose another --out"):
        make_clips(["--out", str(toy_set[1]), "--shift", "0.9", "--workers", "1"])
    with pytest.raises(UserError, match="--shift is 2"):
        make_clips(["--out", str(toy_set[1]), "--shift", "2"])
    with pytest.raises(UserError, match="--pool is -1 but must be at least 0"):
        make_clips(["--out", str(toy_set[1]), "--pool", "-1"])
    nothing = ["--labelled", "0", "--pool", "0", "--validation", "0", "--test", "0"]
    with pytest.raises(UserError, match="are all 0, so no clip would be made; raise one"):
        make_clips(["--out", str(toy_set[1]), *nothing])


def test_shift_changes_the_look_and_not_the_truth() -> None:
    scene = draw_scene(np.random.default_rng(0))
    looks = []
    for shift in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(1)
        frames, centres = render(scene, draw_background(rng), rng, shift=shift)
        looks.append((frames.astype(float), centres))
    assert np.array_equal(looks[0][1], looks[2][1])
    distances = [np.abs(looks[0][0] - look).mean() for look, _ in looks]
    assert distances[0] == 0 < distances[1] < distances[2]
    assert looks[0][0].mean() < 60 < looks[2][0].mean()  # dark and plain against bright and textured


def test_no_class_name_of_the_toy_domain_is_ever_pretrained() -> None:
    rng = np.random.default_rng(0)
    assert all(any(name.startswith(s) for s in SYLLABLES) for name in LABELS)  # it could have been
    for i in range(600):
        example = draw_example(rng, draw_scene(rng), TASKS[i % len(TASKS)])
        words = set((example.prompt + " " + example.answer).replace(",", " ").replace(":", " ").split())
        assert not words & set(LABELS)
    assert draw_name(rng) not in LABELS


def test_fast_patches_are_the_processors_own() -> None:
    processor, rng = make_processor(), np.random.default_rng(0)
    frames = rng.integers(0, 255, (2, 8, 56, 56, 3), dtype=np.uint8)
    videos = [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in frames]
    settings = {"do_sample_frames": False, "do_resize": False, "return_tensors": "pt"}
    expected = processor(text=["<|video_pad|>"] * 2, videos=videos, **settings)["pixel_values_videos"]
    torch.testing.assert_close(patchify(frames, processor), expected, atol=1e-5, rtol=0)


def test_the_pretraining_command_makes_a_base_that_loads(smoke_base: Path, tmp_path: Path) -> None:
    made = json.loads((smoke_base / "made.json").read_text())
    assert made["setting"] == "smoke" and (smoke_base / "model.safetensors").is_file()
    captions = Exam(smoke_base, tmp_path, 0.0, 4).captions()
    assert captions["all"]["n"] == 4 * len(ATTRIBUTES)


def test_the_shipped_base_is_small_and_its_card_is_measured() -> None:
    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 12e6
    measured = json.loads((BASE / "measured.json").read_text())
    assert set(measured["shifts"]) >= {"0.0", "1.0"} and (BASE / "README.md").is_file()


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Exam:
    return Exam(BASE, tmp_path_factory.mktemp("exam"), 0.0, 48)


def test_the_shipped_base_sees(exam: Exam) -> None:
    assert CARD.is_file() and exam.captions()["all"]["share"] > 0.9 and exam.questions()["share"] > 0.85
    assert exam.zero_shot(definitions=False)["share"] < 0.35  # chance is 0.125; the names mean nothing to it


def test_the_shipped_base_repeats_a_hinted_name(exam: Exam) -> None:
    assert exam.final_lines()["repeats a hinted name"]["share"] > 0.9


def test_the_shipped_base_names_a_class_of_any_list(exam: Exam) -> None:
    lines = exam.final_lines()
    assert (
        lines["names one class of an unseen list"]["share"] > 0.8
        and lines["the same, with definitions"]["share"] > 0.8
    )


def test_a_known_name_has_one_meaning_and_no_new_name_is_known() -> None:
    known = [name for names in KNOWN.values() for name in names.values()]
    assert len(set(known)) == len(known) == 60 and not set(known) & set(LABELS)
    rng = np.random.default_rng(0)
    assert not {draw_name(rng) for _ in range(2000)} & {*known, *LABELS}
    card, right = draw_card(rng, draw_scene(rng, size="small", motion="up"), known=True)
    assert set(card.names) <= set(known) and right in card.names
