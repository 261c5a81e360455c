"""Parts of long files and the text beside a clip, from the row to the tokens of every stage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rbft_trl.configs import StageArguments
from rbft_trl.data import container
from rbft_trl.data.video import ClipError, FrameSettings, read_clip
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.inference import LabelScorer
from rbft_trl.stage_rows import training_rows
from rbft_trl.start import Task
from tests.helpers import make_collator
from tests.media import encoded
from tests.test_video import FACTOR, FRAMES, naive

TITLE = "Red <|im_end|> things"


@pytest.fixture(scope="module")
def long_clip(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("parts") / "long.mp4", frames=80, fps=8)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(2.0, 5.0, 16, 39), (None, 3.0, 0, 23), (9.0, None, 72, 79), (8.0, 99.0, 64, 79), (0.0, 10.0, 0, 79)],
)
def test_a_part_holds_the_frames_between_its_seconds(
    long_clip: Path, start: float | None, end: float | None, first: int, last: int
) -> None:
    clip = read_clip(long_clip, FRAMES, factor=FACTOR, start=start, end=end)
    assert (clip.indices[0], clip.indices[-1], len(clip.indices)) == (first, last, 8)
    assert np.array_equal(clip.frames, naive(long_clip, clip.indices, 56, 56))


def test_frames_per_second_count_within_the_part(long_clip: Path) -> None:
    settings = FrameSettings(num_frames=None, fps=2, min_pixels=FACTOR**2, max_pixels=16 * FACTOR**2)
    assert len(read_clip(long_clip, settings, factor=FACTOR, start=2.0, end=5.0).frames) == 6
    assert len(read_clip(long_clip, settings, factor=FACTOR).frames) == 20


@pytest.mark.parametrize(("start", "end"), [(10.0, None), (11.0, 12.0), (3.0, 3.01)])
def test_a_part_without_a_frame_is_refused(long_clip: Path, start: float, end: float | None) -> None:
    with pytest.raises(ClipError, match=r"too_short.*no frame from"):
        read_clip(long_clip, FRAMES, factor=FACTOR, start=start, end=end)


@pytest.fixture(scope="module")
def collator(toy_set: tuple[Path, Path], smoke_base: Path) -> ClipCollator:
    return make_collator(*toy_set, smoke_base)


def row(**more: object) -> dict:
    return {"id": "a", "video": "clips/toy00000.mp4", "label": "dorvan", "split": "train"} | more


def test_the_text_enters_every_prompt_and_no_special_token_with_it(collator: ClipCollator) -> None:
    for target in ("label", "rationale"):
        bare, told = (
            collator([row(target=target, text="It moves.\nClassification: dorvan", context=text)])["input_ids"][0]
            for text in (None, TITLE)
        )
        assert collator.tokenizer.decode(told).count(TITLE) == 1 and len(told) > len(bare)
        assert (told == collator.end_id).sum() == (bare == collator.end_id).sum()
    assert collator.count_tokens([row(target="label", context=TITLE)], [{"shape": [8, 56, 56], "seconds": 2.0}]) == [
        len(collator([row(target="label", context=TITLE)])["input_ids"][0])
    ]


def test_the_scorer_reads_each_clips_own_text(collator: ClipCollator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class StopHereError(Exception):
        pass

    def prompts(rows: list, texts: list[str], **_: object) -> None:
        asked.extend(texts)
        raise StopHereError

    monkeypatch.setattr(collator, "prompts", prompts)
    with pytest.raises(StopHereError):
        LabelScorer(collator).read(None, [row(context=TITLE), row(context=None)])
    assert TITLE in asked[0] and asked[1] == collator.card.label_prompt(definitions=False)


def test_rows_of_a_stage_keep_their_part_and_their_text(collator: ClipCollator) -> None:
    rows = [row(start=1.0, end=2.0, context=TITLE)]
    task = Task(collator.card, collator.root, rows, FRAMES, collator.processor, {"a": {"reason": None}}, False)
    (kept,) = training_rows(task, StageArguments(init="base", target="label"))
    assert (kept["start"], kept["end"], kept["context"]) == (1.0, 2.0, TITLE)


def test_a_part_of_a_clip_with_an_uneven_rate_is_cut_by_time(tmp_path: Path) -> None:
    """Ten seconds at 1 frame a second, then ten at 30: a part is where its seconds are."""
    stamps = [30 * i for i in range(10)] + [300 + i for i in range(300)]
    for name in ("a.mp4", "a.mkv"):
        path = encoded(tmp_path / name, frames=310, rate=30, stamps=stamps)
        early, late = (
            read_clip(path, FRAMES, factor=FACTOR, start=start, end=end) for start, end in ((0, 10), (10, 19))
        )
        assert early.indices.max() == 9 and (late.indices.min(), late.indices.max()) == (10, 279), name
        assert np.array_equal(late.frames, naive(path, late.indices, *late.frames.shape[1:3]))


def test_a_part_in_the_middle_of_a_long_file_is_jumped_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same frames as straight decoding, of far fewer that were decoded."""
    path = encoded(tmp_path / "long.mp4", frames=2000, rate=25, options={"g": "50", "bf": "2"})
    decoded = []
    real = container._frames
    monkeypatch.setattr(container, "_frames", lambda *args: (decoded.append(1) or f for f in real(*args)))
    part = read_clip(path, FRAMES, factor=FACTOR, start=60.0, end=64.0)
    assert len(decoded) < 200 and (part.indices[0], part.indices[-1]) == (1500, 1599)
    decoded.clear()
    straight = read_clip(path, FRAMES, factor=FACTOR, start=60.0, end=64.0, straight=60.0)
    assert len(decoded) == 1600 and np.array_equal(part.frames, straight.frames)
