"""Frames kept in memory: the same frames, read once, within the limit; bad, changed and long clips included."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from rbft_trl import eval as evaluation
from rbft_trl import sft
from rbft_trl.data import video
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.data.kept import KEPT, LIMIT, Kept
from rbft_trl.data.video import Clip, ClipError, FrameSettings, read_row
from tests.helpers import FRAMES, toy_recipe
from tests.test_training import QUICK, losses

HOW = {"frames": FRAMES, "factor": 28}
SIZE = 8 * 56 * 56 * 3


@pytest.fixture(autouse=True)
def emptied() -> Iterator[None]:
    before, KEPT.limit = KEPT.limit, LIMIT
    KEPT.clear()
    yield
    KEPT.limit = before
    KEPT.clear()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every file that is really decoded."""
    names, real = [], video.read_clip
    monkeypatch.setattr(video, "read_clip", lambda path, *a, **k: names.append(path.name) or real(path, *a, **k))
    return names


def read(folder: Path, name: str = "a.mp4", frames: FrameSettings = FRAMES, **row: object) -> Clip:
    return read_row({"id": name, "video": name} | row, root=folder, frames=frames, factor=28)


def test_a_clip_is_decoded_once_and_may_be_changed(make_clip: Callable, tmp_path: Path, reads: list[str]) -> None:
    make_clip(tmp_path / "a.mp4")
    first = read(tmp_path)
    plain = first.frames.copy()
    for _ in range(3):
        again = read(tmp_path)
        assert np.array_equal(again.frames, plain) and again.frames is not first.frames
        assert (again.fps, again.total_frames, again.lost) == (first.fps, first.total_frames, first.lost)
        assert np.array_equal(again.indices, first.indices)
        again.frames[:] = 0
        again.indices[:] = 0
        first.frames[:] = 0
    assert np.array_equal(read(tmp_path, order="reversed").frames, plain[::-1])
    assert reads == ["a.mp4"] and KEPT.held == SIZE


def test_other_frames_parts_and_files_are_other_clips(make_clip: Callable, tmp_path: Path, reads: list[str]) -> None:
    make_clip(tmp_path / "a.mp4")
    few = FrameSettings(num_frames=4, min_pixels=56 * 56, max_pixels=56 * 56)
    clips = [read(tmp_path), read(tmp_path, start=1.0), read(tmp_path, end=1.0), read(tmp_path, frames=few)]
    make_clip(tmp_path / "a.mp4", first=40)  # another clip in its place
    clips.append(read(tmp_path))
    assert len(reads) == 5 and len({clip.frames.tobytes() for clip in clips}) == 5
    stamp = (tmp_path / "a.mp4").stat()
    os.utime(tmp_path / "a.mp4", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    read(tmp_path)
    assert len(reads) == 6


def test_a_bad_clip_is_bad_each_time_and_a_repaired_one_is_read(
    make_clip: Callable, tmp_path: Path, reads: list[str]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    for _ in range(2):
        with pytest.raises(ClipError, match="not_a_video"):
            read(tmp_path)
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(ClipError, match="missing"):
        read(tmp_path)
    assert KEPT.held == 0 and not KEPT.clips
    make_clip(tmp_path / "a.mp4")
    assert read(tmp_path).frames.any() and len(reads) == 4
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(ClipError, match="missing"):  # kept frames do not hide that the clip is gone
        read(tmp_path)


def test_the_limit_holds_and_the_oldest_goes_first(make_clip: Callable, tmp_path: Path, reads: list[str]) -> None:
    KEPT.limit = 2 * SIZE
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        make_clip(tmp_path / name)
    for name in ("a.mp4", "b.mp4", "a.mp4", "c.mp4", "a.mp4", "b.mp4"):
        read(tmp_path, name)
        assert KEPT.held == sum(clip.frames.nbytes for clip in KEPT.clips.values()) <= KEPT.limit
    assert reads == ["a.mp4", "b.mp4", "c.mp4", "b.mp4"]
    KEPT.clear()
    KEPT.limit = SIZE - 1
    for _ in range(2):
        assert len(read(tmp_path).frames) == 8  # it does not fit: read anew each time
    assert KEPT.held == 0 and len(reads) == 6


def _held_in_a_child(folder: str) -> tuple[int, int]:
    KEPT.limit = LIMIT
    return len(read(Path(folder)).frames), len(KEPT.clips)


def test_processes_that_read_ahead_keep_nothing(make_clip: Callable, tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4")
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(_held_in_a_child, str(tmp_path)).result(timeout=300) == (8, 0)


def test_it_is_off_until_a_task_is_opened() -> None:
    assert Kept().limit == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_evaluation_are_bit_equal(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, reads: list[str]
) -> None:
    """Three epochs and an evaluation, with and without: the same losses, weights and scores."""
    counts = {}
    for name, limit in (("with", LIMIT), ("without", 0)):
        monkeypatch.setattr("rbft_trl.start.LIMIT", limit)
        KEPT.clear()
        reads.clear()
        changes = QUICK | {"num_train_epochs": 3, "max_steps": ..., "logging_steps": 1, "train_parts": ["llm"]}
        changes |= {"dataloader_num_workers": workers, "output_dir": tmp_path / name}
        sft.main([toy_recipe("direct", tmp_path, toy_set[0], smoke_base, **changes)])
        recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / f"{name}_eval")
        evaluation.main([recipe, "--checkpoint", str(tmp_path / name)])
        counts[name] = len(reads)
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("with", "without")]
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    one, two = (read_jsonl(tmp_path / f"{name}_eval/predictions.jsonl") for name in ("with", "without"))
    assert [p["logprobs"] for p in one] == [p["logprobs"] for p in two]
    if not workers:
        assert counts == {"with": 16 + 24, "without": 3 * 16 + 24}
