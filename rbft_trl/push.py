"""Pushes a trained stage or merged weights to the Hub: weights, processor, card, recipe, metrics; nothing private.

Input: a checkpoint. Output: one commit on the Hub; pushed again without a change, none.
Command: python rbft_trl/push.py outputs/run/stage2 --repo user/name --eval outputs/run/eval --license apache-2.0
"""

import argparse
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rbft_trl.classifier import VideoClassifier, check_classes
from rbft_trl.data.jsonl import make_folder
from rbft_trl.data.task import CARD_FILE, TaskCard
from rbft_trl.engines import check_alone
from rbft_trl.errors import UserError, run_entry
from rbft_trl.hub.folder import take_files
from rbft_trl.hub.pushing import PushOptions, prepare, push_folder
from rbft_trl.model.provenance import read_record


def main(argv: list[str]) -> str | None:
    """Pushes; returns the commit (None if only a folder was written)."""
    args = parse(argv)
    check_alone("push.py")
    source = Path(args.checkpoint)
    record = read_record(source)
    card_folder = source if (source / CARD_FILE).is_file() else source.parent  # a checkpoint-N has none of its own
    card = TaskCard.from_yaml(card_folder / CARD_FILE)
    check_classes(card, source)
    if source.name.startswith("checkpoint-"):
        record = record | {"steps": int(source.name.removeprefix("checkpoint-"))}
    options = PushOptions(
        repo=args.repo,
        private=args.private == "true",
        base_id=args.base_id,
        base_revision=args.base_revision,
        parent=args.parent,
        license=args.license,
        evaluation=Path(args.eval) if args.eval else None,
    )
    answer = (lambda folder: classify(folder, record, args)) if args.clip else None
    if args.to_folder:
        folder = make_folder(args.to_folder)
        if any(folder.iterdir()):
            raise UserError(f"--to_folder '{folder}' is not empty; delete it or name another folder")
        take_files(source, folder)
        prepare(source, record, card, options, folder, answer=answer)
        print(f"'{folder}' is what would be pushed to '{args.repo}'; nothing was pushed")
        return None
    if get_token() is None:
        raise UserError("there is no token; run `hf auth login`, or set HF_TOKEN, and push again")
    return push_folder(source, record, card, options, answer=answer)


def classify(folder: Path, record: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """What the card's snippet prints: the pushed folder's own answer, on the base that is on this machine."""
    base = record["model_name_or_path"] if record["adapters"]["use_peft"] else None
    device = "cpu" if args.use_cpu else None
    return VideoClassifier.from_pretrained(folder, base=base, device=device)(args.clip, top_k=3)


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of a trained stage, of merged weights, or one of its checkpoints")
    parser.add_argument("--repo", required=True, help="where to: user/name")
    parser.add_argument(
        "--private", choices=["true", "false"], default="true", help="whether a new repository is private [true]"
    )
    parser.add_argument("--eval", help="output_dir of rbft_trl/eval.py: metrics and confusion matrix of the card")
    parser.add_argument("--license", help="license field of the card, e.g. apache-2.0; a public push needs one")
    parser.add_argument("--base_id", help="id on the Hub of a base that is a local folder here")
    parser.add_argument("--base_revision", help="its commit; the newest one if left out")
    parser.add_argument("--parent", help="user/name of the pushed stage 1, so that the recipe can name it")
    parser.add_argument("--clip", help="a clip to run the card's snippet on; its answer stands in the card")
    parser.add_argument("--to_folder", help="write the folder and push nothing")
    parser.add_argument("--use_cpu", action="store_true", help="run the snippet on the CPU even if there is a GPU")
    args = parser.parse_args(argv)
    for key in ("repo", "base_id", "parent"):
        if value := getattr(args, key):
            check_id(key, value)
    if args.private == "false" and args.license is None:
        raise UserError("--private false needs --license, so that others know what they may do; e.g. apache-2.0")
    if args.base_revision and not args.base_id:
        raise UserError(f"--base_revision is '{args.base_revision}' but --base_id is missing; name the base, too")
    return args


def check_id(key: str, value: str) -> None:
    """Refuses what is no `user/name`."""
    repo = value.partition("@")[0] if key == "parent" else value
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--{key} '{value}' is no id of the Hub: {' '.join(str(error).split())}") from error
    if "/" not in repo:
        raise UserError(f"--{key} '{value}' names no user; write user/name")


if __name__ == "__main__":
    run_entry(main)
