"""The ONE frame sampler and reader: a path becomes uint8 frames and their indices, or a typed error.

Indices and sizes are those of qwen-vl-utils (`smart_nframes`, `smart_resize`); where these raise for short clips the
last frame is repeated. PyAV carries FFmpeg in its wheel, so no system FFmpeg is needed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from qwen_vl_utils.vision_process import smart_nframes, smart_resize

from rbft_trl.errors import UserError

TEMPORAL_PATCH = 2  # frames come in pairs in every Qwen2-VL-class tower
FEWER_FRAMES_ALLOWED = 2  # an edit list may hide the first or last frames that the header counts
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")


class ClipError(UserError):
    """A clip that cannot be read. `reason` is one of missing, empty_file, not_a_video, no_video_stream, truncated,
    unreadable, no_frames, too_short, too_large; a clip is never replaced by another."""

    def __init__(self, path: str | Path, reason: str | None = None, detail: str = "") -> None:
        if reason is None:  # torch raises a worker's error anew, with its whole traceback as the only argument
            super().__init__(str(path).strip().splitlines()[-1].rpartition("ClipError: ")[2])
        else:
            super().__init__(f"the clip '{path}' cannot be read ({reason}): {detail}")
        self.path, self.reason, self.detail = str(path), reason or "unreadable", detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.path, self.reason, self.detail)  # for pools of processes


@dataclass(frozen=True)
class FrameSettings:
    """How frames are taken; stored with every checkpoint and compared when it is used.

    Args:
        num_frames (`int`, *optional*, defaults to 8): Frames per clip, uniform over its length; even.
        fps (`float`, *optional*): Frames per second instead of `num_frames` (at least 4 frames).
        max_frames (`int`, *optional*, defaults to 32): Upper bound with `fps`.
        min_pixels (`int`, *optional*): Lower bound on height x width of one frame.
        max_pixels (`int`, *optional*): Upper bound on height x width of one frame.
    """

    num_frames: int | None = 8
    fps: float | None = None
    max_frames: int = 32
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 360 * 420

    def __post_init__(self) -> None:
        if (self.num_frames is None) == (self.fps is None):
            raise UserError(f"num_frames is {self.num_frames} and fps is {self.fps}; set exactly one of them")
        if self.num_frames is not None and (self.num_frames < 2 or self.num_frames % TEMPORAL_PATCH):
            raise UserError(f"num_frames is {self.num_frames} but must be an even number of at least 2")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UserError(f"fps is {self.fps} but must be a number above 0")
        if self.max_frames < 4:
            raise UserError(f"max_frames is {self.max_frames} but must be at least 4")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise UserError(
                f"min_pixels is {self.min_pixels} and max_pixels is {self.max_pixels}; "
                "set 0 < min_pixels <= max_pixels (small clips are enlarged to min_pixels)"
            )

    def to_dict(self) -> dict[str, Any]:
        """For a record; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "FrameSettings":
        """Raises `UserError` for keys that this version does not know."""
        if unknown := set(raw) - {f.name for f in fields(cls)}:
            raise UserError(f"the frame settings hold {sorted(unknown)[0]!r}, which is unknown here; update rbft_trl")
        return cls(**raw)


@dataclass
class Clip:
    """Frames of one clip.

    Args:
        frames (`np.ndarray` uint8 `[T, H, W, 3]`): RGB, already resized; T even.
        indices (`np.ndarray` int64 `[T]`): Their numbers in the file.
        fps (`float`): Frames per second of the file.
        total_frames (`int`): Frames in the file.
    """

    frames: np.ndarray
    indices: np.ndarray
    fps: float
    total_frames: int


def sample_indices(total_frames: int, video_fps: float, settings: FrameSettings) -> np.ndarray:
    """Which frames are taken: int64 `[T]`, T even, equal to qwen-vl-utils where that does not raise."""
    if settings.num_frames is not None:
        wanted = settings.num_frames
        ask = {"nframes": wanted}
    else:
        wanted = TEMPORAL_PATCH
        ask = {"fps": settings.fps, "max_frames": settings.max_frames}
    if total_frames >= wanted:
        taken = smart_nframes(ask, total_frames, video_fps)
        return torch.linspace(0, total_frames - 1, taken).round().long().numpy()
    return np.minimum(np.arange(wanted), total_frames - 1)


def resized(height: int, width: int, settings: FrameSettings, *, factor: int) -> tuple[int, int]:
    """Height and width after the pixel budget, both multiples of `factor` (patch_size · merge_size)."""
    return smart_resize(height, width, factor, settings.min_pixels, settings.max_pixels)


def read_clip(
    path: Path, settings: FrameSettings, *, factor: int, start: float | None = None, end: float | None = None
) -> Clip:
    """Reads the sampled frames of a clip: stops at the last one and converts only those.

    Args:
        path (`Path`): The file.
        settings (`FrameSettings`): The one sampler's settings.
        factor (`int`): Both sides of a frame become multiples of it.
        start (`float`, *optional*): Second where the clip begins, if it is a part of the file.
        end (`float`, *optional*): Second where it ends.

    Raises:
        ClipError: if the file is missing, no video, cut off or damaged.
    """
    with _opened(path) as (container, stream):
        total, fps = _length(container, stream, path)
        indices = _part_indices(total, fps, settings, start, end, path)
        fewest = total - FEWER_FRAMES_ALLOWED if stream.frames else 1  # a counted packet may hold a hidden frame
        frames, decoded = _decode(container, stream, indices, settings, factor, path)
    if frames is None and decoded >= max(fewest, 1):
        total, indices = decoded, _part_indices(decoded, fps, settings, start, end, path)
        with _opened(path) as (container, stream):
            frames, decoded = _decode(container, stream, indices, settings, factor, path)
    if frames is None:
        raise ClipError(path, "truncated", f"it says {total} frames but {decoded} can be decoded; replace the file")
    return Clip(frames, indices, fps, total)


