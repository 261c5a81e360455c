"""The ONE frame sampler and reader: a path becomes uint8 frames and their indices, or a typed error.

Indices and sizes are those of qwen-vl-utils (`smart_nframes`, `smart_resize`); where these raise for short clips the
last frame is repeated. How a file is opened and decoded is rbft_trl/data/container.py.
"""

import hashlib
import random
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from qwen_vl_utils.vision_process import smart_nframes, smart_resize

from rbft_trl.data.container import HIDDEN_FRAMES, ClipError, Decoded, OutOfTimeError, decode, length, opened, stamps
from rbft_trl.data.kept import KEPT
from rbft_trl.errors import UserError

HALF_TICK = 0.0005  # seconds: time stamps are rounded, to milliseconds in Matroska
STRAIGHT_SECONDS = 4.0  # of whole decoding when a clip is looked at for the first time
TEMPORAL_PATCH = 2  # frames come in pairs in every Qwen2-VL-class tower
LOOPS = {"twice": 2, "three_times": 3}
ORDERS = ("reversed", "shuffled", *LOOPS)  # in which a row may show its sampled frames; without one, as they are


@dataclass(frozen=True)
class FrameSettings:
    """How frames are taken; stored with every checkpoint and compared when it is used.

    Args:
        num_frames (`int`, *optional*, defaults to 8): Frames per clip, uniform over its length; even.
        fps (`float`, *optional*): Frames per second instead of `num_frames` (at least 4 frames).
        max_frames (`int`, *optional*, defaults to 32): Upper bound with `fps`.
        min_pixels (`int`, *optional*): Lower bound on height x width of one frame.
        max_pixels (`int`, *optional*): Upper bound on height x width of one frame.
        min_decodable (`float`, *optional*, defaults to 1.0): Share of the frames of a damaged file that must decode
            for the clip to be used all the same.
    """

    num_frames: int | None = 8
    fps: float | None = None
    max_frames: int = 32
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 360 * 420
    min_decodable: float = 1.0

    def __post_init__(self) -> None:
        if (self.num_frames is None) == (self.fps is None):
            raise UserError(f"num_frames is {self.num_frames} and fps is {self.fps}; set exactly one of them")
        if self.num_frames is not None and (self.num_frames < 2 or self.num_frames % TEMPORAL_PATCH):
            raise UserError(f"num_frames is {self.num_frames} but must be an even number of at least 2")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UserError(f"fps is {self.fps} but must be a number above 0")
        if self.max_frames < 4:
            raise UserError(f"max_frames is {self.max_frames} but must be at least 4")
        if not 0 < self.min_decodable <= 1:
            raise UserError(f"min_decodable is {self.min_decodable} but must be a share above 0, at most 1")
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
        lost (`int`): Frames of a damaged file that could not be decoded; the others stand for it.
    """

    frames: np.ndarray
    indices: np.ndarray
    fps: float
    total_frames: int
    lost: int = 0


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
    path: Path,
    settings: FrameSettings,
    *,
    factor: int,
    start: float | None = None,
    end: float | None = None,
    straight: float | None = None,
) -> Clip:
    """Reads the sampled frames of a clip and converts only those.

    Args:
        path (`Path`): The file.
        settings (`FrameSettings`): The one sampler's settings.
        factor (`int`): Both sides of a frame become multiples of it.
        start (`float`, *optional*): Second where the clip begins, if it is a part of the file.
        end (`float`, *optional*): Second where it ends.
        straight (`float`, *optional*): See `rbft_trl.data.container.decode`.

    Raises:
        ClipError: if the file is missing, no video, cut off or damaged.
    """
    picture = _Picture(settings, factor, path)
    with opened(path) as (container, stream):
        total, fps, counted = length(container, stream, path)
        times = None if start is None and end is None else stamps(container, stream)
        indices = _part_indices(total, fps, settings, start, end, path, times)
        found = decode(container, stream, indices.tolist(), picture, total, straight=straight)
    lost = 0
    if found.damaged or len(found.pictures) < len(set(indices.tolist())):
        lost = _check_lost(found, total, settings, path, counted=counted)
        total, indices = found.frames, _part_indices(found.frames, fps, settings, start, end, path)
        with opened(path) as (container, stream):
            found = decode(container, stream, indices.tolist(), picture, total)
    frames = np.stack([found.pictures[i] for i in indices.tolist()])
    return Clip(frames, indices, fps, total, lost)


def read_row(row: dict[str, Any], *, root: Path, frames: FrameSettings, factor: int) -> Clip:
    """The clip of a row, a whole file or a part of it, in the row's `order`; `video` starts at `root`."""
    path, part = root / row["video"], {"start": row.get("start"), "end": row.get("end")}
    how = (frames, factor, *part.values())
    return in_order(KEPT.get(path, how, lambda: read_clip(path, frames, factor=factor, **part)), row)


def in_order(clip: Clip, row: dict[str, Any]) -> Clip:
    """The clip with its frames as the row shows them: as they are, `reversed`, `shuffled`, the same way each time, or
    played `twice` or `three_times` in the time of one.

    Times and indices stay: only which picture stands at which time changes.
    """
    if (order := row.get("order")) is None:
        return clip
    number = len(clip.frames)
    if order in LOOPS:
        return replace(clip, frames=clip.frames[[i * LOOPS[order] % number for i in range(number)]])
    places = list(range(number))[::-1]
    if order == "shuffled":
        random.Random(f"order of {row['id']}").shuffle(places)
        if places == sorted(places):  # few frames: a shuffled clip is never as it was
            places = places[1:] + places[:1]
    return replace(clip, frames=clip.frames[places])


