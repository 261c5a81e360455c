"""Decoding beside the naive way (every frame decoded, converted and kept, then 8 of them chosen and resized).

Output: a table of medians and ratios, measured in turns in one process with one decoder thread.
Command: python benchmarks/decode.py [--rounds 5]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from rbft_trl.data.video import FrameSettings, read_clip, resized, sample_indices
from rbft_trl.errors import at_least, run_entry

FRAMES = FrameSettings(num_frames=8)
FACTOR = 28
CASES = {  # name: (height, width, seconds, part of it in seconds or None)
    "240p, 10 s": (240, 320, 10, None),
    "720p, 10 s": (720, 1280, 10, None),
    "720p, 20 s": (720, 1280, 20, None),
    "240p, 5 s in the middle of 600 s": (240, 320, 600, (300.0, 305.0)),
}
RATE = 30


def main(argv: list[str]) -> None:
    """Makes the clips, reads each in turns, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(argv).rounds
    at_least(1, rounds=rounds)
    print(f"{'clip':34} {'naive ms':>9} {'ours ms':>9} {'ratio':>7} {'frames equal':>13}   (median of {rounds})")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (height, width, seconds, part)) in enumerate(CASES.items()):
            path = make(Path(folder) / f"{number}.mp4", height, width, seconds)
            start, end = part or (None, None)
            times: dict[str, list[float]] = {"naive": [], "ours": []}
            frames = {}
            for _ in range(rounds):
                for who, read in (("naive", naive), ("ours", ours)):
                    began = time.perf_counter()
                    frames[who] = read(path, start, end)
                    times[who].append(1000 * (time.perf_counter() - began))
            naive_ms, ours_ms = (statistics.median(times[who]) for who in ("naive", "ours"))
            far = float(np.abs(frames["naive"].astype(int) - frames["ours"].astype(int)).mean())
            same = "yes" if far < 3 else f"no ({far:.1f})"  # Pillow's bicubic is not FFmpeg's
            print(f"{name:34} {naive_ms:9.0f} {ours_ms:9.0f} {naive_ms / ours_ms:6.1f}x {same:>13}")


def make(path: Path, height: int, width: int, seconds: int) -> Path:
    """A clip of moving noise: H.264, a key frame every 250 frames at most, as x264 sets it."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width * 2, 3), np.uint8)
    noise = np.asarray(Image.fromarray(noise).resize((width // 8, height // 8)).resize((width * 2, height)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"preset": "ultrafast", "bf": "2"}
        for number in range(seconds * RATE):
            left = 3 * number % width
            frame = np.ascontiguousarray(noise[:, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def ours(path: Path, start: float | None, end: float | None) -> np.ndarray:
    """The package's reader."""
    return read_clip(path, FRAMES, factor=FACTOR, start=start, end=end).frames


def naive(path: Path, start: float | None, end: float | None) -> np.ndarray:
    """Everything is decoded and converted; then the frames are chosen and resized."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        first, last = round((start or 0) * RATE), round(end * RATE) if end is not None else None
        kept = [f.to_ndarray(format="rgb24") for f in _between(container.decode(video=0), first, last)]
    chosen = [kept[i] for i in sample_indices(len(kept), RATE, FRAMES)]
    height, width = resized(*chosen[0].shape[:2], FRAMES, factor=FACTOR)
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in chosen])


def _between(frames: Iterator[Any], first: int, last: int | None) -> Iterator[Any]:
    return (frame for number, frame in enumerate(frames) if number >= first and (last is None or number < last))


if __name__ == "__main__":
    run_entry(main)
