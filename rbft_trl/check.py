"""The first command on one's own clips: what is wrong with them, what there is, one training example as it will be.

Input: a task card, or a recipe, or with --init a folder. Output: check.json and check.html; no weights, no GPU.
Command: python rbft_trl/check.py recipes/tasks/my_task.yaml
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rbft_trl.configs import DataArguments
from rbft_trl.data.draft import draft_card
from rbft_trl.data.jsonl import make_folder, write_json, write_text
from rbft_trl.data.manifest import Entry, read_manifest
from rbft_trl.data.rows import check_inside, load_rows
from rbft_trl.data.source import SPLITS
from rbft_trl.data.task import TaskCard
from rbft_trl.engines import check_work
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.findings import Finding, distributions, find_all, overview
from rbft_trl.evidence.page import encode_strip, save_strip, write_page
from rbft_trl.recipe import parse_recipe
from rbft_trl.yaml_file import read_mapping

Row = dict[str, Any]
CHARTS = {"seconds": "length in s", "fps": "frames per second", "height": "height in pixels"}
CHARTS |= {"frames": "frames sampled", "video_tokens": "video tokens per clip"}
FACTOR = 28  # of Qwen2-VL; a recipe's base says its own
NOTHING: dict[str, Any] = {"example": None, "strip": None, "budget": None, "parts": None, "memory": None}
BINS = 24
GPU_NAMES = ("l4", "rtx4090", "a100-40", "l40s", "a100", "h100", "h200")  # those of model/cost.py
ENGINES = ("ddp", "zero2", "zero3", "fsdp2")


def main(argv: list[str]) -> int:
    """Checks; returns the number of errors."""
    args, overrides = parse(argv)
    if args.init:
        return write_draft(args.init, args.card)
    data, recipe = read_file([args.file, *overrides])
    out = make_folder(args.report_dir)
    card = TaskCard.from_yaml(data.task)
    if card.data is None:
        raise UserError(f"{card.path}: 'data' is missing; name the folder of the clips as data.root")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rows = load_rows(card)
    check_inside(rows, card.data.root, card.data.within)
    factor = recipe.factor() if recipe else FACTOR
    manifest = read_manifest(rows, card.data.root, data.frames(), factor=factor)
    found = find_all(card, rows, manifest, leave_out=data.on_bad_clip == "leave_out")
    found += [Finding("warning", "note", str(w.message)) for w in told if issubclass(w.category, UserWarning)]
    view = NOTHING
    if recipe and not any(finding.level == "error" for finding in found):
        readable = [row for row in rows if manifest[row["id"]]["reason"] is None]
        try:
            view, more = view_of(recipe, card, readable, manifest, args)
            found += more
            if view["example"]:
                save_strip(view["example"]["frames"], out / "frames.png")
        except UserError as error:
            found.append(Finding("error", "recipe", str(error)))
    values = distributions(list(manifest.values()), factor=factor)
    errors = sum(finding.level == "error" for finding in found)
    report: dict[str, Any] = {"task": card.name, "errors": errors, "findings": [f.to_dict() for f in found]}
    report |= overview(card, rows, manifest, values) | {"budget": view["budget"], "parts": view["parts"]}
    report["memory"] = view["memory"]
    report["prompt_tokens"] = recipe.prompt_tokens(card) if recipe and not recipe.lacks else None
    write_json(out / "check.json", report)
    write_page("check.html", out / "check.html", report | page_of(report, rows, values) | view)
    tell(report, found, view, out)
    return errors


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the overrides of a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="a task card, or a recipe; then any --key value of the recipe")
    parser.add_argument("--init", type=Path, help="a folder of clips: write the first draft of its task card")
    parser.add_argument("--card", type=Path, help="where --init writes it [recipes/tasks/FOLDER.yaml]")
    parser.add_argument("--report_dir", type=Path, default=Path("outputs/check"), help="[outputs/check]")
    parser.add_argument("--gpus", type=int, help="that a recipe will be trained with, one process each [1]")
    parser.add_argument("--processes", type=int, help="the same, said of a CPU")
    parser.add_argument("--gpu", choices=GPU_NAMES, default="h100", help="whose time is told [h100]")
    parser.add_argument("--gpu_memory", type=float, help="GB of one GPU [of the GPU here, else 24, 40, 80 and 141]")
    parser.add_argument("--engine", choices=ENGINES, default="ddp", help="how several GPUs share the work [ddp]")
    args, overrides = parser.parse_known_args(argv)
    if args.gpus is not None and args.processes is not None:
        raise UserError(f"--gpus {args.gpus} and --processes {args.processes} are one number; give --gpus alone")
    for key in ("gpus", "processes"):
        if (count := getattr(args, key)) is not None and count < 1:
            raise UserError(f"--{key} is {count} but must be at least 1")
    args.gpus = args.gpus or args.processes or 1
    if args.gpu_memory is not None and not 0 < args.gpu_memory < float("inf"):
        raise UserError(f"--gpu_memory is {args.gpu_memory:g} GB but must be a number above 0")
    if args.file is not None and args.init is not None:
        raise UserError(
            f"--init '{args.init}' would draft a card from that folder of clips, but '{args.file}' is to be checked; "
            "leave one out (to start a stage elsewhere write the key init into the recipe)"
        )
    if args.file is None and args.init is None:
        raise UserError("name a task card or a recipe, or a folder of clips with --init")
    if args.init is None and args.card is not None:
        raise UserError(f"--card '{args.card}' says where --init writes; name the folder with --init")
    return args, overrides


def read_file(argv: list[str]) -> tuple[DataArguments, Any]:
    """The data options, and the recipe; a bare card has the default frames and no recipe."""
    path = Path(argv[0])
    raw = read_mapping(path, what="card or recipe", example="recipes/README.md lists those to copy")
    if raw.keys() & {"labels", "question", "role", "aspects"}:
        return parse_recipe(["--task", *argv], DataArguments)[0], None
    from rbft_trl.preview import Recipe  # here, since it imports TRL: seconds that a bare card need not wait

    recipe = Recipe.read(argv, raw)
    return recipe.data, recipe


def view_of(
    recipe: Any, card: TaskCard, rows: list[Row], manifest: dict[str, Entry], args: argparse.Namespace
) -> tuple[dict[str, Any], list[Finding]]:
    """What a recipe would do: example, batch and steps, trained parts, memory; and what is to be said about it."""
    from rbft_trl.advice import keeping_the_batch  # here, as `Recipe` above
    from rbft_trl.memory import Machine, memory_here
    from rbft_trl.preview import engine_of

    if refused := refusals(engine_of(args.engine, args.gpus), recipe.work()):
        return NOTHING, refused
    machine = Machine(args.gpus, args.engine, args.gpu, args.gpu_memory or memory_here())
    found = []
    if said := recipe.against_4bit():
        found.append(Finding("warning", "four_bit", said))
    if recipe.trains and (said := keeping_the_batch(recipe.rest[-1], args.gpus)):
        found.append(Finding("warning", "global_batch", said))
    if recipe.lacks:
        rough = "; memory is told by the published patch sizes, at three characters to a token"
        found.append(Finding("error", "recipe", f"{recipe.lacks}{rough}"))
    if recipe.lacks or not recipe.trains:
        return NOTHING | {"memory": recipe.memory(card, rows, manifest, machine)}, found
    view = NOTHING | recipe.preview(machine)
    return view | {"strip": encode_strip(view["example"]["frames"])}, found


def refusals(engine: str, work: tuple[str, ...]) -> list[Finding]:
    """Everything of `work` that the engine refuses, as an error each."""
    found = []
    for each in work:
        try:
            check_work(engine, each)
        except UserError as error:
            found.append(Finding("error", "engine", str(error)))
    return found


def write_draft(folder: Path, card: Path | None) -> int:
    """Writes the first draft of a card; an existing file is never overwritten."""
    card = card or Path("recipes/tasks") / f"{folder.resolve().name}.yaml"
    if card.exists():
        raise UserError(f"the card '{card}' exists; name another with --card, or delete it")
    write_text(card, draft_card(folder, root=str(folder.resolve())))
    print(f"wrote '{card}'; replace every TODO in it, then: python rbft_trl/check.py {card}")
    return 0


def page_of(report: dict[str, Any], rows: list[Row], values: dict[str, list[float]]) -> dict[str, Any]:
    """What the page shows beside check.json: bars and histograms as coordinates, and one sentence."""
    splits = report["splits"]
    names = list(splits["train"]["classes"])
    totals = {name: sum(splits[split]["classes"][name] for split in SPLITS) for name in names}
    most = max([1, *totals.values()])
    charts = []
    for key, title in CHARTS.items():
        if known := values[key]:
            charts.append(histogram(known) | {"title": title, "median": f"{float(np.median(known)):g}"})
    classes = [
        (name, [splits[split]["classes"][name] for split in SPLITS], round(100 * totals[name] / most, 1))
        for name in names
    ]
    return {"classes": classes, "charts": charts, "sentence": sentence(report, len(rows))}


def histogram(values: list[float]) -> dict[str, Any]:
    """Bars of a chart 320 wide and 150 high."""
    counts, edges = np.histogram(values, bins=BINS)
    width, tallest = 300 / BINS, max(counts)
    bars = [
        (round(10 + i * width, 1), round(126 - 116 * c / tallest, 1), round(width - 1, 1), round(116 * c / tallest, 1))
        for i, c in enumerate(counts.tolist())
    ]
    return {"bars": bars, "low": f"{edges[0]:.3g}", "high": f"{edges[-1]:.3g}"}


def sentence(report: dict[str, Any], clips: int) -> str:
    """Whether a run would start."""
    warned = len(report["findings"]) - report["errors"]
    words = f"{clips:,} clips, {report['errors']} errors, {warned} warnings: "
    return words + ("a run would stop." if report["errors"] else "a run would start.")


def tell(report: dict[str, Any], found: list[Finding], view: dict[str, Any], out: Path) -> None:
    """Prints the findings, what there is, and where the page lies."""
    for finding in found:
        print(f"{finding.level}: {finding.kind}: {finding.message}", file=sys.stderr)
    for split, counts in report["splits"].items():
        each = ", ".join(f"{name} {count}" for name, count in counts["classes"].items())
        print(f"{split}: {counts['clips']} clips of {counts['sources']} sources: {each}, pool {counts['pool']}")
    for key, title in CHARTS.items():
        if key in report:
            low, _, median, _, high = report[key]
            print(f"{title}: {low:g} to {high:g}, median {median:g}")
    if report["test_shows"] is not None:
        print(f"the test split shows differences from about {report['test_shows']} points on")
    elif report["splits"]["test"]["sources"]:
        print("the test split is too small to show any difference between two models")
    if report["prompt_tokens"]:
        print("text tokens of a prompt: " + ", ".join(f"{k} {n}" for k, n in report["prompt_tokens"].items()))
    if view["budget"]:
        budget = view["budget"]
        print(f"batch {budget['batch']} ({budget['batch_is']}), {budget['steps_per_epoch']} steps per epoch,")
        print(f"{budget['steps']} steps in all; {budget['tokens'][0]} to {budget['tokens'][4]} tokens per row")
        if budget["repeated"]:
            print(f"{budget['repeated']} rows are shown twice in each epoch, to fill the last batch of every process")
        print(view["parts"])
    if view["memory"]:
        from rbft_trl.memory import lines_of

        print(*lines_of(view["memory"]), sep="\n")
    print(f"{sentence(report, sum(s['clips'] for s in report['splits'].values()))} page: {out / 'check.html'}")


if __name__ == "__main__":
    run_entry(lambda argv: sys.exit(1 if main(argv) else 0))
