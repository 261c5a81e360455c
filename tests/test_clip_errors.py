"""Clips that cannot be read: a typed error with the path for each, never another exception, never a shorter clip."""

import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from rbft_trl.data.video import ClipError, FrameSettings, read_clip, sample_indices
from rbft_trl.errors import UserError

FACTOR = 28
FRAMES = FrameSettings(num_frames=8, min_pixels=FACTOR**2, max_pixels=16 * FACTOR**2)
MakeClip = Callable[..., Path]


def reason(path: Path) -> str:
    """Reason of `read_clip`; its message is one line and names the path."""
    with pytest.raises(ClipError) as told:
        read_clip(path, FRAMES, factor=FACTOR)
    assert told.value.path == str(path) and str(path) in str(told.value)
    assert f"({told.value.reason})" in str(told.value) and "\n" not in str(told.value)
    assert isinstance(told.value, UserError)
    return told.value.reason


def test_what_is_no_video_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(tmp_path / "none.mp4") == "missing"
    assert reason(tmp_path) == "missing"
    assert reason(tmp_path / "a\0.mp4") == "missing"
    assert reason(tmp_path / ("x" * 5000)) == "missing"
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert reason(tmp_path / "loop.mp4") == "missing"
    files = {
        "empty.mp4": (b"", "empty_file"),
        "text.mp4": (b"This is a text that somebody has renamed.", "not_a_video"),
        "short.mp4": (b"\0", "not_a_video"),
        "page.mp4": (b"<!DOCTYPE html><html>Not found</html>", "not_a_video"),
        "list.mp4": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not_a_video"),
        "concat.mp4": (b"ffconcat version 1.0\nfile other.mp4\n", "not_a_video"),
        "picture.mp4": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not_a_video"),
        "head.mp4": (b"\0\0\0\x18ftypisom" + bytes(12), "unreadable"),
        "head.mkv": (b"\x1a\x45\xdf\xa3" + bytes(60), "unreadable"),
    }
    for name, (data, expected) in files.items():
        (tmp_path / name).write_bytes(data)
        assert reason(tmp_path / name) == expected, name


def test_a_file_that_may_not_be_opened_is_told(
    tmp_path: Path, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_clip(tmp_path / "a.mp4")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))  # chmod does not stop root

    monkeypatch.setattr(Path, "open", refuse)
    assert reason(path) == "unreadable"


def test_a_file_with_sound_only_is_told(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert reason(tmp_path / "sound.mp4") == "no_video_stream"


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("b.mp4", {"movflags": "faststart"}),
        ("c.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mpeg4"}),
    ],
)
def test_cut_files_are_never_taken_for_shorter_clips(
    tmp_path: Path, make_clip: MakeClip, name: str, options: dict[str, str], share: float
) -> None:
    data = make_clip(tmp_path / name, frames=60, size=(112, 112), **options).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert reason(tmp_path / name) in ("truncated", "unreadable", "no_video_stream")


def test_a_missing_last_frame_is_tolerated(tmp_path: Path, make_clip: MakeClip) -> None:
    """The header may count one frame more than can be shown (edit lists); then the last one that is there is last."""
    path = make_clip(tmp_path / "a.mp4", frames=20)
    data = path.read_bytes()
    start = data.index(b"stsz") + 8
    assert struct.unpack(">I", data[start + 4 : start + 8]) == (20,)
    empty_last = start + 8 + 4 * 19
    path.write_bytes(data[:empty_last] + bytes(4) + data[empty_last + 4 :])
    clip = read_clip(path, FRAMES, factor=FACTOR)
    assert clip.total_frames == 19 and clip.indices.tolist() == sample_indices(19, 8, FRAMES).tolist()


def test_frames_that_do_not_fit_are_told(tmp_path: Path, make_clip: MakeClip) -> None:
    for size, words in (
        ((2, 500), " x .* pixels: absolute aspect ratio"),
        ((4, 640), f"under max_pixels {FRAMES.max_pixels}, .* at least {FACTOR} "),
    ):
        with pytest.raises(ClipError, match=words) as caught:
            read_clip(make_clip(tmp_path / f"{size[0]}.mp4", size=size), FRAMES, factor=FACTOR)
        assert caught.value.reason == "too_large"


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_damage_gives_a_clip_or_a_typed_error(tmp_path: Path, make_clip: MakeClip, name: str, codec: str) -> None:
    """Flipped bytes anywhere: no other exception ever gets out, and what is read has the right shape."""
    data = make_clip(tmp_path / name, codec=codec, movflags="faststart") if name == "a.mp4" else None
    data = (data or make_clip(tmp_path / name, codec=codec)).read_bytes()
    dice, seen = random.Random(0), set()
    for _ in range(120):
        damaged = bytearray(data)
        for _ in range(dice.choice([1, 3, 20])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            shape = read_clip(tmp_path / name, FRAMES, factor=FACTOR).frames.shape
        except ClipError as error:
            seen.add(error.reason)
        else:
            assert shape[0] == 8 and shape[1] % FACTOR == shape[2] % FACTOR == 0
            seen.add("ok")
    assert "ok" in seen and seen & {"unreadable", "damaged"}


def test_a_clip_error_comes_home_from_a_worker(tmp_path: Path) -> None:
    error = ClipError(tmp_path / "a.mp4", "truncated", "it says 9 frames")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ClipError and str(again) == str(error)
    assert (again.path, again.reason, again.detail) == (error.path, error.reason, error.detail)


class OneClip(torch.utils.data.Dataset):
    """Reads a clip in a loader's worker."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> np.ndarray:
        return read_clip(self.path, FRAMES, factor=FACTOR).frames


def test_a_loader_with_workers_reads_and_tells(tmp_path: Path, make_clip: MakeClip) -> None:
    path = make_clip(tmp_path / "a.mp4")
    (frames,) = torch.utils.data.DataLoader(OneClip(path), batch_size=None, num_workers=1)
    assert np.array_equal(np.asarray(frames), read_clip(path, FRAMES, factor=FACTOR).frames)
    with pytest.raises(ClipError, match=r"^the clip .*none\.mp4. cannot be read \(missing\)"):
        list(torch.utils.data.DataLoader(OneClip(tmp_path / "none.mp4"), batch_size=None, num_workers=1))
