"""Measures the base on real mp4 clips at several shifts and writes its card, so that no figure is written by hand.

Input: BASE (default toy/base). Output: BASE/README.md and BASE/measured.json.
Command: python toy/measure.py
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rbft_trl.configs import ModelArguments
from rbft_trl.data.jsonl import write_json, write_text
from rbft_trl.data.task import TaskCard
from rbft_trl.data.video import FrameSettings
from rbft_trl.errors import run_entry
from rbft_trl.evidence.metrics import wilson_interval
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.inference import LabelScorer, prefill, sample
from rbft_trl.model.loading import load_base, load_processor
from toy.clips import DEFAULT_SHIFT, write_clip
from toy.corpus import ASKED, CAPTION_PROMPTS, draw_card
from toy.scenes import ATTRIBUTES, FRAMES, LABELS, Scene, draw_background, draw_scene, render

SHIFTS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.65, 0.7, 1.0)
CARD = Path(__file__).resolve().parents[1] / "recipes" / "tasks" / "toy.yaml"
Share = dict[str, float | int | list[float]]


def share(right: list[bool]) -> Share:
    """A share with its number of cases and 95 % Wilson interval."""
    return {"share": sum(right) / len(right), "n": len(right), "interval": wilson_interval(sum(right), len(right))}


def parse_caption(text: str) -> dict[str, str | None]:
    """Attribute → value that the caption names (None if it names none)."""
    words = [word.strip(".,") for word in text.lower().split()]
    words = [word[:-1] if word[:-1] in ATTRIBUTES["shape"] else word for word in words]
    return {name: next((w for w in words if w in values), None) for name, values in ATTRIBUTES.items()}


class Exam:
    """Clips of one shift as real mp4 files, and the base's answers about them."""

    def __init__(self, base: Path, folder: Path, shift: float, num_clips: int) -> None:
        rng = np.random.default_rng(11)
        self.scenes: list[Scene] = []
        self.rows: list[dict[str, str]] = []
        for i in range(num_clips):
            size, motion = list(LABELS.values())[i % len(LABELS)]
            scene = draw_scene(rng, size=size, motion=motion)
            frames, _ = render(scene, draw_background(rng), rng, shift=shift)
            write_clip(folder / f"{shift}_{i}.mp4", frames)
            self.scenes.append(scene)
            self.rows.append({"id": str(i), "video": f"{shift}_{i}.mp4", "label": scene.label})
        args = ModelArguments(model_name_or_path=str(base), dtype="float32")
        self.model = load_base(args, device="cpu").eval()
        self.card = TaskCard.from_yaml(CARD)
        frames = FrameSettings(**FRAMES)
        self.collator = ClipCollator(load_processor(str(base)), self.card, folder, frames, definitions=False)

    def ask(self, prompts: list[str]) -> list[str]:
        """Greedy answers, one prompt per clip."""
        answers: list[str] = []
        for start in tqdm(range(0, len(self.rows), 64), desc="asking the base", unit="batch", leave=False):
            rows = self.rows[start : start + 64]
            read = prefill(self.model, self.collator.prompts(rows, prompts[start : start + 64]))
            tokens = sample(
                self.model,
                read,
                end_id=self.collator.end_id,
                pad_id=self.collator.tokenizer.pad_token_id,
                max_new_tokens=40,
            )
            answers += self.collator.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return answers

    def captions(self) -> dict[str, Share]:
        """Per attribute and over all: the share of captions that name the true value."""
        said = [parse_caption(text) for text in self.ask([CAPTION_PROMPTS[0]] * len(self.rows))]
        right = {
            a: [s[a] == getattr(scene, a) for s, scene in zip(said, self.scenes, strict=True)] for a in ATTRIBUTES
        }
        return {a: share(r) for a, r in right.items()} | {"all": share([x for r in right.values() for x in r])}

    def questions(self) -> Share:
        """The share of attribute questions that are answered with the true value."""
        names = [list(ATTRIBUTES)[i % len(ATTRIBUTES)] for i in range(len(self.rows))]
        said = self.ask([ASKED[name] for name in names])
        return share([s.strip() == getattr(c, n) for s, n, c in zip(said, names, self.scenes, strict=True)])

    def zero_shot(self, *, definitions: bool) -> Share:
        """Accuracy of the label scorer on the toy domain's names."""
        self.collator.definitions = definitions
        right = LabelScorer(self.collator).right(self.model, self.rows, batch_size=64)
        return share([verdict for _, verdict in right])

    def known_names(self) -> Share:
        """The share of label prompts over names with a fixed meaning that are answered with the right one."""
        rng = np.random.default_rng(6)
        drawn = [draw_card(rng, scene, known=True) for scene in self.scenes]
        said = self.ask([card.label_prompt(definitions=False) for card, _ in drawn])
        right = [text.strip() == name for text, (_, name) in zip(said, drawn, strict=True)]
        return share(right) | {"chance": sum(1 / len(card.names) for card, _ in drawn) / len(drawn)}

    def final_lines(self) -> dict[str, Share]:
        """Unseen lists of names: does the last line name one of them, and does it repeat a hinted one?"""
        rng = np.random.default_rng(5)
        drawn = [draw_card(rng, scene) for scene in self.scenes]
        hints = [str(rng.choice(card.names)) for card, _ in drawn]
        flags = [bool(i % 2) for i in range(len(drawn))]
        blind = self.ask([c.rationale_prompt(definitions=f) for (c, _), f in zip(drawn, flags, strict=True)])
        hinted = self.ask(
            [c.rationale_prompt(h, definitions=f) for (c, _), h, f in zip(drawn, hints, flags, strict=True)]
        )
        said = [c.parse_label(t, require_prefix=True) for (c, _), t in zip(drawn, blind, strict=True)]
        repeated = [c.parse_label(t, require_prefix=True) for (c, _), t in zip(drawn, hinted, strict=True)]
        looked_up = [s == right for s, (_, right), f in zip(said, drawn, flags, strict=True) if f]
        chance = [1 / len(card.names) for (card, _), f in zip(drawn, flags, strict=True) if f]
        return {
            "names one class of an unseen list": share([s is not None for s in said[::2]]),
            "the same, with definitions": share([s is not None for s in said[1::2]]),
            "repeats a hinted name": share([r == h for r, h in zip(repeated, hints, strict=True)]),
            "looks the class up by its definition": share(looked_up) | {"chance": sum(chance) / len(chance)},
        }