def _check_lost(found: Decoded, total: int, settings: FrameSettings, path: Path, *, counted: bool) -> int:
    """Frames of a file that are not to be had, if so few are lost that the rest may stand for the clip.

    Raises:
        ClipError: if more are lost.
    """
    lost = total - found.frames
    hidden = HIDDEN_FRAMES if counted else total - 1  # a counted packet may hold a hidden frame
    enough = found.frames >= settings.min_decodable * total if found.damaged else lost <= hidden
    if found.frames and enough:
        return lost if found.damaged else 0
    if not found.frames:
        raise ClipError(path, "unreadable", f"none of its {total} frames can be decoded; replace the file")
    if found.recovered:
        raise ClipError(
            path,
            "damaged",
            f"{found.frames} of {total} frames can be decoded; replace the file, or lower min_decodable",
        )
    raise ClipError(path, "truncated", f"it says {total} frames but {found.frames} can be decoded; replace the file")


def _part_indices(
    total: int,
    fps: float,
    settings: FrameSettings,
    start: float | None,
    end: float | None,
    path: Path,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """`sample_indices` within `start` and `end` seconds: by the frames' time stamps where the rate is not constant."""
    if times is not None and len(times) == total:
        first = 0 if start is None else int(np.searchsorted(times, start - HALF_TICK))
        last = total if end is None else int(np.searchsorted(times, end - HALF_TICK))
    else:
        first = 0 if start is None else round(start * fps)
        last = total if end is None else min(round(end * fps), total)
    if first >= min(last, total):
        seconds = total / fps
        raise ClipError(path, "too_short", f"no frame from {start or 0:g} to {end or seconds:g} of {seconds:.2f} s")
    return first + sample_indices(last - first, fps, settings)


def describe_clip(
    path: Path, settings: FrameSettings, *, factor: int, start: float | None = None, end: float | None = None
) -> dict[str, Any]:
    """What a manifest keeps of a clip that was read once: header, frames as the model sees them, hashes.

    Raises:
        ClipError: as `read_clip`.
    """
    part = {"start": start, "end": end}
    try:
        straight = STRAIGHT_SECONDS if start is None else None  # a part may lie hours behind the beginning
        clip, whole = read_clip(path, settings, factor=factor, **part, straight=straight), True
    except OutOfTimeError:
        clip, whole = read_clip(path, settings, factor=factor, **part), False
    with opened(path) as (_, stream):
        codec, height, width = stream.codec_context.name, stream.codec_context.height, stream.codec_context.width
    seconds = clip.total_frames / clip.fps
    return {
        "seconds": (seconds if end is None else min(end, seconds)) - (start or 0.0),
        "file_seconds": seconds,
        "whole": whole,
        "fps": clip.fps,
        "total_frames": clip.total_frames,
        "lost": clip.lost,
        "height": height,
        "width": width,
        "codec": codec,
        "shape": list(clip.frames.shape[:3]),
        "file": file_hash(path),
        "content": hashlib.sha256(clip.frames.tobytes()).hexdigest()[:32],
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of a file above 64 MB its size and 64 blocks of 1 MB, evenly spread."""
    size, block = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for place in np.linspace(0, max(size - block, 0), min(64, -(-size // block))).astype(int).tolist():
            stream.seek(place)
            digest.update(stream.read(block))
    return digest.hexdigest()[:32]


class _Picture:
    """Turns a decoded frame into uint8 `[H, W, 3]`: upright, resized in the same pass, by one reused reformatter."""

    def __init__(self, settings: FrameSettings, factor: int, path: Path) -> None:
        self.settings, self.factor, self.path = settings, factor, path
        self.reformatter, self.size = VideoReformatter(), None

    def __call__(self, frame: Any) -> np.ndarray:
        turns = round(frame.rotation / 90) % 4  # quarter turns to the left; FFmpeg stores them, PyAV makes none
        upright = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        self.size = self.size or _target(*upright, self.settings, self.factor, self.path)  # a stream may change its
        stored = self.size[::-1] if turns % 2 else self.size
        resized = self.reformatter.reformat(frame, stored[1], stored[0], "rgb24", interpolation="BICUBIC")
        return np.ascontiguousarray(np.rot90(resized.to_ndarray(), turns)) if turns else resized.to_ndarray()


def _target(height: int, width: int, settings: FrameSettings, factor: int, path: Path) -> tuple[int, int]:
    try:
        size = resized(height, width, settings, factor=factor)
    except ValueError as error:
        raise ClipError(path, "too_large", f"{width} x {height} pixels: {error}; crop it") from error
    if min(size) < factor:
        raise ClipError(
            path,
            "too_large",
            f"{width} x {height} pixels would be {size[1]} x {size[0]} under max_pixels {settings.max_pixels}, but a "
            f"side needs at least {factor} (the base's patch x merge size); crop it, or raise max_pixels",
        )
    return size
