"""The one sampler and reader: qwen-vl-utils' indices and sizes, a naive decode's frames, and typed errors."""

import pickle
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_vl_utils.vision_process import smart_nframes, smart_resize

from rbft_trl.data.video import ClipError, FrameSettings, clip_shape, read_clip, resized, sample_indices
from rbft_trl.errors import UserError

FACTOR = 28
FRAMES = FrameSettings(num_frames=8, min_pixels=FACTOR**2, max_pixels=16 * FACTOR**2)
MakeClip = Callable[..., Path]


def decode_all(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def naive(path: Path, indices: np.ndarray, height: int, width: int) -> np.ndarray:
    """Decodes everything and picks, with a fresh scaler per frame."""
    frames = decode_all(path)
    how = {"format": "rgb24", "width": width, "height": height, "interpolation": "BICUBIC"}
    return np.stack([frames[i].to_ndarray(**how) for i in indices])


# --- which frames, which size -------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(total=st.integers(1, 4000), video_fps=st.floats(0.5, 240), half=st.integers(1, 40))
def test_uniform_indices_equal_qwen_vl_utils(total: int, video_fps: float, half: int) -> None:
    found = sample_indices(total, video_fps, FrameSettings(num_frames=2 * half))
    assert found.dtype == np.int64 and len(found) == 2 * half
    try:
        taken = smart_nframes({"nframes": 2 * half}, total, video_fps)
    except ValueError:
        assert total < 2 * half  # there the last frame is repeated
        assert found.tolist() == [min(i, total - 1) for i in range(2 * half)]
    else:
        assert found.tolist() == torch.linspace(0, total - 1, taken).round().long().tolist()


@settings(max_examples=300, deadline=None)
@given(
    total=st.integers(1, 4000),
    video_fps=st.floats(0.5, 240),
    fps=st.floats(0.05, 60),
    max_frames=st.integers(4, 65),
)
def test_indices_by_fps_equal_qwen_vl_utils(total: int, video_fps: float, fps: float, max_frames: int) -> None:
    found = sample_indices(total, video_fps, FrameSettings(num_frames=None, fps=fps, max_frames=max_frames))
    assert len(found) % 2 == 0 and len(found) <= max_frames and found.max() < total
    assert (np.diff(found) >= 0).all()
    try:
        taken = smart_nframes({"fps": fps, "max_frames": max_frames}, total, video_fps)
    except ValueError:
        assert total == 1 and found.tolist() == [0, 0]
    else:
        assert found.tolist() == torch.linspace(0, total - 1, taken).round().long().tolist()


@pytest.mark.parametrize(
    ("total", "expected"), [(1, [0] * 4), (2, [0, 1, 1, 1]), (3, [0, 1, 2, 2]), (4, [0, 1, 2, 3])]
)
def test_short_clips_repeat_the_last_frame(total: int, expected: list[int]) -> None:
    assert sample_indices(total, 8.0, FrameSettings(num_frames=4)).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    factor=st.sampled_from([28, 32]),
    bounds=st.tuples(st.integers(1, 400), st.integers(1, 400)).map(sorted),
)
def test_sizes_equal_qwen_vl_utils(height: int, width: int, factor: int, bounds: list[int]) -> None:
    low, high = (n * 28 * 28 for n in bounds)
    frames = FrameSettings(min_pixels=low, max_pixels=high)
    try:
        expected = smart_resize(height, width, factor, min_pixels=low, max_pixels=high)
    except ValueError:
        with pytest.raises(ValueError, match="aspect ratio"):
            resized(height, width, frames, factor=factor)
        return
    found = resized(height, width, frames, factor=factor)
    assert found == expected and found[0] % factor == found[1] % factor == 0
    assert found == resized(width, height, frames, factor=factor)[::-1]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_frames": 7}, "num_frames is 7 but must be an even number"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 8, "fps": 1.0}, "set exactly one"),
        ({"num_frames": None}, "set exactly one"),
        ({"num_frames": None, "fps": 0.0}, "fps is 0.0"),
        ({"num_frames": None, "fps": float("nan")}, "fps is nan"),
        ({"num_frames": None, "fps": float("inf")}, "fps is inf"),
        ({"max_frames": 2}, "max_frames is 2"),
        ({"min_pixels": 100, "max_pixels": 99}, "set 0 < min_pixels <= max_pixels"),
        ({"min_pixels": 0}, "min_pixels is 0"),
    ],
)
def test_wrong_frame_settings_are_told(wrong: dict[str, float | None], words: str) -> None:
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        FrameSettings(**wrong)


