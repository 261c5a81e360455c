"""What the base is pretrained to say: captions, answers, rationales with a final line, labels, repeated hints.

Prompts are built with the package's own TaskCard, with made-up names, so that any list of names works later.
"""

from dataclasses import dataclass

import numpy as np

from rbft_trl.data.task import PROMPT_FILES, PROMPT_FOLDER, TaskCard
from toy.scenes import ATTRIBUTES, LABELS, Scene

SYLLABLES = "dor van mi lo ren ta ker zu pim gal so fi bek nu lar wo tis hem ja pel ri cad mu yo".split()  # noqa: SIM905
QUESTIONS = ("Which name fits this clip?", "Which of these is shown?", "What kind of event is in this clip?")
ROLES = ("You watch a short clip.", "You are a careful observer.", "You look at one clip.")
ASKED = {
    "count": "How many things are there?",
    "size": "Are they small or large?",
    "colour": "What colour?",
    "shape": "Which shape?",
    "motion": "Which way do they move?",
    "speed": "Do they move slowly or quickly?",
}
CAPTION_PROMPTS = ("Describe the clip.", "What do you see?")
TASKS = ("caption", "question", "repeat", "rationale", "hint", "label")
_PROMPTS = {name: (PROMPT_FOLDER / f"{name}.txt").read_text(encoding="utf-8") for name in PROMPT_FILES}


@dataclass(frozen=True)
class Example:
    """One conversation about one clip; `hidden` clips are degraded, so that only the hint tells the label."""

    prompt: str
    answer: str
    hidden: bool = False


def draw_name(rng: np.random.Generator) -> str:
    """A made-up word of two or three syllables that is none of the toy domain's class names."""
    while True:
        name = "".join(rng.choice(SYLLABLES, int(rng.integers(2, 4))))
        if name not in LABELS:
            return name


def draw_card(rng: np.random.Generator, scene: Scene) -> tuple[TaskCard, str]:
    """A random task card, and the name whose definition fits `scene` (exactly one does)."""
    pair = list(rng.choice(list(ATTRIBUTES), int(rng.integers(1, 3)), replace=False))
    if rng.random() < 0.5:
        pair = ["size", "motion"]
    values = [tuple(getattr(scene, a) for a in pair)]
    every = [()]
    for attribute in pair:
        every = [(*v, value) for v in every for value in ATTRIBUTES[attribute]]
    others = [v for v in every if v != values[0]]
    picked = rng.permutation(len(others))[: int(rng.integers(1, 8))]
    values += [others[i] for i in picked]
    names: list[str] = []
    while len(names) < len(values):
        name = draw_name(rng)
        names += [] if name in names else [name]
    right = names[0]
    labels = {names[i]: define(pair, values[i]) for i in rng.permutation(len(values))}
    aspects = list(rng.permutation(list(ATTRIBUTES)))
    aspects = list(ATTRIBUTES) if rng.random() < 0.5 else aspects[: int(rng.integers(1, 7))]
    question, role = str(rng.choice(QUESTIONS)), str(rng.choice(ROLES))
    return TaskCard("pretraining", labels, question, role, tuple(aspects), _PROMPTS), right


def define(attributes: list[str], values: tuple[str, ...]) -> str:
    """A definition such as "something small moving left"."""
    said = dict(zip(attributes, values, strict=True))
    words = [said.pop(a) for a in ("count", "size", "colour", "shape") if a in said]
    if "motion" in said or "speed" in said:
        words += ["moving", *[said[a] for a in ("motion", "speed") if a in said]]
    return " ".join(["something", *words])


def draw_example(rng: np.random.Generator, scene: Scene, task: str) -> Example:
    """One example of a kind of task for a scene."""
    if task == "caption":
        return Example(str(rng.choice(CAPTION_PROMPTS)), scene.caption)
    if task == "question":
        attribute = str(rng.choice(list(ATTRIBUTES)))
        return Example(ASKED[attribute], getattr(scene, attribute))
    if task == "repeat":  # dense practice in copying made-up names, without which hints are ignored
        names = ", ".join(draw_name(rng) for _ in range(int(rng.integers(2, 7))))
        return Example(f"Repeat: {names}", names)
    card, right = draw_card(rng, scene)
    definitions = bool(rng.random() < 0.5)
    name = right if definitions else str(rng.choice(card.names))
    if task == "label":
        return Example(card.label_prompt(definitions=definitions), name)
    if task == "rationale":
        return Example(card.rationale_prompt(definitions=definitions), f"{scene.caption}\n{card.final_line(name)}")
    hidden = bool(rng.random() < 0.3)
    name = str(rng.choice(card.names))  # the expert may say anything: only the hint tells the name
    prompt = card.rationale_prompt(name, definitions=definitions)
    return Example(prompt, f"{scene.caption}\n{card.final_line(name)}", hidden)