def _part_indices(
    total: int, fps: float, settings: FrameSettings, start: float | None, end: float | None, path: Path
) -> np.ndarray:
    """`sample_indices` within `start` and `end` seconds, by the mean frame rate."""
    first = 0 if start is None else round(start * fps)
    last = total if end is None else min(round(end * fps), total)
    if first >= min(last, total):
        length = total / fps
        raise ClipError(path, "too_short", f"no frame from {start or 0:g} to {end or length:g} of its {length:.2f} s")
    return first + sample_indices(last - first, fps, settings)


def clip_shape(
    path: Path, settings: FrameSettings, *, factor: int, start: float | None = None, end: float | None = None
) -> tuple[int, int, int]:
    """Frames, height and width that `read_clip` would return, from the header alone.

    A turned clip has height and width exchanged (the turn comes with its frames); the number of patches is the same.

    Raises:
        ClipError: if the file cannot be opened as a video.
    """
    with _opened(path) as (container, stream):
        total, fps = _length(container, stream, path)
        height, width = stream.codec_context.height, stream.codec_context.width
        frames = len(_part_indices(total, fps, settings, start, end, path))
        return frames, *_target(height, width, settings, factor, path)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Opens a file with the demuxer that its first bytes name, through a file object: no playlist, no protocol."""
    if "\0" in str(path) or not os.path.isfile(path):
        raise ClipError(path, "missing", "there is no such file; correct the path or remove the row")
    try:
        with path.open("rb") as file:
            demuxer = _demuxer(file.read(16), path)
            file.seek(0)
            with av.open(file, format=demuxer, metadata_errors="replace") as container:  # old tags are no UTF-8
                if not container.streams.video:
                    raise ClipError(path, "no_video_stream", "it holds no video stream; replace the file")
                stream = container.streams.video[0]
                if stream.codec_context is None:
                    raise ClipError(path, "unreadable", "its codec is unknown; convert it to H.264 mp4")
                stream.codec_context.thread_count = 1
                yield container, stream
    except (av.error.FFmpegError, EOFError, IndexError, OSError) as error:
        detail = getattr(error, "strerror", None) or error
        raise ClipError(path, "unreadable", f"{detail}; replace the file") from error


def _demuxer(head: bytes, path: Path) -> str:
    if not head:
        raise ClipError(path, "empty_file", "it has 0 bytes; replace the file")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    raise ClipError(path, "not_a_video", "its first bytes are no mp4, mov, mkv, webm or avi; convert it to mp4")


def _length(container: Any, stream: Any, path: Path) -> tuple[int, float]:
    """Number of frames (from the header, else counted in the packets) and frames per second."""
    fps = float(stream.average_rate or stream.guessed_rate or 1)
    total = stream.frames or _count_packets(container, stream, fps, path)
    if total < 1:
        raise ClipError(path, "no_frames", "it holds no frame; replace the file")
    return total, fps


def _count_packets(container: Any, stream: Any, fps: float, path: Path) -> int:
    """Frames of a file whose header has a duration at most (mkv, webm); the duration tells whether it is cut off."""
    total, end = 0, 0.0
    for packet in container.demux():
        total += packet.stream.index == stream.index and packet.size > 0
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    said = (container.duration or 0) / av.time_base
    if total and end + (FEWER_FRAMES_ALLOWED + 0.5) / fps < said:
        raise ClipError(path, "truncated", f"it says {said:.2f} s but ends after {end:.2f} s; replace the file")
    container.seek(0)
    return total


def _decode(
    container: Any, stream: Any, indices: np.ndarray, settings: FrameSettings, factor: int, path: Path
) -> tuple[np.ndarray | None, int]:
    """The wanted frames, or None with the number of frames that could be decoded."""
    wanted, taken, size = set(indices.tolist()), {}, None
    reformatter, number = VideoReformatter(), 0
    for number, frame in enumerate(container.decode(stream), start=1):
        if number - 1 in wanted:
            size = size or _target(
                *_upright(frame), settings, factor, path
            )  # one size, though a stream may change its
            taken[number - 1] = _picture(frame, reformatter, size)
            if len(taken) == len(wanted):
                return np.stack([taken[i] for i in indices.tolist()]), number
    return None, number


def _turns(frame: Any) -> int:
    """Quarter turns to the left that a player must make; FFmpeg stores them and PyAV does not make them."""
    return round(frame.rotation / 90) % 4


def _upright(frame: Any) -> tuple[int, int]:
    return (frame.width, frame.height) if _turns(frame) % 2 else (frame.height, frame.width)


def _picture(frame: Any, reformatter: VideoReformatter, size: tuple[int, int]) -> np.ndarray:
    """One frame as uint8 `[H, W, 3]`, upright and resized in the same pass."""
    turns = _turns(frame)
    stored = size[::-1] if turns % 2 else size
    picture = reformatter.reformat(frame, stored[1], stored[0], "rgb24", interpolation="BICUBIC").to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _target(height: int, width: int, settings: FrameSettings, factor: int, path: Path) -> tuple[int, int]:
    try:
        size = resized(height, width, settings, factor=factor)
    except ValueError as error:
        raise ClipError(path, "too_large", f"{error}; crop it") from error
    if min(size) < factor:
        raise ClipError(path, "too_large", f"{width} x {height} pixels is too elongated for max_pixels; crop it")
    return size
