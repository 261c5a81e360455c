"""One file → the wanted frames of its video: which demuxer, how many frames, and the shortest way to decode them.

Files are opened through Python's own file object with the demuxer that their first bytes name, so that no playlist is
followed and no protocol is spoken. PyAV carries FFmpeg in its wheel: no system FFmpeg is needed.
"""

import bisect
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np

from rbft_trl.errors import UserError

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".ogv", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".wmv", ".gif",
)  # fmt: skip
MOST_PIXELS = 8192 * 8192  # of one frame: 8K passes, a bomb does not
STILLS = (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1")
SEEK_PAYS_BELOW = 0.5  # seek if it decodes less than this share of the frames that straight decoding would
HIDDEN_FRAMES = 2  # an edit list may hide the first or last frames that the header counts
REORDERED = 16  # frames that a decoder may hold back; counted as the price of each seek


class ClipError(UserError):
    """A clip that cannot be read. `reason` is one of missing, empty_file, not_a_video, no_video_stream, truncated,
    damaged, unreadable, no_frames, too_short, too_long, too_large; a clip is never replaced by another."""

    def __init__(self, path: str | Path, reason: str | None = None, detail: str = "") -> None:
        if reason is None:  # torch raises a worker's error anew, with its whole traceback as the only argument
            super().__init__(str(path).strip().splitlines()[-1].rpartition("ClipError: ")[2])
        else:
            super().__init__(f"the clip '{path}' cannot be read ({reason}): {detail}")
        self.path, self.reason, self.detail = str(path), reason or "unreadable", detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.path, self.reason, self.detail)  # for pools of processes


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """`(container, stream)` of a file's video; of several streams the first that is no cover picture.

    Raises:
        ClipError: if the file is missing or no video that can be decoded.
    """
    if "\0" in str(path) or not os.path.isfile(path):
        there = "\0" not in str(path) and os.path.lexists(path)
        what = "it is no regular file (a folder, a pipe, a link to nothing)" if there else "there is no such file"
        raise ClipError(path, "missing", f"{what}; correct the path or remove the row")
    try:
        with path.open("rb") as file:
            demuxer = _demuxer(file.read(400), path)
            file.seek(0)
            with av.open(file, format=demuxer, metadata_errors="replace") as container:  # old tags are no UTF-8
                covers = av.stream.Disposition.attached_pic
                streams = [stream for stream in container.streams.video if not stream.disposition & covers]
                if not streams:
                    raise ClipError(path, "no_video_stream", "it holds no video stream; replace the file")
                stream = streams[0]
                if stream.codec_context is None:
                    raise ClipError(path, "unreadable", "its codec is unknown; convert it to H.264 mp4")
                _check_size(stream.codec_context.width, stream.codec_context.height, path)
                stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
                stream.codec_context.thread_count = 1
                yield container, stream
    except MemoryError as error:
        raise ClipError(path, "too_large", "it needs more memory than a clip may take; scale it down") from error
    except (av.error.FFmpegError, EOFError, IndexError, OSError, ValueError) as error:
        if isinstance(error, ClipError):
            raise
        detail = getattr(error, "strerror", None) or error
        raise ClipError(path, "unreadable", f"{detail}; replace the file") from error


def _check_size(width: int, height: int, path: Path) -> None:
    if width * height > MOST_PIXELS:
        raise ClipError(path, "too_large", f"{width} x {height} pixels are more than 8192 x 8192; scale it down")


