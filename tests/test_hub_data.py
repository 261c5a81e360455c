"""A dataset on the Hub as data: its files are downloaded once, and may link to the blobs of its cache only."""

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from rbft_trl.data.rows import check_inside, load_rows
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import FrameSettings, read_row
from rbft_trl.errors import UserError

CARD = {"name": "home", "question": "What?", "role": "You see.", "aspects": ["things"]}
CARD |= {"labels": {"cat": "a cat walks by", "dog": "a dog"}, "data": {"dataset": "org/clips", "revision": "v1"}}


@pytest.fixture
def snapshot(tmp_path: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache of a dataset in VideoFolder layout: links to blobs."""
    repository = tmp_path / "hub/datasets--org--clips"
    folder = repository / "snapshots/0123"
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            blob = make_clip(repository / f"blobs/{split}{name}.mp4", first=7 * number)
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "a.mp4").symlink_to(blob)
    asked = []

    def download(name: str, *, repo_type: str, revision: str | None) -> str:
        asked.append((name, repo_type, revision))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    yield folder
    assert set(asked) == {("org/clips", "dataset", "v1")}


def test_a_dataset_on_the_hub_is_a_folder(snapshot: Path, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    card = TaskCard.from_yaml(tmp_path / "card.yaml")
    rows = load_rows(card)
    assert [(row["video"], row["label"], row["split"]) for row in rows] == [
        ("test/cat/a.mp4", "cat", "test"), ("test/dog/a.mp4", "dog", "test"),
        ("train/cat/a.mp4", "cat", "train"), ("train/dog/a.mp4", "dog", "train"),
    ]  # fmt: skip
    check_inside(rows, card.data.root, card.data.within)
    assert len(read_row(rows[0], root=card.data.root, frames=FrameSettings(), factor=28).frames) == 8
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (snapshot / "train/cat/b.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(UserError, match="1 clips lie outside"):
        check_inside(load_rows(card), card.data.root, card.data.within)
