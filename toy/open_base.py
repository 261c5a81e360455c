"""Teaches the toy base the *form* of open answers and to repeat a hinted one: toy/base can write no digit and no list.

The answers that it is taught are random, so it learns nothing of what a clip shows; STaR begins from there.
Input: toy/base. Output: OUT (default outputs/toy/open_base), a base as toy/base is one.
Command: python toy/open_base.py            (RESULTS.md has the time)
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rbft_trl.configs import ModelArguments
from rbft_trl.data.answers import AnswerType
from rbft_trl.data.jsonl import write_json
from rbft_trl.data.task import TaskCard
from rbft_trl.data.templates import PROMPT_FOLDER
from rbft_trl.errors import run_entry
from rbft_trl.model.loading import load_base, load_processor
from toy.corpus import QUESTIONS, ROLES, Example
from toy.pretrain import Conversations, batched_attention, patchify, save, train_language
from toy.scenes import ATTRIBUTES, SIDE
from toy.source import make_source

HERE = Path(__file__).resolve().parent
# Mostly to repeat: without dense practice hints are ignored, as in toy/corpus.py.
SHARES = {"repeat": 0.4, "hint": 0.4, "rationale": 0.1, "label": 0.05, "caption": 0.05}
FORMS = (
    AnswerType("number", absolute=0.0), AnswerType("number", absolute=0.0, unit="pixels"),
    AnswerType("time_range", iou=0.5), AnswerType("list"),
)  # fmt: skip
ASKED = ("How many?", "How far?", "When is it there?", "Which ways, one after another?", "What is the answer?")
WORDS = tuple(word for values in ATTRIBUTES.values() for word in values)
_PROMPTS = {file.stem: file.read_text(encoding="utf-8") for file in (PROMPT_FOLDER / "open").glob("*.txt")}


def random_answer(answer: AnswerType, rng: np.random.Generator) -> str:
    """Any answer of a type, whatever a clip shows."""
    if answer.type == "number":
        return str(int(rng.integers(0, 60)))
    if answer.type == "time_range":
        start, end = sorted(int(i) for i in rng.choice(10, 2, replace=False))
        return f"{start}-{end}"
    return ", ".join(map(str, rng.choice(WORDS if rng.random() < 0.5 else ATTRIBUTES["motion"], rng.integers(1, 4))))


class OpenConversations(Conversations):
    """Batches of conversations about open answers."""

    def draw(self, task: str) -> dict[str, torch.Tensor]:
        """A batch of one kind of task."""
        frames, scenes, _ = self.clips
        chosen = self.rng.integers(0, len(frames), self.batch)
        examples = [self._example(scenes[i].caption, task) for i in chosen]
        return self._tensors(examples) | {"pixel_values_videos": patchify(frames[chosen], self.processor)}

    def _example(self, caption: str, task: str) -> Example:
        rng = self.rng
        answer = FORMS[int(rng.integers(len(FORMS)))]
        aspects = list(rng.permutation(list(ATTRIBUTES)))[: int(rng.integers(1, 7))]
        question = str(rng.choice((*ASKED, *QUESTIONS)))
        card = TaskCard("form", {}, question, str(rng.choice(ROLES)), tuple(aspects), _PROMPTS, answer=answer)
        said = random_answer(answer, rng)
        if task == "repeat":
            several = "; ".join(random_answer(answer, rng) for _ in range(int(rng.integers(2, 6))))
            return Example(f"Repeat: {several}", several)
        if task == "caption":
            return Example("Describe the clip.", caption)
        if task == "label":
            return Example(card.label_prompt(), said)
        prompt = card.rationale_prompt(said if task == "hint" else None)
        return Example(prompt, f"{caption}\n{card.final_line(said)}")


def main(argv: list[str]) -> None:
    """Trains and saves the base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=HERE / "base")
    parser.add_argument("--out", type=Path, default=HERE.parent / "outputs/toy/open_base")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    processor = load_processor(str(args.base))
    model: Any = load_base(ModelArguments(model_name_or_path=str(args.base), dtype="float32"), device="cpu").train()
    for parameter in model.model.visual.parameters():  # it sees what it saw before, and no gradient is needed
        parameter.requires_grad_(False)
    batched_attention(model, patches_per_frame=(SIDE // 14) ** 2)
    talk = OpenConversations(
        model,
        processor,
        make_source(args.clips, seed=args.seed + 1, workers=1),
        args.batch,
        np.random.default_rng(args.seed),
    )
    losses = train_language(model, talk, [SHARES], steps=args.steps, rate=1.5e-3, title="forms of answers")
    save(model, processor, args.out)
    made = {key: str(value) for key, value in vars(args).items() if key != "out"}
    write_json(args.out / "made.json", made | {"losses": {key: round(value, 4) for key, value in losses.items()}})
    print(f"base in '{args.out}'")


if __name__ == "__main__":
    run_entry(main)
