"""Everything that is claimed of the toy domains: runs the comparisons behind it, or reads their committed results.

A comparison is one of `RUNS`. Two processes share its draws; each finished cell is kept, so a killed run goes on. What
it found is one small file, results/NAME.jsonl, to which further draws can be added.
Command: python toy/evidence.py --run arms_far --seeds 10      (or --tables: from the committed results alone)
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft_trl import compare
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.errors import UserError, run_entry
from rbft_trl.evidence.results import merge_results, read_results
from rbft_trl.evidence.table import text_of_cards, text_of_frames, text_of_left_out, text_of_rung
from rbft_trl.evidence.yields import ROUTES
from toy import star_answers
from toy.attribute_probe import attributes, probe_cells
from toy.domains import DOMAINS
from toy.figures import draw_arms, draw_ladder
from toy.ladder import labels_against_texts, table, write_arms, write_rivals
from toy.summary import side_by_side

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results"
PROBED = 3  # draws of the ladder whose models are probed for what they see, 12 s each
UNTRAINED = ["majority", "zero_shot", "probe", "heads"]
MAIN = ["direct", "rbft", "shuffled", "oracle"]
# The best of the first two draws of *far* and of the first of *near*, so that later draws did not choose them.
RIVALS = ["pseudo_labels", "rbft_agreement"]
ALL = [
    *UNTRAINED,
    *MAIN,
    "direct_short",
    "direct_flops",
    "rbft_hint",
    "rbft_samples",
    "rbft_agreement",
    "rbft_rebuild",
    "permuted",
]
ALL += ["other_hint", "oracle_guideline", "definition", "captions", "pseudo_labels", "playing_order", "play_count"]
ALL += ["rationale_label", "label_rationale", "joint"]
ONE_TARGET = [
    "probe",
    "direct",
    "rbft",
    "definition",
    "checklist",
    "rationale_label",
    "label_rationale",
    "joint",
    "oracle",
]
Arms = list[str] | Callable[[Path], list[str]]
LONGER = ["direct", "rbft", "star"]  # no single last stage to try values in


@dataclass(frozen=True)
class Run:
    """One comparison.

    Args:
        domain (`str`): Of toy/domains.py.
        arms (`list[str]`): Files of recipes/arms, or a function of toy/ladder.py that writes others into a folder.
        shots (`list[int]`, *optional*): Labels per class; the recipes' own if None.
        draws (`int`, *optional*, defaults to 10): At most; the other domains repeat what *far* asks on ten.
        few (`int`, *optional*, defaults to 10): Draws of the arms that the sentence does not need (all but `MAIN` and
            `RIVALS`).
        trials (`bool`, *optional*, defaults to `True`): Whether each arm chooses as recipes/toy/compare.yaml says.
        elsewhere, novel (`str`, *optional*): Domains on whose clips the same models are evaluated too: other looks of
            the same classes, and classes that they were not trained on.
    """

    domain: str
    arms: Arms
    shots: list[int] | None = None
    draws: int = 10
    few: int = 10
    trials: bool = True
    elsewhere: str = ""
    novel: str = ""

    def chunks(self, *, seeds: int, first: int) -> list[tuple[Arms, range]]:
        """The draws from `first` on, at most `seeds` of them: those of all arms, then those of `MAIN` and `RIVALS`."""
        last = min(first + seeds, self.draws)
        both = min(max(self.few, first), last)
        chunks = [(self.arms, range(first, both)), ([*UNTRAINED, *MAIN, *RIVALS], range(both, last))]
        return [chunk for chunk in chunks if chunk[1]]


# Every arm that there is, on one domain: only its card has a checklist. The toy base's texts are shorter than 20
# tokens, so that label_rationale_20, _60 and _150 would be label_rationale again.
FAR = [*ALL, "checklist", "zero_shot_definitions", "in_context"]
FAR += ["rbft_blind", "rbft_unchecked", "rbft_all_checks"]
# Five draws are the fewest that may say "cannot help", as the negative control, *disputed*, should.
RUNS = {f"arms_{name}": Run(name, ALL, draws=5, few=1) for name in DOMAINS}
RUNS |= {"arms_far": Run("far", FAR, few=3), "arms_disputed": Run("disputed", ALL, few=1)}
RUNS |= {f"star_{name}": Run(name, LONGER, draws=2, trials=False) for name in DOMAINS}
RUNS["star_far"] = Run("far", [*LONGER, "rationale_only"], [2, 4, 8, 16], draws=2, trials=False)
# Sixteen times the labels of 8 shots are 1,024 clips, which is what there is.
RUNS["ladder_far"] = Run("far", write_arms, [8], trials=False)
RUNS["cell_far"] = Run("far", write_rivals, [8], draws=3)
RUNS["shift_near"] = Run("near", MAIN, draws=2, elsewhere="far", novel="fine")
RUNS["shots_far"] = Run("far", ONE_TARGET, [2, 4, 8], draws=3)  # at 16 shots these are cells of arms_far


def command(name: str, arms: Arms, draws: range) -> list[str]:
    """The words of rbft_trl/compare.py for some draws of a comparison."""
    run, out = RUNS[name], REPOSITORY / f"outputs/toy/{name}"
    domain = DOMAINS[run.domain]
    folder = out / "arms" if callable(arms) else REPOSITORY / "recipes/arms"
    arms = arms(folder) if callable(arms) else arms
    words = [str(REPOSITORY / "recipes/toy/compare.yaml"), "--arms", f"[{', '.join(arms)}]"]
    words += [
        "--arms_folder",
        str(folder),
        "--output_dir",
        str(out),
        "--seeds",
        str(len(draws)),
        "--first_draw",
        str(draws.start),
    ]
    words += ["--task", str(card_of(run.domain))]
    words += ["--oracle_texts", str(REPOSITORY / "outputs/toy" / domain.folder / "attributes.jsonl")]
    words += ["--shuffled_frames", "true"] if name == "arms_far" else []
    words += [] if run.trials else ["--trials", "null"]
    words += ["--elsewhere", f"[{card_of(run.elsewhere)}]"] if run.elsewhere else []
    words += ["--novel", str(card_of(run.novel))] if run.novel else []
    return words + (["--shots", f"[{', '.join(map(str, run.shots))}]"] if run.shots else [])


def card_of(domain: str) -> Path:
    """Its task card."""
    return REPOSITORY / "recipes/tasks" / DOMAINS[domain].card


def make_clips(domain: str) -> None:
    """The clips of a domain, if they are not there yet."""
    subprocess.run([sys.executable, str(REPOSITORY / "toy/clips.py"), "--domain", domain], check=True)


def execute(name: str, *, seeds: int, first: int) -> None:
    """Runs draws of a comparison, and adds them to results/; of a ladder it probes what the models see."""
    run = RUNS[name]
    if not (chunks := run.chunks(seeds=seeds, first=first)):
        print(f"'{name}' has draws 0 to {run.draws - 1}, so none is run from draw {first} on", flush=True)
        return
    for domain in filter(None, (run.domain, run.elsewhere, run.novel)):
        make_clips(domain)
    for arms, draws in chunks:
        in_two_processes(name, command(name, arms, draws), most=len(draws))
        RESULTS.mkdir(exist_ok=True)
        kept = RESULTS / f"{name}.jsonl"
        merge_results(kept, [*([kept] if kept.is_file() else []), REPOSITORY / f"outputs/toy/{name}/results.jsonl"])
        if run.arms is write_arms:
            rung = f"outputs/toy/{name}/shots{run.shots[0]}"
            probed, settings = RESULTS / f"{name}.attributes.jsonl", read_jsonl(kept)[0]["settings"]
            of = range(draws.start, min(draws.stop, PROBED))
            probe_cells(REPOSITORY / rung, probed, str(card_of(run.domain)), of, settings)


def in_two_processes(name: str, words: list[str], *, most: int) -> None:
    """One comparison: its draws in two processes of one thread each (at `most` as many as draws), then gathered."""
    script, one = str(REPOSITORY / "rbft_trl/compare.py"), os.environ | {"OMP_NUM_THREADS": "1"}
    parts = [
        subprocess.Popen([sys.executable, script, *words, "--part", f"{part}/2"], env=one) for part in (1, 2)[:most]
    ]
    codes = [process.wait() for process in parts]
    if any(codes):
        raise UserError(f"'{name}' was stopped or failed (exit codes {codes}); the same command goes on")
    compare.main(words)


def tables(names: list[str]) -> dict[str, dict[str, Any]]:
    """Prints what the committed results say: of all arms, and where these have fewer draws, of the main ones alone.
    Returns the comparisons by name."""
    found = {}
    for name in names:
        file = RESULTS / f"{name}.jsonl"
        if not file.is_file():
            print(f"\n## {name}\n\nnot measured")
            continue
        comparison = found[name] = read_results(file)
        if name.startswith("arms_"):
            print_rungs(f"{name}, the question alone", read_results(file, [*UNTRAINED, *MAIN]))
        print_rungs(name, comparison)
        if RUNS[name].arms is write_arms:
            probed = RESULTS / f"{name}.attributes.jsonl"
            print("\n" + table(comparison, attributes(read_jsonl(probed)) if probed.is_file() else {}))
            print(labels_against_texts(comparison))
    return found


def summaries(found: dict[str, dict[str, Any]]) -> str:
    """All arms on all domains, and arms on one target at every number of shots, a column each."""
    domains = {name: found[f"arms_{name}"]["rungs"][-1] for name in DOMAINS if f"arms_{name}" in found}
    told = f"\n## All arms, all domains\n\n{side_by_side(domains)}" if domains else ""
    for name in ("shots_far", "star_far"):
        rungs = {f"{rung['shots']} shots": rung for rung in found[name]["rungs"]} if name in found else {}
        told += f"\n## {name}\n\n{side_by_side(rungs)}" if rungs else ""
    return told


def pictures(found: dict[str, dict[str, Any]]) -> None:
    """Draws the ladder, and the arms of every domain that has been measured, beside the results."""
    if arms := {name: found[f"arms_{name}"] for name in DOMAINS if f"arms_{name}" in found}:
        draw_arms(arms, RESULTS / "arms.png")
    if "ladder_far" in found:
        draw_ladder(found["ladder_far"], RESULTS / "ladder.png")


def print_rungs(title: str, comparison: dict[str, Any]) -> None:
    """Table, sentence and yields of a comparison at each number of shots."""
    for rung in comparison["rungs"]:
        lost = "".join(f"left out: {line}\n" for line in text_of_left_out(rung.get("left_out", {})))
        print(f"\n## {title}, {rung['shots']} shots\n\n{rung['table']}\n{lost}")
        print(text_of_frames(rung["arms"]) + text_of_cards(rung.get("elsewhere", {})))
        print(f"{rung['sentence']}\n\n{yields(rung)}")
    for lost in comparison["rungs_left_out"]:
        print(f"{title}, {lost['shots']} shots: {text_of_rung(lost)}")


def yields(comparison: dict[str, Any]) -> str:
    """The yields of Video-STaR per cycle as Markdown: sums over the draws that had the cycle."""
    lines = ["| arm | cycle | draws | clips | right without the label | right with it | dropped |", "|---" * 7 + "|"]
    for name, entry in comparison["arms"].items():
        told = [cycle for draw in entry["draws"] for cycle in draw["yields"] or []]
        for number in sorted({cycle["cycle"] for cycle in told}):
            own = [cycle for cycle in told if cycle["cycle"] == number]
            total = {key: sum(cycle[key] for cycle in own) for key in own[0]}
            shares = " | ".join(f"{100 * total[way] / total['clips']:.1f} %" for way in ROUTES)
            lines.append(f"| {name} | {number} | {len(own)} | {total['clips']:,} | {shares} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def main(argv: list[str]) -> None:
    """Runs one comparison or all, then prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first_draw", type=int, default=0)
    parser.add_argument("--tables", action="store_true", help="run nothing, read results/ alone")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.first_draw < 0 or not args.run:
        parser.error("--seeds is a number from 1, --first_draw one from 0, and --run needs a name")
    for name in [] if args.tables else args.run:
        execute(name, seeds=args.seeds, first=args.first_draw)
    found = tables(args.run)
    if args.run == list(RUNS):  # everything
        if not args.tables:
            star_answers.main([])
        kept = RESULTS / star_answers.KEPT.name
        told = star_answers.table(read_jsonl(kept)) if kept.is_file() else "not measured\n"
        print(f"\n## Video-STaR on answers that are no classes\n\n{told}")
        print(summaries(found))
        pictures(found)


if __name__ == "__main__":
    run_entry(main)
