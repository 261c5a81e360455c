"""Odd and hostile files through the manifest: each ends in frames or in the reason that it must have."""

import resource
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from rbft_trl.data.manifest import read_manifest
from rbft_trl.data.video import ClipError, FrameSettings, read_clip
from tests.media import BAD, EITHER, NAMES, OK, encoded

FACTOR = 28
FRAMES = FrameSettings(num_frames=8, min_pixels=FACTOR**2, max_pixels=16 * FACTOR**2)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What the manifest says of every file."""
    root = tmp_path_factory.mktemp("media")
    makers = OK | {name: maker for name, (maker, _) in BAD.items()} | EITHER
    for name, make in makers.items():
        make(root / name)
    rows = [{"id": name, "video": name} for name in [*makers, *NAMES]]
    patch = pytest.MonkeyPatch()
    patch.setenv("RBFT_CACHE", str(tmp_path_factory.mktemp("cache")))
    began = time.perf_counter()
    found = read_manifest(rows, root, FRAMES, factor=FACTOR)
    patch.undo()
    assert time.perf_counter() - began < 10 * 6, "no file may hang"
    return found | {"": {"root": root}}


def test_there_are_enough_of_them() -> None:
    assert len(OK) + len(BAD) + len(EITHER) + len(NAMES) >= 100


@pytest.mark.parametrize("name", OK)
def test_an_odd_file_gives_frames(verdicts: dict[str, dict], name: str) -> None:
    entry = verdicts[name]
    assert entry["reason"] is None, entry["detail"]
    frames, height, width = entry["shape"]
    assert frames == 8 and height % FACTOR == width % FACTOR == 0


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_its_reason(verdicts: dict[str, dict], name: str) -> None:
    assert verdicts[name]["reason"] == BAD[name][1], verdicts[name]
    assert verdicts[name]["detail"] and "\n" not in verdicts[name]["detail"]


@pytest.mark.parametrize("name", EITHER)
def test_a_file_that_points_elsewhere_ends(verdicts: dict[str, dict], name: str) -> None:
    assert verdicts[name]["reason"] in (None, "unreadable", "truncated", "damaged")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_protocol_is_a_missing_file(verdicts: dict[str, dict], name: str) -> None:
    assert verdicts[name]["reason"] == "missing"


def test_nothing_outside_is_opened(verdicts: dict[str, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with sockets forbidden: only the file itself is opened."""
    root, opened = verdicts[""]["root"], []
    real = Path.open

    def spy(self: Path, *args: object, **kwargs: object) -> object:
        opened.append(self)
        return real(self, *args, **kwargs)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(Path, "open", spy)
    monkeypatch.setattr(socket, "socket", refuse)
    for name in ("playlist.mp4", "dash.mp4", "script.mp4", "session.mp4", *EITHER, *NAMES):
        opened.clear()
        try:
            read_clip(root / name, FRAMES, factor=FACTOR)
        except ClipError as error:
            assert error.reason
        assert set(opened) <= {root / name}


def test_the_whole_stays_small(verdicts: dict[str, dict]) -> None:
    assert len(verdicts) > 100
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 2**20  # kilobytes: 2 GB


def test_a_damaged_file_may_be_used_if_its_share_is_stated(verdicts: dict[str, dict]) -> None:
    path = verdicts[""]["root"] / "hurt.mp4"
    lenient = FrameSettings(num_frames=8, min_pixels=FACTOR**2, max_pixels=16 * FACTOR**2, min_decodable=0.3)
    clip = read_clip(path, lenient, factor=FACTOR)
    assert 0 < clip.lost < 0.7 * 60 and clip.total_frames == 60 - clip.lost and len(clip.frames) == 8
    with pytest.raises(ClipError, match=r"damaged.*\d+ of 60 frames can be decoded"):
        read_clip(path, FRAMES, factor=FACTOR)


def test_damage_between_the_sampled_frames_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later read jumps over it; the manifest decodes the whole clip."""
    monkeypatch.setenv("RBFT_CACHE", str(tmp_path / "cache"))
    path = encoded(tmp_path / "a.mp4", frames=1200, options={"g": "12"}, container={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    middle = slice(int(len(data) * 0.5), int(len(data) * 0.5) + len(data) // 40)
    data[middle] = np.random.default_rng(0).integers(0, 256, middle.stop - middle.start, np.uint8).tobytes()
    path.write_bytes(data)
    (entry,) = read_manifest([{"id": "a", "video": "a.mp4"}], tmp_path, FRAMES, factor=FACTOR).values()
    assert entry["reason"] == "damaged" and "of 1200 frames" in entry["detail"]
