"""Video-STaR on answers that are no classes: base, every cycle and the result beside direct SFT and the best constant.

Input: nothing (clips and base are made). Output: results/star_answers.jsonl, one line per kind of answer and seed.
Command: python toy/star_answers.py            (finished parts are reused; toy/evidence.py prints the table)
"""

import argparse
from pathlib import Path
from typing import Any

from rbft_trl import eval as evaluation
from rbft_trl import sft, star
from rbft_trl.data.jsonl import make_folder, read_jsonl, write_jsonl
from rbft_trl.data.task import fingerprint
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.yields import ROUTES, totals_of
from rbft_trl.model.provenance import read_record
from toy import answers, open_base

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES, OUT = REPOSITORY / "recipes/toy_answers", REPOSITORY / "outputs/toy"
KEPT = REPOSITORY / "results/star_answers.jsonl"
KEYS = ("n", "accuracy", "accuracy_interval", "constant")
Row = dict[str, Any]


def settings_of(kind: str) -> str:
    """Twelve hex digits over the recipes and the card that a run is made with."""
    files = [*sorted(RECIPES.glob("*.yaml")), card_of(kind)]
    return fingerprint("\n".join(file.read_text(encoding="utf-8") for file in files))


def card_of(kind: str) -> Path:
    """The task card of a kind of answer."""
    return REPOSITORY / f"recipes/tasks/toy_{kind}.yaml"


def one_run(kind: str, seed: int) -> Row:
    """STaR, direct SFT on the same labels, and what every model of the way answers on the test clips."""
    out, task = OUT / f"star_answers/{kind}{seed}", ["--task", str(card_of(kind))]
    own = [*task, "--seed", str(seed)]
    told = star.main([str(RECIPES / "star.yaml"), *own, "--output_dir", str(out / "star")])
    words = ["--target", "label", "--rationales", "null", "--output_dir", str(out / "direct")]
    sft.main([str(RECIPES / "stage1.yaml"), *own, *words, "--resume_from_checkpoint", "true"])
    models = {"base": None, "star": told["final"], "direct": str(out / "direct")}
    models |= {
        f"cycle{c['cycle']}": str(out / f"star/cycle{c['cycle']}/model") for c in told["cycles"] if c["trained"]
    }
    found = {name: evaluated(out / f"eval_{name}", task, checkpoint) for name, checkpoint in models.items()}
    steps = {name: read_record(folder)["steps"] for name, folder in models.items() if folder}
    return {
        "kind": kind,
        "seed": seed,
        "settings": settings_of(kind),
        "cycles": totals_of(told["cycles"]),
        "stopped": told["stopped"],
        "seconds": told["cost"]["seconds"],
        "steps": steps,
        "test": found,
    }


def evaluated(folder: Path, task: list[str], checkpoint: str | None) -> Row:
    """Greedy answers of a model on the test clips."""
    words = ["--checkpoint", checkpoint or "null", "--output_dir", str(folder)]
    metrics = evaluation.main([str(RECIPES / "eval.yaml"), *task, *words])
    return {key: metrics[key] for key in KEYS}


def table(rows: list[Row]) -> str:
    """One line per run as Markdown: yields per cycle, then % of the test clips that are right."""
    lines = [
        "| answer | seed | " + ", ".join(ROUTES) + " by cycle | base | cycles | STaR | direct SFT | best constant |"
    ]
    lines.append("|---" * 8 + "|")
    for row in rows:
        ways = "; ".join(", ".join(str(cycle[way]) for way in ROUTES) for cycle in row["cycles"])
        test = row["test"]
        cycles = ", ".join(f"{100 * test[name]['accuracy']:.1f}" for name in sorted(test) if name.startswith("cycle"))
        base, result, direct = (_share(test[name]) for name in ("base", "star", "direct"))
        constant = f"{100 * test['base']['constant']:.1f}"
        kind = row["kind"].replace("_", " ")
        lines.append(f"| {kind} | {row['seed']} | {ways} | {base} | {cycles} | {result} | {direct} | {constant} |")
    return "\n".join(lines) + "\n"


def _share(metrics: Row) -> str:
    low, high = (100 * bound for bound in metrics["accuracy_interval"])
    return f"{100 * metrics['accuracy']:.1f} ({low:.1f}-{high:.1f})"


def main(argv: list[str]) -> None:
    """Runs what results/ lacks, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(answers.KINDS), default=list(answers.KINDS))
    parser.add_argument("--seeds", type=int, default=1, help="the clips are the same; the training differs")
    args = parser.parse_args(argv)
    rows = read_jsonl(KEPT) if KEPT.is_file() else []
    done = {(row["kind"], row["seed"]) for row in rows}
    if other := next((row for row in rows if row["settings"] != settings_of(row["kind"])), None):
        raise UserError(
            f"{KEPT}: the run of '{other['kind']}', seed {other['seed']} was made with other recipes or another card; "
            "delete its line to run it again"
        )
    for kind, seed in ((kind, seed) for kind in args.kinds for seed in range(args.seeds)):
        if (kind, seed) in done:
            continue
        if not (OUT / "open_base/config.json").is_file():
            open_base.main([])
        answers.main(["--answers", kind])
        make_folder(KEPT.parent)
        rows.append(one_run(kind, seed))
        write_jsonl(KEPT, rows)
    print("\n" + table(rows))


if __name__ == "__main__":
    run_entry(main)
