"""Where rationales pay: text of stage 1 x clips in stage 1 x parts that LoRA trains there, each against direct SFT, of
the language model and of all parts; and what labels of the same clips give, which is the other use of the work.

Stage 2 trains the language model in all cells with a text (rbft beside them is the arm as it is everywhere): at the
rate of the toy recipes it would take away from the tower what true texts have taught it (RESULTS.md).

Input: nothing, and what rbft_trl/compare.py found. Output: arms, which toy/evidence.py runs, and their table.
"""

from pathlib import Path
from typing import Any

import yaml

from rbft_trl.data.jsonl import make_folder, write_text
from rbft_trl.evidence.outcomes import Outcomes, read_outcomes
from rbft_trl.evidence.stats import compare_arms
from rbft_trl.evidence.table import p_value, percent

REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = {
    "true": {"texts": "oracle"},
    "guideline": {"texts": "oracle", "column": "guideline"},
    "blind": {"texts": "gold_line", "source": "<blind_all/rationales>"},  # most blind final lines are wrong
    "hinted": {"texts": "own", "source": "<rbft_hint/rationales>"},
    "shuffled": {"texts": "shuffled", "source": "<oracle_all/texts>", "pool": True},  # what the class alone gives
    "definition": {"texts": "definition"},  # of the class, so for labelled clips alone
}
ROLES = {"true": "oracle", "guideline": "oracle", "shuffled": "control"}
TIMES = (1, 4, 16)
PARTS = {"lm": ["llm"], "tower": ["llm", "merger", "vision"]}
OTHERS = ("rbft", "rbft_hint")
RIVALS = {"direct_lm": "against labels alone (lm)", "direct": "against labels alone (tower)"}
CELL = {"times_labels": 4}  # with the tower in stage 1: where true texts help most at 8 shots
CELL_STEPS = 204  # of stage 1 in every cell of the ladder
SEEN = ("size", "motion", "all")  # attributes that make the class of *far*, and all
Attributes = dict[str, dict[str, dict[str, float | int | None]]]  # of toy/attribute_probe.py


def write_arms(folder: Path) -> list[str]:
    """One file per cell of the ladder, and those that they refer to; returns the arms of the table."""
    make_folder(folder)
    for name in OTHERS:
        text = (REPOSITORY / f"recipes/arms/{name}.yaml").read_text(encoding="utf-8")
        write_text(folder / f"{name}.yaml", text)
    _write(folder, "oracle_all", "true texts of every clip, to be shuffled", {"texts": {"texts": "oracle"}})
    blind: dict[str, Any] = {"rationales": {"recipe": "rationales", "label_shown": "blind", "checks": "none"}}
    _write(folder, "blind_all", "what the base writes of every clip without a label in view", blind)
    names = ["rbft"]
    for parts, trained in PARTS.items():
        steps: dict[str, Any] = {"direct": {"recipe": "direct", "steps_of": "rbft", "train_parts": trained}}
        names.append("direct" if parts == "tower" else "direct_lm")
        role = None if names[-1] == "direct" else "reference"
        _write(folder, names[-1], f"no text; labels alone, LoRA on {parts}", steps, role=role)
    for text, made in TEXTS.items():
        for times in TIMES[:1] if text == "definition" else TIMES:
            for parts, trained in PARTS.items():
                stage1 = {"recipe": "stage1", "rationales": "<texts>", "train_parts": trained}
                steps = {"texts": made | {"times_labels": times}, "stage1": stage1 | {"steps_of": "rbft/stage1"}}
                steps["stage2"] = {"recipe": "stage2", "init": "<stage1>", "train_parts": ["llm"]}
                names.append(f"{text}_{times}x_{parts}")
                about = f"{text} texts, {times} x the labels, LoRA on {parts}"
                _write(folder, names[-1], about, steps, role=ROLES.get(text))
    for times in TIMES[1:]:
        for parts, trained in PARTS.items():
            last = {"recipe": "direct", "target": "rationale", "rationales": "<texts>", "train_parts": trained}
            steps = {"texts": {"texts": "labels", "times_labels": times}, "direct": last | {"steps_of": "rbft"}}
            names.append(f"labels_{times}x_{parts}")
            _write(folder, names[-1], f"no text; {times} x the labels, LoRA on {parts}", steps, role="control")
    return names


