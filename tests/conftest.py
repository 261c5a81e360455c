"""What all tests share: no network, one thread, small real clips, a toy data set and a loadable tiny base.

Clips are real H.264 files and the base is a real Qwen2-VL; both are made once per session in a temporary folder.
"""

import os
import tempfile

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "RBFT_CACHE": tempfile.mkdtemp(prefix="rbft_cache_"),
}  # before torch and the Hub's library are imported, and handed to every process that a test starts

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.hub_process import HubProcess
from tests.hub_server import HubServer

torch.set_num_threads(1)
settings.register_profile("busy", deadline=None)  # a slow machine makes no property false
settings.load_profile("busy")
REPOSITORY = Path(__file__).parents[1]


def moving_square(number: int, height: int, width: int) -> np.ndarray:
    """Frame `number` as uint8 `[height, width, 3]`: a bright square that wanders, so no two frames are alike."""
    frame = np.full((height, width, 3), (20, 60 + 9 * number % 120, 110), np.uint8)
    side = max(2, min(height, width) // 4)
    top, left = (number * 3) % (height - side + 1), (number * 5) % (width - side + 1)
    frame[top : top + side, left : left + side] = (240, 230, 40)
    return frame


def write_video(
    path: Path,
    frames: int = 16,
    size: tuple[int, int] = (56, 56),
    fps: int = 8,
    *,
    codec: str = "libx264",
    first: int = 0,
    **options: str,
) -> Path:
    """Writes a real clip of `frames` frames, `size` = (height, width); the name's ending picks the container.

    Args:
        first (`int`): Number of the first drawn frame: other numbers give other clips.
        options (`str`): Container options, e.g. `movflags="faststart"`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "libx264":  # asm=0: the same bytes on every run
            stream.options = {"crf": "18", "preset": "veryfast", "x264-params": "asm=0:threads=1"}
        for number in range(first, first + frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moving_square(number, *size), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """`make_clip(path, frames=16, size=(56, 56), fps=8, ...)` writes a real clip and returns its path."""
    return write_video


@pytest.fixture(scope="session")
def toy_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(task card, data root) of a small toy data set: 4 labelled clips per class, 8 in the pool, 16 + 24 held out."""
    from toy.clips import main

    folder = tmp_path_factory.mktemp("toy")
    root = folder / "clips"
    counts = "--labelled 4 --pool 8 --validation 16 --test 24"
    main(["--out", str(root), *counts.split(), "--shift", "0.3", "--workers", "1"])
    shipped = (REPOSITORY / "recipes/tasks/toy.yaml").read_text(encoding="utf-8")
    card = folder / "toy.yaml"
    card.write_text(shipped.replace("../../outputs/toy/clips", str(root)), encoding="utf-8")
    assert str(root) in card.read_text(encoding="utf-8")
    return card, root


@pytest.fixture(scope="session")
def smoke_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny Qwen2-VL with processor, for tests that need any model that loads; it has learnt nothing."""
    from toy.pretrain import main

    out = tmp_path_factory.mktemp("base") / "smoke"
    main(["--setting", "smoke", "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def small_sets(make_clip: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Name → a known data set in small, in its official layout (tests/miniatures.py)."""
    from tests.miniatures import BUILDERS

    return {name: build(tmp_path_factory.mktemp(name), make_clip) for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of the Hub work."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def hub(smoke_base: Path) -> Iterator[HubServer]:
    """A Hub on loopback that has the tiny base as `org/base`."""
    with HubServer() as server:
        server.put("org/base", smoke_base)
        yield server


@pytest.fixture(scope="session")
def me(hub: HubServer, place: Path) -> Iterator[HubProcess]:
    """A process of somebody who may push to `me/...`."""
    process = HubProcess(hub.env(place / "my_home"), place)
    yield process
    process.close()


@pytest.fixture(scope="session")
def stranger(hub: HubServer, place: Path) -> Iterator[HubProcess]:
    """A process without a token and with an empty cache."""
    (place / "elsewhere").mkdir()
    process = HubProcess(hub.env(place / "other_home", token=None), place / "elsewhere")
    yield process
    process.close()
