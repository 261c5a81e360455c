"""Toy clips whose answers are no classes: how far a thing moves, when it is there, which ways it goes in turn.

Output: OUT/clips/*.mp4 and OUT/clips.csv (id, video, label, split), one clip per camera.
Command: python toy/answers.py --answers number     (or time_range, list)
"""

import argparse
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rbft_trl.data.jsonl import make_folder, write_json, write_text
from rbft_trl.errors import UserError, run_entry
from toy.clips import write_clip
from toy.scenes import COLOURS, DIRECTIONS, FPS, SIDE

STAMP = "made.json"
SECONDS = 8  # of a clip in which a thing comes and goes
FAR = (6, 40)  # pixels that a thing moves in a clip
Scene = tuple[str, np.ndarray, np.ndarray]  # the answer, centres [T, 2] in pixels, is it there [T]


def number(rng: np.random.Generator) -> Scene:
    """A thing that moves some pixels in one direction within 2 seconds."""
    far = int(rng.integers(*FAR, endpoint=True))
    direction = np.array(DIRECTIONS[str(rng.choice(list(DIRECTIONS)))], np.float32)
    centres = _inside(np.linspace(0, far, 2 * FPS)[:, None] * direction, rng)
    return str(far), centres, np.ones(len(centres), bool)


def time_range(rng: np.random.Generator) -> Scene:
    """A thing that stands still and is there from one whole second to another, in a clip of 8 seconds."""
    start, end = sorted(int(i) for i in rng.choice(SECONDS + 1, 2, replace=False))
    frame = np.arange(SECONDS * FPS)
    centres = _inside(np.zeros((len(frame), 2), np.float32), rng)
    return f"{start}-{end}", centres, (frame >= start * FPS) & (frame < end * FPS)


def list_(rng: np.random.Generator) -> Scene:
    """A thing that turns once or twice within 2 seconds."""
    ways: list[str] = []
    for _ in range(int(rng.integers(2, 4))):
        ways.append(str(rng.choice([way for way in DIRECTIONS if way not in ways[-1:]])))
    part = np.minimum(np.arange(2 * FPS - 1) * len(ways) // (2 * FPS - 1), len(ways) - 1)
    steps = np.array([DIRECTIONS[ways[i]] for i in part], np.float32) * 36 / (2 * FPS - 1)
    path = np.concatenate([np.zeros((1, 2), np.float32), steps.cumsum(0)])
    return ", ".join(ways), _inside(path, rng), np.ones(len(path), bool)


KINDS: dict[str, Callable[[np.random.Generator], Scene]] = {"number": number, "time_range": time_range, "list": list_}


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Frames `[T, 56, 56, 3]` uint8 of a scene: a coloured disc on a dark wall, with some noise."""
    _, centres, there = scene
    colour = np.array(COLOURS[str(rng.choice(list(COLOURS)))], np.float32) + rng.uniform(-18, 18, 3)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) + 0.5
    far = np.hypot(x - centres[:, 0, None, None], y - centres[:, 1, None, None])
    inside = np.clip(rng.uniform(4.5, 6.5) - far + 0.5, 0, 1) * there[:, None, None]
    wall = np.full((len(centres), SIDE, SIDE, 3), rng.uniform(10, 45), np.float32)
    picture = wall + inside[..., None] * (colour - wall) + rng.normal(0, 3, wall.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _inside(path: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A path `[T, 2]` moved to a random place where all of it lies in the picture."""
    low, high = 7 - path.min(0), SIDE - 7 - path.max(0)
    return (path + rng.uniform(low, np.maximum(low, high))).astype(np.float32)


def main(argv: list[str]) -> None:
    """Makes the data set, or completes one that was begun with the same settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", choices=list(KINDS), required=True)
    parser.add_argument("--out", type=Path, help="outputs/toy/ANSWERS by default")
    parser.add_argument("--train", type=int, default=384)
    parser.add_argument("--validation", type=int, default=64)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    out: Path = args.out or Path(__file__).resolve().parents[1] / "outputs/toy" / args.answers
    if min(args.train, args.validation, args.test, args.seed) < 0:
        raise UserError("--train, --validation, --test and --seed must be at least 0; correct the one that is not")
    settings: dict[str, Any] = {k: v for k, v in vars(args).items() if k != "out"}
    stamp = out / STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) != settings:
        raise UserError(
            f"'{out}' holds clips made with {stamp.read_text().strip()}; delete it or choose another --out"
        )
    make_folder(out / "clips")
    write_json(stamp, settings)
    splits = ["train"] * args.train + ["validation"] * args.validation + ["test"] * args.test
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "video", "label", "split"])
    for i, split in enumerate(tqdm(splits, desc="making clips", unit="clip")):
        rng = np.random.default_rng([args.seed, list(KINDS).index(args.answers), i])
        scene, name = KINDS[args.answers](rng), f"{args.answers}{i:04d}"
        if not (path := out / "clips" / f"{name}.mp4").exists():
            write_clip(path, draw(scene, rng))
        writer.writerow([name, f"clips/{name}.mp4", scene[0], split])
    write_text(out / "clips.csv", table.getvalue())
    print(f"{len(splits)} clips in '{out}' (synthetic, answers: {args.answers})")


if __name__ == "__main__":
    run_entry(main)