def write_rivals(folder: Path) -> list[str]:
    """At the ladder's best cell: the base's own rationales, one or four of each clip with agreement as a filter, and
    what else the same clips give for as many operations: pseudo-labels, plain captions, free temporal tasks."""
    make_folder(folder)
    last = {"recipe": "stage2", "init": "<stage1>"}
    four, agreeing = (_steps_of(name)["rationales"] for name in ("rbft_samples", "rbft_agreement"))
    captions = _steps_of("captions")["written"]
    own = {"texts": "own", "source": "<rationales>"} | CELL
    matched = {"recipe": "stage1", "rationales": "<texts>", "flops_of": "rbft/stage1"}
    first = {"recipe": "stage1", "rationales": "<texts>", "max_steps": CELL_STEPS}
    same = {"recipe": "stage1", "rationales": "<texts>", "steps_of": "rbft/stage1"}
    guideline = {"texts": "oracle", "column": "guideline"} | CELL
    pseudo: dict[str, Any] = {"teacher": {"recipe": "stage2", "init": "base"}}
    pseudo["texts"] = {"texts": "pseudo_labels", "source": "<teacher>"} | CELL
    pseudo["student"] = {"recipe": "direct", "target": "rationale", "rationales": "<texts>", "flops_of": "rbft"}
    arms: dict[str, tuple[str, dict[str, Any], str | None]] = {
        "direct": ("direct SFT on the labels", {"direct": {"recipe": "direct", "steps_of": "rbft"}}, None),
        "rbft": ("own rationales", {"rationales": {"recipe": "rationales"}, "texts": own, "stage1": first}, None),
        "oracle": ("true texts with the guideline", {"texts": guideline, "stage1": same}, "oracle"),
        "rbft_samples": ("four own rationales", {"rationales": four, "texts": own, "stage1": same}, None),
        "rbft_agreement": (
            "those of four own rationales that agree",
            {"rationales": agreeing, "texts": own, "stage1": same},
            None,
        ),
        "pseudo_labels": ("pseudo-labels", pseudo, None),
        "captions": ("plain captions", {"rationales": captions, "texts": own, "stage1": matched}, None),
        "playing_order": ("in which order?", {"texts": {"texts": "playing_order"} | CELL, "stage1": matched}, None),
        "play_count": ("how often?", {"texts": {"texts": "play_count"} | CELL, "stage1": matched}, None),
    }
    for name, (about, steps, role) in arms.items():
        _write(folder, name, about, steps | ({"stage2": last} if "stage1" in steps else {}), role=role)
    return list(arms)


def _steps_of(name: str) -> dict[str, Any]:
    """The steps of an arm as everybody copies it."""
    return yaml.safe_load((REPOSITORY / f"recipes/arms/{name}.yaml").read_text(encoding="utf-8"))["steps"]


def _write(folder: Path, name: str, about: str, steps: dict[str, Any], *, role: str | None = None) -> None:
    text = yaml.safe_dump({"about": about, "role": role, "steps": steps}, sort_keys=False)
    write_text(folder / f"{name}.yaml", text)


def table(comparison: dict[str, Any], probed: Attributes) -> str:
    """The ladder as Markdown: accuracy, the difference to direct SFT of the language model and of all parts with their
    95 % intervals (of the pair alone, in points), the larger of the two p times the number of cells (Bonferroni), and
    what the model sees.

    Args:
        comparison (`dict`): Of `read_results`.
        probed (`dict`): Of toy/attribute_probe.py: what a probe reads off the model after stage 1, where measured.
    """
    arms, pairs = comparison["arms"], differences(comparison)
    lines = [["text of stage 1", "clips there", "LoRA on", "accuracy %", *RIVALS.values(), "corrected p"]]
    lines[0] += [f"probe: {name} %" for name in SEEN]
    lines.append(["---"] * len(lines[0]))
    most = max(len(entry["draws"]) for entry in arms.values())
    if "base" in probed:
        lines.append(["the base", *[""] * 6, *_seen(probed, "base")])
    for name, entry in arms.items():
        gains = [""] * (len(RIVALS) + 1)
        if name in pairs:
            own = pairs[name].values()
            gains = [_gain(pair) for pair in own]
            gains.append(p_value(min(1.0, len(pairs) * max(pair["p"] for pair in own))))
        draws = len(entry["draws"])
        fewer = f" ({draws} draw{'s' if draws > 1 else ''})" if draws < most else ""
        lines.append([*told(name), percent(entry["summary"]["accuracy"]) + fewer, *gains, *_seen(probed, name)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def differences(comparison: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every cell against each of `RIVALS` (rbft_trl.evidence.stats.compare_arms), by arm and rival."""
    seen = _outcomes(comparison)
    return {
        name: {
            rival: compare_arms(seen[name], seen[rival], arm=name, baseline=rival, resample=False) for rival in RIVALS
        }
        for name in seen
        if name not in RIVALS
    }


def labels_against_texts(comparison: dict[str, Any]) -> str:
    """What labels of the same clips give beyond each of their texts with the tower, in points."""
    seen, lines = _outcomes(comparison), []
    for times in TIMES[1:]:
        labels, others = f"labels_{times}x_tower", [f"{text}_{times}x_tower" for text in TEXTS]
        for other in others if labels in seen else ():
            if other in seen:
                pair = compare_arms(seen[labels], seen[other], arm=labels, baseline=other, resample=False)
                lines.append(f"{labels} against {other}: {_gain(pair)}, {pair['num_draws']} draws\n")
    return "".join(lines)


def _gain(pair: dict[str, Any]) -> str:
    return "{:+.1f} ({:.1f} to {:.1f})".format(pair["difference"], *pair["interval"])


def _outcomes(comparison: dict[str, Any]) -> dict[str, Outcomes]:
    arms, clips = comparison["arms"], comparison["rungs"][-1]["clips"]
    names = next(iter(arms.values()))["draws"][0]["metrics"]["confusion"]["labels"]
    return {name: read_outcomes(entry["draws"], names, clips=clips) for name, entry in arms.items()}


def _seen(probed: Attributes, arm: str) -> list[str]:
    return [percent(probed[arm][name]) if arm in probed else "" for name in SEEN]


def told(name: str) -> tuple[str, str, str]:
    """Text, clips and parts of a cell by its name."""
    if name in RIVALS:
        return "none", "0", "lm" if name == "direct_lm" else "tower"
    if name == "rbft":
        return "blind, then hinted", "all", "tower"
    text, times, parts = name.split("_")
    return text, times, parts
