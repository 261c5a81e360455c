"""Every clip is read once, in a child that can be killed; what is known stays known until the file changes."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from rbft_trl.data import manifest
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.data.manifest import read_manifest
from rbft_trl.data.video import FrameSettings

FACTOR = 28
FRAMES = FrameSettings(num_frames=8, min_pixels=FACTOR**2, max_pixels=16 * FACTOR**2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RBFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rows(tmp_path: Path, make_clip: Callable[..., Path]) -> list[dict]:
    names = ["a.mp4", "b.mp4", "c.mp4"]
    for number, name in enumerate(names):
        make_clip(tmp_path / "root" / name, first=3 * number)
    return [{"id": name, "video": name, "start": None, "end": None} for name in names]


def ask(rows: list[dict], tmp_path: Path, **options: object) -> dict:
    return read_manifest(rows, tmp_path / "root", FRAMES, factor=FACTOR, **options)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The videos that are read from now on."""
    read: list[str] = []
    real = manifest._read_all

    def spy(asked: list[dict], *rest: object) -> object:
        read.extend(entry["video"] for entry in asked)
        return real(asked, *rest)

    monkeypatch.setattr(manifest, "_read_all", spy)
    return read


def test_a_clip_is_read_once_until_it_changes(
    rows: list[dict], tmp_path: Path, cache: Path, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(monkeypatch)
    first = ask(rows, tmp_path)
    assert read == ["a.mp4", "b.mp4", "c.mp4"] and first["a.mp4"]["shape"] == [8, 56, 56]
    assert first["a.mp4"]["reason"] is None and first["a.mp4"]["seconds"] == 2 and first["a.mp4"]["codec"] == "h264"
    assert ask(rows, tmp_path) == first and len(read) == 3
    time.sleep(0.01)
    make_clip(tmp_path / "root/b.mp4", frames=4)
    second = ask(rows, tmp_path)
    assert read[3:] == ["b.mp4"] and second["b.mp4"]["total_frames"] == 4 and second["a.mp4"] == first["a.mp4"]
    other = FrameSettings(num_frames=4, min_pixels=FACTOR**2, max_pixels=16 * FACTOR**2)
    read_manifest(rows, tmp_path / "root", other, factor=FACTOR)
    assert len(read) == 7 and len(list(cache.glob("*.jsonl"))) == 2  # other frames, another manifest
    (tmp_path / "root/a.mp4").unlink()
    assert ask(rows, tmp_path)["a.mp4"]["reason"] == "missing"
    (file,) = [file for file in cache.glob("*.jsonl") if len(read_jsonl(file)) == 3 and "missing" in file.read_text()]
    assert {entry["video"] for entry in read_jsonl(file)} == {"a.mp4", "b.mp4", "c.mp4"}  # one entry for each


def test_what_was_read_before_a_kill_is_kept(
    rows: list[dict], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "SAVE_EVERY", 1)
    real = manifest._read_all

    def dies(*asked: object) -> object:
        yield next(real(*asked))
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "_read_all", dies)
    with pytest.raises(KeyboardInterrupt):
        ask(rows, tmp_path)
    monkeypatch.setattr(manifest, "_read_all", real)
    read = counted(monkeypatch)
    assert len(ask(rows, tmp_path)) == 3 and read == ["b.mp4", "c.mp4"]
    assert not list(cache.glob("*.part"))


def hangs(path: Path, *_: object, **__: object) -> dict:
    if path.name == "b.mp4":
        time.sleep(60)
    if path.name == "c.mp4":
        os._exit(7)
    return {"lost": 0}


def eats(path: Path, *_: object, **__: object) -> dict:
    if path.name == "b.mp4":
        return {"size": len(bytearray(3 * 2**30))}
    return {"lost": 0}


def test_a_clip_that_hangs_or_crashes_its_decoder_is_told(
    rows: list[dict], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "describe_clip", hangs)  # the children are forked
    began = time.perf_counter()
    found = ask(rows, tmp_path, seconds=1.0)
    assert {name: entry["reason"] for name, entry in found.items()} == {
        "a.mp4": None, "b.mp4": "too_long", "c.mp4": "unreadable",
    }  # fmt: skip
    assert time.perf_counter() - began < 20 and "crashed (exit 7)" in found["c.mp4"]["detail"]


def test_a_limit_of_time_is_not_remembered(
    rows: list[dict], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = manifest.describe_clip
    monkeypatch.setattr(manifest, "describe_clip", hangs)
    assert ask(rows, tmp_path, seconds=1.0)["b.mp4"]["reason"] == "too_long"
    monkeypatch.setattr(manifest, "describe_clip", real)
    (file,) = cache.glob("*.jsonl")
    with file.open("a") as stream:
        stream.write('{"video": "a line of nobody"}\n')
    assert ask(rows, tmp_path)["b.mp4"]["reason"] is None


def test_a_clip_that_needs_too_much_memory_is_told(
    rows: list[dict], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "describe_clip", eats)
    found = ask(rows, tmp_path)
    assert found["b.mp4"]["reason"] == "too_large" and "2 GB" in found["b.mp4"]["detail"]
    assert found["a.mp4"]["reason"] is None


def test_processes_that_ask_at_once_read_each_clip_once(rows: list[dict], tmp_path: Path, cache: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork")) as pool:
        answers = list(pool.map(ask, [rows] * 3, [tmp_path] * 3))
    assert answers[0] == answers[1] == answers[2]
    (file,) = cache.glob("*.jsonl")
    assert len(read_jsonl(file)) == 3
