"""Official annotation files of a known data set → a table of ours and a task card that every stage takes as it is.

Input: the official files and the clips, or a dataset on the Hub. Output: clips.csv, NAME.yaml, conversion.json.
Command: python rbft_trl/convert.py ucf101 --annotations ucfTrainTestlist --clips UCF-101
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from rbft_trl.data.converters.actions import hmdb51, kinetics400, ssv2, ucf101
from rbft_trl.data.converters.common import Clips, Given, Note, check_test, noted, settle
from rbft_trl.data.converters.finediving import finediving
from rbft_trl.data.converters.moderation import multihateclip_en, multihateclip_zh, smarthome
from rbft_trl.data.converters.write import (
    Made,
    Target,
    base_classes,
    locate,
    trained_classes,
    write_card,
    write_halves,
)
from rbft_trl.data.jsonl import write_json, write_jsonl
from rbft_trl.data.source import SPLITS, fetch_dataset
from rbft_trl.errors import UserError, nearest, quoted, run_entry

CONVERTERS = {
    "smarthome": smarthome,
    "multihateclip_en": multihateclip_en,
    "multihateclip_zh": multihateclip_zh,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "kinetics400": kinetics400,
    "ssv2": ssv2,
    "finediving": finediving,
}
FOLDS = {"ucf101": ("1", "2", "3"), "hmdb51": ("1", "2", "3")}
HALVES = (
    "also cards of two halves of the classes: frequent (the larger are base), a seed, or a file with the base classes"
)


def main(argv: list[str]) -> dict[str, Any]:
    """Converts; returns what conversion.json holds."""
    args = parse(argv)
    target, given = places(args)
    found = CONVERTERS[args.name](given)
    rows, missing = locate(found.rows, given.clips)
    if missing and (args.missing == "stop" or not rows):
        raise UserError(
            f"{len(missing)} of {len(found.rows)} clips of the annotation are not below '{given.clips.folder}', e.g. "
            f"{quoted(missing)}; get them{', or leave them out with --missing leave_out' if rows else ''}"
        )
    rows, settled = settle(rows)
    rows, classes, lost = trained_classes(rows, found.classes)
    check_test(rows, found.test)
    twice = noted("several_files", sorted(given.clips.doubtful), "clips lie there more than once", "the first counts")
    gone = noted("missing", missing, "clips of the annotation are not there", "they are left out")
    base = base_classes(rows, classes, args.base_to_novel) if args.base_to_novel else None
    cards = [write_card(target, found, rows, classes)]
    if base:
        cards += write_halves(target, found, rows, classes, base)
    if texts := [{"id": row["video"], "text": row["description"]} for row in rows if "description" in row]:
        write_jsonl(target.folder / "oracle_texts.jsonl", texts)
    report = summary(target, given, cards, [*found.notes, *gone, *settled, *twice, *lost])
    write_json(target.folder / "conversion.json", report)
    tell(report)
    return report


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line, with every value checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"the data set: {', '.join(CONVERTERS)}")
    parser.add_argument("--annotations", default="", help="folder of the official files")
    parser.add_argument("--clips", default="", help="folder of the clips")
    parser.add_argument("--dataset", help="a dataset on the Hub that holds both; the two folders are then inside it")
    parser.add_argument("--revision", help="of that dataset: a branch, tag or commit")
    parser.add_argument("--fold", help="official fold of ucf101 and hmdb51, 1 to 3 [1]")
    parser.add_argument("--missing", default="stop", help="clips that are not there: stop, or leave_out [stop]")
    parser.add_argument("--base_to_novel", help=HALVES)
    parser.add_argument("--output", help="where the files are written [outputs/NAME]")
    args = parser.parse_args(argv)
    if args.name not in CONVERTERS:
        raise UserError(f"'{args.name}' is no known data set{nearest(args.name, CONVERTERS)}; known: {[*CONVERTERS]}")
    if args.missing not in ("stop", "leave_out"):
        raise UserError(f"--missing is '{args.missing}' but must be stop or leave_out")
    if args.fold is not None and args.fold not in FOLDS.get(args.name, ()):
        said = "has folds 1, 2 and 3" if args.name in FOLDS else "has no folds; leave it out"
        raise UserError(f"--fold is '{args.fold}' but {args.name} {said}")
    if args.dataset is None and not (args.annotations and args.clips):
        raise UserError("name the folders with --annotations and --clips, or a dataset of the Hub with --dataset")
    if args.revision and not args.dataset:
        raise UserError(f"--revision is '{args.revision}' but belongs to --dataset; leave it out")
    return args


def places(args: argparse.Namespace) -> tuple[Target, Given]:
    """Where the files are written, and where the official files and the clips are."""
    root = fetch_dataset(args.dataset, args.revision, Path("--dataset")) if args.dataset else None
    annotations, clips = ((root or Path()) / Path(folder).expanduser() for folder in (args.annotations, args.clips))
    for option, folder in (("--annotations", annotations), ("--clips", clips)):
        if not folder.is_dir():
            raise UserError(f"{option} '{folder}' is no folder; correct the path")
        if root and not folder.resolve().is_relative_to(root.resolve()):
            raise UserError(f"{option} '{folder}' leaves the dataset; name a folder inside it")
    place = {"dataset": args.dataset} | ({"revision": args.revision} if args.revision else {})
    root = (root or clips).resolve()
    fold = int(args.fold or 1)
    target = Target(
        name=args.name,
        folder=Path(args.output or f"outputs/{args.name}"),
        place=place if args.dataset else {"root": str(root)},
        fold=fold if args.name in FOLDS else None,
    )
    return target, Given(annotations, Clips(clips.resolve(), root), fold)


def summary(target: Target, given: Given, cards: list[Made], notes: list[Note]) -> dict[str, Any]:
    """What conversion.json holds: where everything came from, what was made, and every item of every note."""
    return {
        "data_set": target.name,
        "fold": target.fold,
        "annotations": str(given.annotations),
        "clips": str(given.clips.folder),
        "place": target.place,
        "cards": [
            {
                "card": str(path),
                "classes": len({row["label"] for row in rows}),
                "clips": {split: sum(row["split"] == split for row in rows) for split in SPLITS},
            }
            for path, rows in cards
        ],
        "notes": [{"kind": n.kind, "message": n.message, "count": len(n.items), "items": n.items} for n in notes],
    }


def tell(report: dict[str, Any]) -> None:
    """Prints what was found and made, and the next command."""
    for note in report["notes"]:
        print(f"note: {note['kind']}: {note['message']}", file=sys.stderr)
    for made in report["cards"]:
        clips = ", ".join(f"{split} {count}" for split, count in made["clips"].items())
        print(f"wrote '{made['card']}': {made['classes']} classes; {clips}")
    print(f"next: python rbft_trl/check.py {shlex.quote(report['cards'][0]['card'])}")


if __name__ == "__main__":
    run_entry(main)
