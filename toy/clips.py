"""Makes the toy data set: real H.264 clips, clips.csv, and the true attributes beside them.

Output: OUT/clips/*.mp4, OUT/clips.csv (id, video, label, split, group), OUT/attributes.jsonl (per clip the truth, the
true caption `text`, and `guideline`: the caption and why it fits the class).
Command: python toy/clips.py --domain fine     (toy/domains.py says what there is; without it: the demo's, *far*)
"""

import argparse
import csv
import io
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from rbft_trl.data.jsonl import make_folder, write_json, write_jsonl, write_text
from rbft_trl.errors import UserError, at_least, run_entry
from toy.domains import DOMAINS, Domain
from toy.scenes import FPS, SIDE, Background, Scene, draw_background, draw_scene, render

DEFAULT = "far"
DEFAULT_SHIFT = DOMAINS[DEFAULT].shift
OUTPUTS = Path(__file__).resolve().parents[1] / "outputs/toy"
STAMP = "made.json"


def write_clip(path: Path, frames: np.ndarray) -> None:
    """Encodes uint8 `[T, H, W, 3]` frames as H.264 mp4 (temporary name, then rename)."""
    temporary = path.with_name(f".{path.name}")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        # asm=0: with it the encoder can write other bytes for the same frames from run to run
        stream.options = {"crf": "20", "preset": "veryfast", "x264-params": "asm=0:threads=1"}
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    temporary.replace(path)


def plan(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry per clip: split, scene and camera; cameras (groups) have 2 to 4 clips and never leave a split."""
    rng = np.random.default_rng(args.seed)
    domain = DOMAINS[args.domain]
    names = list(domain.labels)
    wanted = [("train", name, True) for name in names for _ in range(args.labelled)]
    wanted += [("train", names[i % len(names)], False) for i in range(args.pool)]
    wanted += [("validation", names[i % len(names)], True) for i in range(args.validation)]
    wanted += [("test", names[i % len(names)], True) for i in range(args.test)]
    order = rng.permutation(len(wanted))
    entries, camera, left = [], -1, {}
    for split in ("train", "validation", "test"):
        for i in (i for i in order if wanted[i][0] == split):
            if not left.get(split):
                camera, left[split] = camera + 1, int(rng.integers(2, 5))
            left[split] -= 1
            label = wanted[i][1]
            shown = domain.draw_shown(label, rng)
            scene = draw_scene(rng, **domain.fixed(shown))
            entries.append({"id": f"toy{len(entries):05d}", "split": split, "labelled": wanted[i][2], "label": label})
            entries[-1] |= {"shown": shown, "group": f"camera{camera:04d}", "camera": camera, "scene": scene}
    return entries


def make(job: tuple[dict[str, Any], Path, argparse.Namespace]) -> None:
    """Renders and writes one clip, if it is not there yet."""
    entry, folder, args = job
    domain, seed = DOMAINS[args.domain], args.seed
    path = folder / f"{entry['id']}.mp4"
    if path.exists():
        return
    background: Background = draw_background(np.random.default_rng([seed, 1, entry["camera"]]))
    scene: Scene = entry["scene"]
    light = domain.labels[entry["shown"]] if domain.lit else None
    rng = np.random.default_rng([seed, 2, int(entry["id"][3:])])
    frames, _ = render(scene, background, rng, shift=args.shift, light=light, neighbours=domain.neighbours)
    write_clip(path, frames)


def read_arguments(argv: list[str]) -> argparse.Namespace:
    """The checked options; folder and shift are those of the domain unless given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domain", choices=list(DOMAINS), default=DEFAULT)
    parser.add_argument(
        "--out", type=Path, help="outputs/toy/DOMAIN by default; that of the demo is outputs/toy/clips"
    )
    parser.add_argument(
        "--shift", type=float, help="0: the base's own look; 1: only new looks; the domain's by default"
    )
    parser.add_argument("--labelled", type=int, default=24, help="labelled training clips per class")
    parser.add_argument("--pool", type=int, default=1024, help="training clips without a label")
    parser.add_argument("--validation", type=int, default=160)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args(argv)
    domain = DOMAINS[args.domain]
    args.out = args.out or OUTPUTS / domain.folder
    args.shift = domain.shift if args.shift is None else args.shift
    if not 0 <= args.shift <= 1:
        raise UserError(f"--shift is {args.shift} but must lie between 0 and 1")
    counts = {key: getattr(args, key) for key in ("labelled", "pool", "validation", "test")}
    at_least(0, **counts)
    if not any(counts.values()):
        raise UserError("--labelled, --pool, --validation and --test are all 0, so no clip would be made; raise one")
    at_least(0, seed=args.seed)
    at_least(1, workers=args.workers)
    return args


def main(argv: list[str]) -> None:
    """Makes the data set, or completes one that was begun with the same settings."""
    args = read_arguments(argv)
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "workers")}
    if args.domain == DEFAULT:  # as it was when there was one domain, so that folders made then stay complete
        del settings["domain"]
    stamp = args.out / STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) != settings:
        raise UserError(
            f"'{args.out}' holds clips made with {stamp.read_text().strip()}; delete it or choose another --out"
        )
    make_folder(args.out / "clips")
    write_json(stamp, settings)

    entries = plan(args)
    jobs = [(entry, args.out / "clips", args) for entry in entries]
    with ProcessPoolExecutor(args.workers) as pool:
        for _ in tqdm(pool.map(make, jobs, chunksize=16), total=len(jobs), desc="making clips", unit="clip"):
            pass
    write_tables(args.out, entries, DOMAINS[args.domain])
    print(f"{len(entries)} clips in '{args.out}' (synthetic, domain {args.domain}, shift {args.shift})")


def write_tables(out: Path, entries: list[dict[str, Any]], domain: Domain) -> None:
    """clips.csv (what a user would have) and attributes.jsonl (what only the maker knows)."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "video", "label", "split", "group"])
    truth = []
    for entry in entries:
        scene: Scene = entry["scene"]
        label = entry["label"] if entry["labelled"] else ""
        writer.writerow([entry["id"], f"clips/{entry['id']}.mp4", label, entry["split"], entry["group"]])
        light = dict(zip(domain.decides, domain.labels[entry["shown"]], strict=True)) if domain.lit else {}
        texts = {"text": scene.caption, "guideline": domain.guideline(scene, entry["shown"])}
        shown = {"shown": entry["shown"]} if domain.disputed else {}
        truth.append({"id": entry["id"], **scene.attributes(), **light, "label": entry["label"], **shown, **texts})
    write_text(out / "clips.csv", table.getvalue())
    write_jsonl(out / "attributes.jsonl", truth)


if __name__ == "__main__":
    run_entry(main)
