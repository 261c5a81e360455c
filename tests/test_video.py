"""The one sampler and reader: qwen-vl-utils' indices and sizes, and the frames of a naive decode."""

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

from rbft_trl.data.video import FrameSettings, read_clip, resized, sample_indices
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


@settings(max_examples=300)
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


@settings(max_examples=300)
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


@settings(max_examples=300)
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