def test_frame_settings_survive_a_record() -> None:
    for frames in (FRAMES, FrameSettings(num_frames=None, fps=2.5)):
        assert FrameSettings.from_dict(frames.to_dict()) == frames
    with pytest.raises(UserError, match="'stride', which is unknown here"):
        FrameSettings.from_dict(FRAMES.to_dict() | {"stride": 2})


# --- frames -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.MP4", {"movflags": "faststart"}),
        ("a.mov", {}),
        ("a.m4v", {}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("b.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("b.avi", {"codec": "mjpeg"}),
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("ä 😀,'$(x)\n%d.mp4", {}),
        ("https:x.mp4", {}),
    ],
)
def test_frames_equal_a_naive_decode(tmp_path: Path, make_clip: MakeClip, name: str, options: dict[str, str]) -> None:
    written = make_clip(tmp_path / f"clip{Path(name).suffix.lower()}", frames=30, size=(90, 124), fps=10, **options)
    path = written.rename(tmp_path / name)
    clip = read_clip(path, FRAMES, factor=FACTOR)
    assert clip.total_frames == 30 and clip.fps == pytest.approx(10)
    assert clip.indices.tolist() == sample_indices(30, 10, FRAMES).tolist()
    height, width = smart_resize(90, 124, FACTOR, FRAMES.min_pixels, FRAMES.max_pixels)
    assert clip.frames.shape == (8, height, width, 3) and clip.frames.dtype == np.uint8
    assert clip_shape(path, FRAMES, factor=FACTOR) == clip.frames.shape[:3]
    assert np.array_equal(clip.frames, naive(path.rename(written), clip.indices, height, width))
    assert len({frame.tobytes() for frame in clip.frames}) == 8


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 9])
def test_short_clips_are_read(tmp_path: Path, make_clip: MakeClip, length: int) -> None:
    for name in ("a.mp4", "a.mkv"):
        clip = read_clip(make_clip(tmp_path / name, frames=length), FRAMES, factor=FACTOR)
        assert clip.total_frames == length and clip.indices.max() == length - 1
        assert clip.frames.shape == (8, 56, 56, 3)
        assert np.array_equal(clip.frames, naive(tmp_path / name, clip.indices, 56, 56))
        by_fps = read_clip(tmp_path / name, FrameSettings(num_frames=None, fps=0.1), factor=FACTOR)
        assert len(by_fps.frames) == (4 if length >= 4 else 2)


def test_a_file_without_a_count_is_counted(tmp_path: Path, make_clip: MakeClip) -> None:
    """mkv headers hold no number of frames, and a live recording no duration either."""
    path = make_clip(tmp_path / "a.mkv", frames=21)
    with path.with_name("live.mkv").open("wb") as file, av.open(path) as source:
        pipe = type("Pipe", (), {"write": staticmethod(file.write)})()  # cannot seek back to fill the header in
        with av.open(pipe, "w", format="matroska") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
    for name, duration in (("a.mkv", True), ("live.mkv", False)):
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].frames == 0 and (container.duration is not None) == duration
        clip = read_clip(tmp_path / name, FRAMES, factor=FACTOR)
        assert clip.total_frames == 21
        assert np.array_equal(clip.frames, naive(tmp_path / name, clip.indices, 56, 56))


def turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """Writes a display matrix into the track header of an mp4, as a phone does."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


ONE = 0x10000


@pytest.mark.parametrize(
    ("matrix", "clockwise"),
    [
        ((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), 0),
        ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), 1),
        ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), 2),
        ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), 3),
    ],
)
def test_turned_clips_are_upright(
    tmp_path: Path, make_clip: MakeClip, matrix: tuple[int, ...], clockwise: int
) -> None:
    """The matrix (0, 1, -1, 0) sends x to y and y to -x: a quarter turn clockwise on a screen."""
    plain = read_clip(make_clip(tmp_path / "plain.mp4", size=(56, 112)), FRAMES, factor=FACTOR)
    path = turned(make_clip(tmp_path / "turned.mp4", size=(56, 112)), matrix)
    clip = read_clip(path, FRAMES, factor=FACTOR)
    assert np.array_equal(clip.frames, np.rot90(plain.frames, -clockwise, axes=(1, 2)))
    assert clip.frames.flags.c_contiguous
    assert sorted(clip_shape(path, FRAMES, factor=FACTOR)) == sorted(clip.frames.shape[:3])


def test_a_stream_that_changes_its_size_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "sizes.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.height, stream.width, stream.pix_fmt = 56, 84, "yuvj420p"
        for number in range(12):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.height, encoder.width, encoder.pix_fmt = (
                (56, 84, "yuvj420p") if number < 6 else (112, 168, "yuvj420p")
            )
            encoder.time_base = Fraction(1, 8)
            picture = np.full((encoder.height, encoder.width, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 8)
                container.mux(packet)
    clip = read_clip(path, FRAMES, factor=FACTOR)
    assert clip.frames.shape == (8, 56, 84, 3)
    assert np.allclose(clip.frames.mean((1, 2, 3)), 20 * clip.indices, atol=6)


def test_old_tags_that_are_no_utf8_do_no_harm(tmp_path: Path, make_clip: MakeClip) -> None:
    for name, codec in (("a.avi", "mpeg4"), ("a.mp4", "libx264")):
        path = make_clip(tmp_path / name, codec=codec)
        data = path.read_bytes()
        assert data.count(b"Lavf") == 1
        path.write_bytes(data.replace(b"Lavf", b"L\xe4vf"))
        assert read_clip(path, FRAMES, factor=FACTOR).total_frames == 16


def test_frames_do_not_depend_on_earlier_readings(tmp_path: Path, make_clip: MakeClip) -> None:
    """A reading leaves nothing behind: the next one of the same clip gives equal bytes."""
    path = make_clip(tmp_path / "a.mp4", frames=40, size=(120, 160))
    first = read_clip(path, FRAMES, factor=FACTOR)
    small = read_clip(path, FrameSettings(num_frames=4, min_pixels=1, max_pixels=4 * FACTOR**2), factor=FACTOR)
    height, width = smart_resize(120, 160, FACTOR, 1, 4 * FACTOR**2)
    assert small.frames.shape == (4, height, width, 3) and height * width <= 4 * FACTOR**2
    assert np.array_equal(read_clip(path, FRAMES, factor=FACTOR).frames, first.frames)


# --- errors -------------------------------------------------------------------------------------------------------


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
    assert reason(make_clip(tmp_path / "a.mp4", size=(2, 500))) == "too_large"
    assert reason(make_clip(tmp_path / "b.mp4", size=(4, 640))) == "too_large"
    with pytest.raises(ClipError, match="too_large"):
        clip_shape(tmp_path / "a.mp4", FRAMES, factor=FACTOR)


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
        for read in (read_clip, clip_shape):
            try:
                found = read(tmp_path / name, FRAMES, factor=FACTOR)
            except ClipError as error:
                seen.add(error.reason)
            else:
                shape = found if isinstance(found, tuple) else found.frames.shape
                assert shape[0] == 8 and shape[1] % FACTOR == shape[2] % FACTOR == 0
                seen.add("ok")
    assert {"ok", "unreadable"} <= seen


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
    with pytest.raises(RuntimeError, match=r"none\.mp4' cannot be read \(missing\)"):  # torch keeps only the text
        list(torch.utils.data.DataLoader(OneClip(tmp_path / "none.mp4"), batch_size=None, num_workers=1))
