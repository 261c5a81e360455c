"""What every page has: one self-contained file without scripts or remote loads, everything escaped; strips of frames.

Input: a template of this folder and what it shows. Output: an HTML file.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from rbft_trl.data.jsonl import write_text

STRIP_FRAMES, STRIP_HEIGHT, GAP = 8, 112, 2  # frames and pixels


def write_page(template: str, out: str | Path, view: dict[str, Any]) -> None:
    """Fills a template of this folder; text of models and users is escaped, the style is ours."""
    folder = Path(__file__).parent
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string((folder / template).read_text(encoding="utf-8"))
    html = page.render(view, style=Markup((folder / "page.css").read_text(encoding="utf-8")))
    write_text(out, html.encode("utf-8", "replace").decode("utf-8"))  # a model may write half a surrogate pair


def encode_strip(frames: np.ndarray, *, columns: int = STRIP_FRAMES) -> str:
    """`strip` as base64 of a PNG."""
    stream = io.BytesIO()
    strip(frames, columns=columns).save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def save_strip(frames: np.ndarray, path: Path) -> None:
    """`strip` as a PNG file."""
    strip(frames).save(path, format="PNG", optimize=True)


def strip(frames: np.ndarray, *, columns: int = STRIP_FRAMES) -> Image.Image:
    """At most 8 frames, evenly chosen, each at most 112 pixels high, in rows of `columns` frames.

    Args:
        frames (`np.ndarray` uint8 `[T, H, W, 3]`): RGB.
        columns (`int`, *optional*, defaults to 8): Frames side by side; 4 can be seen on a phone.
    """
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[0] > 0, (frames.dtype, frames.shape)
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), STRIP_FRAMES)).round().astype(int)
    height = min(STRIP_HEIGHT, frames.shape[1])
    width = max(1, round(frames.shape[2] * height / frames.shape[1]))
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    size = ((width + GAP) * columns - GAP, (height + GAP) * rows - GAP)
    picture = Image.new("RGB", size, (128, 128, 128))
    for place, index in enumerate(chosen):
        corner = (place % columns * (width + GAP), place // columns * (height + GAP))
        picture.paste(Image.fromarray(frames[index]).resize((width, height)), corner)
    return picture