def _demuxer(head: bytes, path: Path) -> str:
    """FFmpeg's name of the container, from the first bytes; a transport stream repeats 0x47 in each packet."""
    if not head:
        raise ClipError(path, "empty_file", "it has 0 bytes; replace the file")
    if head[4:8] == b"ftyp" and head[8:12] in STILLS:
        raise ClipError(path, "not_a_video", "it is a still image (AVIF or HEIC); convert it to mp4")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    for start, name in (
        (b"\x1a\x45\xdf\xa3", "matroska"), (b"FLV\x01", "flv"), (b"OggS", "ogg"), (b"GIF8", "gif"),
        (b"\0\0\x01\xba", "mpeg"), (b"\0\0\x01\xb3", "mpegvideo"), (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    ):  # fmt: skip
        if head.startswith(start):
            return name
    if head[:1] == head[188:189] == b"\x47" or head[4:5] == head[196:197] == b"\x47":
        return "mpegts"
    raise ClipError(path, "not_a_video", f"its first bytes are none of {', '.join(VIDEO_SUFFIXES)}; convert it to mp4")


def length(container: Any, stream: Any, path: Path) -> tuple[int, float, bool]:
    """Number of frames, frames per second, and whether the header counts the frames (else the packets were)."""
    fps = float(stream.average_rate or stream.guessed_rate or 1)
    counted = stream.frames > 0
    total = stream.frames if counted else _count_packets(container, stream, fps, path)
    if total < 1:
        raise ClipError(path, "no_frames", "it holds no frame; replace the file")
    return total, fps, counted


def _count_packets(container: Any, stream: Any, fps: float, path: Path) -> int:
    """Frames of a file whose header has a duration at most (mkv, webm); the duration tells whether it is cut off."""
    total, end = 0, 0.0
    for packet in container.demux():
        total += packet.stream.index == stream.index and packet.size > 0
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    said = (container.duration or 0) / av.time_base
    if total and end + (HIDDEN_FRAMES + 0.5) / fps < said:
        raise ClipError(path, "truncated", f"it says {said:.2f} s but ends after {end:.2f} s; replace the file")
    container.seek(0)
    return total


def stamps(container: Any, stream: Any) -> np.ndarray | None:
    """When each frame is shown, float64 `[N]` in seconds from the first; None if the rate is constant by the index.

    Nothing is decoded: the time stamps of the packets are sorted.
    """
    if _constant_step(stream) is not None:
        return None
    times = sorted(
        float(packet.pts * packet.time_base)
        for packet in container.demux(stream)
        if packet.pts is not None and packet.size
    )
    container.seek(0)
    return np.array(times) - times[0] if times else None


def _constant_step(stream: Any) -> int | None:
    """Time from frame to frame in the stream's unit, if the file's index holds one step only."""
    steps = {b.timestamp - a.timestamp for a, b in itertools.pairwise(stream.index_entries)}
    return steps.pop() if len(steps) == 1 and min(steps) > 0 else None


@dataclass
class Decoded:
    """What came out of a file.

    Args:
        pictures (`dict[int, np.ndarray]`): The wanted frames by number, each uint8 `[H, W, 3]`.
        frames (`int`): Frames that were decoded in all.
        damaged (`int`): Packets and frames that the decoder could not make sense of.
        recovered (`int`): Packets that it understood after the first damage; 0 where a file is just cut off.
    """

    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    frames: int = 0
    damaged: int = 0
    recovered: int = 0


class OutOfTimeError(Exception):
    """Straight decoding takes longer than it may."""


def decode(
    container: Any,
    stream: Any,
    wanted: Sequence[int],
    picture: Callable[[Any], np.ndarray],
    total: int,
    *,
    straight: float | None = None,
) -> Decoded:
    """Decodes until the last wanted frame is there, and converts only the wanted ones.

    Where the file's index proves one constant frame rate and lists the key frames, and that saves at least half of
    the decoding, it jumps to the key frame before each wanted frame; the frames are the same.

    Args:
        container (`av.container.InputContainer`): The file.
        stream (`av.VideoStream`): Its video.
        wanted (`Sequence[int]`): Numbers of frames.
        picture (`Callable`): Converts a frame.
        total (`int`): Frames in the file.
        straight (`float`, *optional*): No jumps, so that damage between the wanted frames is seen; for at most so many
            seconds.

    Raises:
        OutOfTimeError: if that takes longer.
    """
    began = time.monotonic()
    jumps = None if straight is not None else _jumps(stream, sorted(set(wanted)), total)
    if jumps and (found := _by_jumps(container, stream, jumps, picture)) is not None:
        return found
    if jumps:  # the file did not do what its index says
        container.seek(0)
    found, left = Decoded(), set(wanted)
    for frame in _frames(container, stream, found):
        if found.frames in left:
            left.discard(found.frames)
            found.pictures[found.frames] = picture(frame)
        found.frames += 1
        if not left and not found.damaged:
            break
        if straight is not None and time.monotonic() - began > straight:
            raise OutOfTimeError
    return found


def _frames(container: Any, stream: Any, found: Decoded) -> Iterator[Any]:
    """Frames in the order in which they are shown; what cannot be decoded is counted and left out."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            found.damaged += 1
            continue
        found.recovered += bool(found.damaged and packet.size)
        for frame in frames:
            if frame.is_corrupt:
                found.damaged += 1
            else:
                yield frame


def _jumps(stream: Any, wanted: list[int], total: int) -> list[tuple[Any, list[int]]] | None:
    """`(index entry of a key frame, wanted frames from there to the next)`, if jumping is exact and pays."""
    entries = list(stream.index_entries)
    if stream.start_time is None or len(entries) != total or _constant_step(stream) is None:
        return None
    keys = [number for number, entry in enumerate(entries) if entry.is_keyframe]
    if not keys or keys[0] != 0:
        return None
    groups: dict[int, list[int]] = {}
    for number in wanted:
        groups.setdefault(keys[bisect.bisect_right(keys, number) - 1], []).append(number)
    cost = sum(numbers[-1] - key + REORDERED for key, numbers in groups.items())
    return [(entries[k], n) for k, n in groups.items()] if cost < SEEK_PAYS_BELOW * (wanted[-1] + 1) else None


def _by_jumps(
    container: Any, stream: Any, jumps: list[tuple[Any, list[int]]], picture: Callable[[Any], np.ndarray]
) -> Decoded | None:
    """The wanted frames, each found by its time stamp; None if one is not where the index says."""
    entries = stream.index_entries
    step, found = entries[1].timestamp - entries[0].timestamp, Decoded()
    for key, numbers in jumps:
        container.seek(key.timestamp, stream=stream)
        left = set(numbers)
        begun = False
        for frame in _frames(container, stream, found):
            number, rest = divmod((frame.pts if frame.pts is not None else -1) - stream.start_time, step)
            begun = begun or frame.key_frame
            if rest or not begun or number > max(left) or found.damaged:
                return None
            found.frames += 1
            if number in left:
                found.pictures[number] = picture(frame)
                left.discard(number)
            if not left:
                break
        if left:
            return None
    return found
