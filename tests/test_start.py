"""What every entry does first: card, rows, clips read once, and what bad clips do."""

import os
from pathlib import Path

import pytest

from rbft_trl.configs import DataArguments, ModelArguments
from rbft_trl.errors import UserError
from rbft_trl.start import Task, open_task
from tests.helpers import base_arguments


def opened(card: Path, base: ModelArguments, **options: object) -> Task:
    return open_task(DataArguments(task=str(card), min_pixels=3136, max_pixels=3136, **options), base)


@pytest.fixture
def copied(toy_set: tuple[Path, Path], tmp_path: Path) -> Path:
    """The card of a copy of the toy set, whose clips may be spoilt."""
    card_file, root = toy_set
    copy = tmp_path / "clips"
    (copy / "clips").mkdir(parents=True)
    (copy / "clips.csv").write_bytes((root / "clips.csv").read_bytes())
    for clip in (root / "clips").glob("*.mp4"):
        os.link(clip, copy / "clips" / clip.name)
    card = tmp_path / "toy.yaml"
    card.write_text(card_file.read_text(encoding="utf-8").replace(str(root), str(copy)), encoding="utf-8")
    return card


def test_open_task_reads_the_toy_set(toy_set: tuple[Path, Path], smoke_base: Path) -> None:
    card, root = toy_set
    task = opened(card, base_arguments(smoke_base))
    assert task.root == root and task.frames.num_frames == 8 and len(task.rows) == 8 * 4 + 8 + 16 + 24
    assert [len(task.of_split(split)) for split in ("train", "validation", "test")] == [32, 16, 24]
    assert {row["label"] for row in task.of_split("test")} == set(task.card.names)
    few = opened(card, base_arguments(smoke_base), shots=2, draw=1)
    assert [len(few.of_split(split)) for split in ("train", "validation", "test")] == [16, 16, 24]
    assert sum(row["label"] is None for row in few.rows) == 8
    with pytest.raises(UserError, match=r"shots is 5 but class '.*' has 4 training clips"):
        opened(card, base_arguments(smoke_base), shots=5)


def test_a_bad_clip_stops_or_is_left_out(copied: Path, smoke_base: Path) -> None:
    base, clips = base_arguments(smoke_base), copied.parent / "clips/clips"
    whole = opened(copied, base)
    train, test = whole.of_split("train")[0], whole.of_split("test")[0]
    (clips.parent / train["video"]).unlink()
    with pytest.raises(UserError, match=r"1 of 80 clips cannot be read: 1 missing, e\.g\. '.*python toy/clips"):
        opened(copied, base)
    (clips.parent / test["video"]).unlink()
    (clips.parent / test["video"]).write_bytes(b"no clip")
    with pytest.raises(UserError, match=r"2 of 80 clips .*1 missing.*1 not_a_video|1 not_a_video.*1 missing"):
        opened(copied, base)
    with pytest.warns(UserWarning, match="2 of 80 clips .* they are left out, and wrong in evaluation"):
        task = opened(copied, base, on_bad_clip="leave_out")
    assert len(task.of_split("train")) == 31 and train["id"] not in {row["id"] for row in task.rows}
    assert len(task.of_split("test")) == 24 and len(task.readable("test")) == 23
    with pytest.raises(UserError, match=r"shots is 4 but class '.*' has 3 training clips"), pytest.warns(UserWarning):
        opened(copied, base, on_bad_clip="leave_out", shots=4)  # a draw never holds a clip that cannot be read
