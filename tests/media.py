"""Odd and hostile files, one maker each: what people's folders hold, and what somebody may put there on purpose.

`OK` holds files that must give frames, `BAD` files with the reason that must be told. Makers write to a path.
"""

import os
import socket
import struct
import wave
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tests.conftest import moving_square, write_video

Maker = Callable[[Path], object]


def encoded(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 16,
    size: tuple[int, int] = (56, 84),
    rate: int = 8,
    pix_fmt: str = "yuv420p",
    format: str | None = None,
    stamps: list[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """A real video; `stamps` are the frames' times in units of 1 / rate."""
    with av.open(str(path), "w", format=format, options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.options = options or {}
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(moving_square(number, *size), format="rgb24")
            if stamps:
                frame.pts, frame.time_base = stamps[number], Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def with_sound(path: Path, *, video: bool = True, second: bool = False, cover: bool = False) -> None:
    """Sound with a video, a second video or a cover picture beside it."""
    with av.open(str(path), "w") as file:
        streams = []
        for wanted, size in ((video, (56, 84)), (second, (28, 28))):
            if wanted:
                stream = file.add_stream("libx264", rate=8)
                stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
                streams.append((stream, size))
        if cover:
            picture = file.add_stream("png", rate=1)
            picture.height, picture.width, picture.pix_fmt = 40, 40, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
        sound = file.add_stream("aac", rate=16000, layout="mono")
        if cover:
            file.mux(picture.encode(av.VideoFrame.from_ndarray(moving_square(0, 40, 40), format="rgb24")))
            file.mux(picture.encode())
        for number in range(16):
            for stream, size in streams:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(moving_square(number, *size), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        file.mux(sound.encode(frame))
        for stream in [stream for stream, _ in streams] + [sound]:
            file.mux(stream.encode())


def turned(path: Path) -> None:
    """A quarter turn in the header, as phones write it."""
    data = bytearray(write_video(path, size=(56, 112)).read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def external(path: Path) -> None:
    """An mp4 whose samples are said to lie in another file (`dref` without the self-contained flag)."""
    data = bytearray(write_video(path).read_bytes())
    at = data.index(b"url ") + 4
    assert data[at : at + 4] == b"\0\0\0\1"
    data[at + 3] = 0
    path.write_bytes(data)


def bomb(path: Path) -> None:
    """Small pictures whose own headers say 65,000 x 65,000 pixels, which the container does not know."""
    content = encoded(path, codec="mjpeg", pix_fmt="yuvj420p").read_bytes()
    size = b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 56, 84)
    assert size in content
    path.write_bytes(content.replace(size, size[:5] + struct.pack(">HH", 65000, 65000)))


def cut(share: float, **how: Any) -> Maker:
    """Only the first `share` of a file's bytes."""

    def make(path: Path) -> None:
        data = encoded(path, frames=60, **how).read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return make


def hurt(**how: Any) -> Maker:
    """Random bytes in the middle fifth of a file whose header is at the front."""

    def make(path: Path) -> None:
        data = bytearray(encoded(path, frames=60, **how).read_bytes())
        middle = slice(int(len(data) * 0.4), int(len(data) * 0.6))
        data[middle] = np.random.default_rng(0).integers(0, 256, middle.stop - middle.start, np.uint8).tobytes()
        path.write_bytes(data)

    return make


def data(content: bytes) -> Maker:
    """These bytes."""
    return lambda path: path.write_bytes(content)


def picture(kind: str) -> Maker:
    """An image under the name of a video."""
    return lambda path: Image.fromarray(moving_square(0, 64, 64)).save(path, format=kind)


def sound_file(path: Path) -> None:
    """A WAV file: RIFF, as AVI is."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 8000, "NONE", ""))
        file.writeframes(bytes(16000))


def archive(path: Path) -> None:
    """A ZIP file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.mp4", "x")


def unix_socket(path: Path) -> None:
    """A socket; its path must be short, so it is made under a short name."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


FAST = {"movflags": "faststart"}
BOMB = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0xF0, 0, 0) + bytes(6)
BOMB += b"\x2c" + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x44\x01\x00\x3b"
UNEVEN = [0, 1, 2, 10, 11, 30, 31, 32, 33, 34, 35, 36, 60, 61, 62, 63]

OK: dict[str, Maker] = {
    "h264.mp4": encoded,
    "h264.mov": encoded,
    "h264.mkv": encoded,
    "h264.flv": encoded,
    "h264.ts": encoded,
    "h264.m2ts": lambda p: encoded(p, format="mpegts", container={"mpegts_m2ts_mode": "1"}),
    "h264.m4v": lambda p: encoded(p, format="mp4"),
    "fragments.mp4": lambda p: encoded(p, container={"movflags": "frag_keyframe+empty_moov"}),
    "index_first.mp4": lambda p: encoded(p, container=FAST),
    "hevc.mp4": lambda p: encoded(p, codec="libx265", options={"x265-params": "log-level=none"}),
    "hevc.mkv": lambda p: encoded(p, codec="libx265", options={"x265-params": "log-level=none"}),
    "vp8.webm": lambda p: encoded(p, codec="libvpx"),
    "vp9.webm": lambda p: encoded(p, codec="libvpx-vp9"),
    "vp9_alpha.webm": lambda p: encoded(p, codec="libvpx-vp9", pix_fmt="yuva420p"),
    "vp8.ogv": lambda p: encoded(p, codec="libvpx", format="ogg"),
    "av1.mp4": lambda p: encoded(p, codec="libsvtav1", size=(72, 104)),
    "av1.webm": lambda p: encoded(p, codec="libsvtav1", size=(72, 104)),
    "mpeg1.mpg": lambda p: encoded(p, codec="mpeg1video", rate=25, format="mpeg"),
    "mpeg2.mpg": lambda p: encoded(p, codec="mpeg2video", rate=25, format="mpeg"),
    "mpeg2.ts": lambda p: encoded(p, codec="mpeg2video", rate=25),
    "mpeg2.m2v": lambda p: encoded(p, codec="mpeg2video", rate=25, format="mpeg2video"),
    "interlaced.mpg": lambda p: encoded(
        p, codec="mpeg2video", rate=25, format="mpeg", size=(64, 96), options={"flags": "+ildct+ilme"}
    ),
    "mpeg4.avi": lambda p: encoded(p, codec="mpeg4"),
    "mpeg4.mp4": lambda p: encoded(p, codec="mpeg4"),
    "mjpeg.avi": lambda p: encoded(p, codec="mjpeg", pix_fmt="yuvj420p"),
    "mjpeg.mov": lambda p: encoded(p, codec="mjpeg", pix_fmt="yuvj422p"),
    "flv1.flv": lambda p: encoded(p, codec="flv"),
    "h263.3gp": lambda p: encoded(p, codec="h263", size=(144, 176), rate=15),
    "wmv2.wmv": lambda p: encoded(p, codec="wmv2"),
    "prores.mov": lambda p: encoded(p, codec="prores_ks", pix_fmt="yuv422p10le"),
    "ffv1.mkv": lambda p: encoded(p, codec="ffv1"),
    "png_alpha.mov": lambda p: encoded(p, codec="png", pix_fmt="rgba"),
    "qtrle_alpha.mov": lambda p: encoded(p, codec="qtrle", pix_fmt="argb"),
    "raw.avi": lambda p: encoded(p, codec="rawvideo", pix_fmt="bgr24"),
    "moving.gif": lambda p: encoded(p, codec="gif", pix_fmt="rgb8", rate=10),
    "ten_bit.mp4": lambda p: encoded(p, pix_fmt="yuv420p10le"),
    "no_subsampling.mp4": lambda p: encoded(p, pix_fmt="yuv444p"),
    "grey.mkv": lambda p: encoded(p, codec="ffv1", pix_fmt="gray"),
    "odd_size.mkv": lambda p: encoded(p, codec="ffv1", size=(55, 83), pix_fmt="yuv444p"),
    "tall.mp4": lambda p: encoded(p, size=(560, 56)),
    "one_frame.mp4": lambda p: encoded(p, frames=1),
    "two_frames.mkv": lambda p: encoded(p, frames=2),
    "three_frames.webm": lambda p: encoded(p, codec="libvpx", frames=3),
    "uneven_rate.mp4": lambda p: encoded(p, stamps=UNEVEN),
    "uneven_rate.mkv": lambda p: encoded(p, stamps=UNEVEN),
    "thousand_a_second.mp4": lambda p: encoded(p, rate=1000),
    "one_a_minute.mkv": lambda p: encoded(p, rate=1, stamps=[60 * i for i in range(16)]),
    "long.mp4": lambda p: encoded(p, frames=3000, size=(28, 28), options={"preset": "ultrafast"}),
    "four_k.mp4": lambda p: encoded(p, frames=4, size=(2160, 3840), options={"preset": "ultrafast"}),
    "turned.mp4": turned,
    "with_sound.mp4": with_sound,
    "two_videos.mkv": lambda p: with_sound(p, second=True),
    "cover_and_video.mp4": lambda p: with_sound(p, cover=True),
    "cut.ts": cut(0.6, codec="mpeg2video", rate=25),  # says nothing of its length, so nobody can know
    "with space.mp4": encoded,
    "ünï☃.mp4": encoded,
    "new\nline.mp4": encoded,
    "-dash.mp4": encoded,
    "no_suffix": lambda p: encoded(p, format="mp4"),
    "wrong_suffix.avi": lambda p: encoded(p, format="mp4"),
}
BAD: dict[str, tuple[Maker, str]] = {
    "empty.mp4": (data(b""), "empty_file"),
    "one_byte.mp4": (data(b"\0"), "not_a_video"),
    "text.mp4": (data(b"a text that somebody has renamed"), "not_a_video"),
    "page.mp4": (data(b"<!DOCTYPE html><html>Not found</html>"), "not_a_video"),
    "playlist.mp4": (data(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"), "not_a_video"),
    "dash.mp4": (data(b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>"), "not_a_video"),
    "script.mp4": (data(b"ffconcat version 1.0\nfile /etc/passwd\n"), "not_a_video"),
    "session.mp4": (data(b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"), "not_a_video"),
    "subtitle.mp4": (data(b"1\n00:00:00,000 --> 00:00:01,000\nhello\n"), "not_a_video"),
    "pointer.mp4": (data(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), "not_a_video"),
    "png.mp4": (picture("PNG"), "not_a_video"),
    "avif.mp4": (picture("AVIF"), "not_a_video"),
    "jpeg.mp4": (picture("JPEG"), "not_a_video"),
    "webp.mp4": (picture("WEBP"), "not_a_video"),
    "wav.avi": (sound_file, "not_a_video"),
    "zip.mp4": (archive, "not_a_video"),
    "elf.mp4": (data(b"\x7fELF" + bytes(60)), "not_a_video"),
    "head.mp4": (data(b"\0\0\0\x18ftypisom" + bytes(12)), "unreadable"),
    "head.mkv": (data(b"\x1a\x45\xdf\xa3" + bytes(60)), "unreadable"),
    "head.flv": (data(b"FLV\x01\x01" + bytes(20)), "unreadable"),
    "head.ts": (data((b"\x47" + bytes(187)) * 20), "unreadable"),
    "bomb.gif": (data(BOMB), "unreadable"),
    "bomb.avi": (bomb, "unreadable"),
    "huge.mkv": (lambda p: encoded(p, codec="mjpeg", frames=1, size=(8200, 8200), pix_fmt="yuvj420p"), "too_large"),
    "sound.mp4": (lambda p: with_sound(p, video=False), "no_video_stream"),
    "cover_only.mp4": (lambda p: with_sound(p, video=False, cover=True), "no_video_stream"),
    "needle.mp4": (lambda p: encoded(p, size=(4, 2000)), "too_large"),
    "cut.mp4": (cut(0.6, container=FAST), "truncated"),
    "cut_before_index.mp4": (cut(0.9), "unreadable"),
    "cut.mkv": (cut(0.5), "truncated"),
    "cut.avi": (cut(0.5, codec="mpeg4"), "truncated"),
    "hurt.mp4": (hurt(container=FAST, options={"g": "10"}), "damaged"),
    "hurt_hevc.mp4": (hurt(container=FAST, codec="libx265", options={"x265-params": "log-level=none"}), "unreadable"),
    "hurt_vp9.webm": (hurt(codec="libvpx-vp9"), "damaged"),
    "folder.mp4": (lambda p: p.mkdir(), "missing"),
    "fifo.mp4": (os.mkfifo, "missing"),
    "socket.mp4": (unix_socket, "missing"),
    "dangling.mp4": (lambda p: p.symlink_to("nowhere.mp4"), "missing"),
    "loop.mp4": (lambda p: p.symlink_to("loop.mp4"), "missing"),
}
EITHER: dict[str, Maker] = {"external.mp4": external}  # frames or a reason, but no other file is opened
NAMES = [  # given as paths, never made: a protocol of FFmpeg must not be spoken
    "http://127.0.0.1:9/a.mp4", "concat:h264.mp4|h264.mov", "data:video/mp4;base64,AAAA", "file:h264.mp4",
    "subfile,,start,0,end,100,,:h264.mp4", "pipe:0", "tcp://127.0.0.1:9", "a\0b.mp4", "x" * 5000, "lavfi:color",
]  # fmt: skip