def main(argv: list[str]) -> None:
    """Measures and writes the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=Path(__file__).parent / "base")
    parser.add_argument("--clips", type=int, default=320, help="clips per shift")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    measured: dict[str, Any] = {"shifts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for shift in SHIFTS:
            exam = Exam(args.base, Path(folder), shift, args.clips)
            entry: dict[str, Any] = {"captions": exam.captions(), "zero_shot": exam.zero_shot(definitions=False)}
            entry["zero_shot_definitions"] = exam.zero_shot(definitions=True)
            if shift in (0.0, DEFAULT_SHIFT):
                entry |= {"questions": exam.questions(), "format": exam.final_lines()}
                entry["format"]["names the class by a name it knows"] = exam.known_names()
            measured["shifts"][str(shift)] = entry
            print(f"shift {shift}: attributes {entry['captions']['all']['share']:.3f}", flush=True)
    write_json(args.base / "measured.json", measured)
    made = json.loads((args.base / "made.json").read_text())
    size = sum(file.stat().st_size for file in args.base.iterdir() if file.name not in ("README.md", "measured.json"))
    write_text(args.base / "README.md", card_text(measured, made, size))
    print(f"card written to '{args.base / 'README.md'}'")


def card_text(measured: dict[str, Any], made: dict[str, Any], size: int) -> str:
    """The card in Markdown, every figure from `measured` and `made`."""

    def cell(entry: Share) -> str:
        low, high = entry["interval"]
        return f"{100 * entry['share']:.1f} ({100 * low:.0f}-{100 * high:.0f})"

    n = measured["shifts"]["0.0"]["zero_shot"]["n"]
    lines = [
        "# The small base of the toy domain",
        "",
        f"A Qwen2-VL of {made['parameters']:,} parameters ({size / 1e6:.1f} MB with processor and tokenizer), trained",
        "from random weights on synthetic clips in their source look. It describes such clips and follows the formats",
        "of the package's prompts. It knows 60 made-up names of pairs of attributes, and nothing of the toy domain's.",
        "",
        f"Made by `python toy/pretrain.py --setting {made['setting']} --seed {made['seed']}` in {made['seconds']} s",
        f"with {made['torch_threads']} threads; measured by `python toy/measure.py`,",
        f"{n} real mp4 clips per shift; % right (95 % Wilson interval). Chance of the zero-shot columns: 12.5.",
        "",
        "| shift | " + " | ".join([*ATTRIBUTES, "all attributes"]) + " | zero-shot | with definitions |",
        "|---" * (len(ATTRIBUTES) + 4) + "|",
    ]
    for shift, entry in measured["shifts"].items():
        cells = [cell(entry["captions"][name]) for name in [*ATTRIBUTES, "all"]]
        cells += [cell(entry["zero_shot"]), cell(entry["zero_shot_definitions"])]
        lines.append(f"| {shift} | " + " | ".join(cells) + " |")
    lines += ["", f"| ability | shift 0 | shift {DEFAULT_SHIFT} (the demo's) |", "|---|---|---|"]
    both = [measured["shifts"]["0.0"], measured["shifts"][str(DEFAULT_SHIFT)]]
    lines.append("| answers an attribute question | " + " | ".join(cell(e["questions"]) for e in both) + " |")
    for name in both[0]["format"]:
        chance = both[0]["format"][name].get("chance")
        title = name if chance is None else f"{name} (chance {100 * chance:.1f})"
        lines.append(f"| {title} | " + " | ".join(cell(e["format"][name]) for e in both) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_entry(main)
