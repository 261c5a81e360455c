"""What the base is pretrained to say: captions, answers, rationales with a final line, labels, repeated hints.

Prompts are built with the package's own TaskCard and made-up names of three kinds, so that any list works later:
- *known* names always mean the same pair of attributes, as common words do for a large model;
- *defined* names are new in every example and their definitions stand in the prompt: the answer is the name that fits,
  and in the last phase the first of the list, since finding it was not learned and what came was no name at all;
- *unknown* names are new and unexplained: the answer is the first of the list, so one of them is always copied.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from rbft_trl.data.task import TaskCard
from rbft_trl.data.templates import PROMPT_FILES, PROMPT_FOLDER
from toy.scenes import ATTRIBUTES, LABELS, Scene

# The pairs of attributes that known names speak of.
KNOWN_PAIRS = (
    ("size", "motion"), ("colour", "shape"), ("count", "motion"), ("shape", "speed"), ("size", "colour"),
    ("count", "speed"), ("motion", "speed"),
)  # fmt: skip
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
TASKS = ("caption", "question", "repeat", "match", "rationale", "hint", "label")
# How often names are known, defined or unknown.
NAME_SHARES = {"label": (0.75, 0.25, 0.0), "rationale": (0.35, 0.3, 0.35), "hint": (0.1, 0.4, 0.5)}
_PROMPTS = {name: (PROMPT_FOLDER / f"{name}.txt").read_text(encoding="utf-8") for name in PROMPT_FILES}


@dataclass(frozen=True)
class Example:
    """One conversation about one clip; `hidden` clips are degraded, so that only the hint tells the label."""

    prompt: str
    answer: str
    hidden: bool = False


def known_names() -> dict[tuple[str, ...], dict[tuple[str, ...], str]]:
    """Pair of attributes → pair of values → the name that always means it."""
    rng, taken, known = np.random.default_rng(2511), set[str](), {}
    for pair in KNOWN_PAIRS:
        known[pair] = {}
        for values in product(*(ATTRIBUTES[attribute] for attribute in pair)):
            name = next(n for n in iter(partial(_syllables, rng), "") if n not in taken and n not in LABELS)
            taken.add(name)
            known[pair][values] = name
    return known


def _syllables(rng: np.random.Generator) -> str:
    return "".join(rng.choice(SYLLABLES, int(rng.integers(2, 4))))


KNOWN = known_names()
RESERVED = set(LABELS) | {name for names in KNOWN.values() for name in names.values()}


def draw_name(rng: np.random.Generator) -> str:
    """A made-up word of two or three syllables: no class name of the toy domain and no known name."""
    return next(name for name in iter(partial(_syllables, rng), "") if name not in RESERVED)


def draw_card(rng: np.random.Generator, scene: Scene, *, known: bool = False) -> tuple[TaskCard, str]:
    """A random task card of 2 to 8 names, and the name that fits `scene` (exactly one does)."""
    if known:
        pair = KNOWN_PAIRS[int(rng.integers(len(KNOWN_PAIRS)))]
    else:
        drawn = rng.choice(list(ATTRIBUTES), int(rng.integers(1, 3)), replace=False)
        pair = ("size", "motion") if rng.random() < 0.5 else tuple(map(str, drawn))
    true = tuple(getattr(scene, attribute) for attribute in pair)
    others = [values for values in product(*(ATTRIBUTES[attribute] for attribute in pair)) if values != true]
    values = [true, *(others[i] for i in rng.permutation(len(others))[: int(rng.integers(1, 8))])]
    names = [KNOWN[pair][v] for v in values] if known else []
    while len(names) < len(values):
        name = draw_name(rng)
        names += [] if name in names else [name]
    labels = {names[i]: define(pair, values[i]) for i in rng.permutation(len(values))}
    aspects = list(rng.permutation(list(ATTRIBUTES)))
    aspects = list(ATTRIBUTES) if rng.random() < 0.5 else aspects[: int(rng.integers(1, 7))]
    question, role = str(rng.choice(QUESTIONS)), str(rng.choice(ROLES))
    return TaskCard("pretraining", labels, question, role, tuple(aspects), _PROMPTS), names[0]


def define(attributes: tuple[str, ...], values: tuple[str, ...]) -> str:
    """A definition such as "something small moving left"."""
    said = dict(zip(attributes, values, strict=True))
    words = [said.pop(a) for a in ("count", "size", "colour", "shape") if a in said]
    if "motion" in said or "speed" in said:
        words += ["moving", *[said[a] for a in ("motion", "speed") if a in said]]
    return " ".join(["something", *words])


def draw_example(rng: np.random.Generator, scene: Scene, task: str, *, first_name: bool = False) -> Example:
    """One example of a kind of task; with `first_name` a list with definitions too is answered with its first name."""
    if task == "caption":
        return Example(str(rng.choice(CAPTION_PROMPTS)), scene.caption)
    if task == "question":
        attribute = str(rng.choice(list(ATTRIBUTES)))
        return Example(ASKED[attribute], getattr(scene, attribute))
    if task == "repeat":  # dense practice in copying made-up names, without which hints are ignored
        names = ", ".join(draw_name(rng) for _ in range(int(rng.integers(2, 7))))
        return Example(f"Repeat: {names}", names)
    if task == "match":  # dense practice in finding the name that a definition stands behind
        card, _ = draw_card(rng, scene)
        asked = list(rng.permutation(card.names))
        block = "\n".join(f"- {name}: {meaning}" for name, meaning in card.labels.items())
        wanted = "; ".join(card.labels[name] for name in asked)
        return Example(f"{block}\nName each: {wanted}", ", ".join(asked))
    kind = str(rng.choice(("known", "defined", "unknown"), p=NAME_SHARES[task]))
    definitions = kind == "defined"
    card, right = draw_card(rng, scene, known=kind == "known")
    name = card.names[0] if kind == "unknown" or (definitions and first_name) else right
    if task == "label":
        return Example(card.label_prompt(definitions=definitions), name)
    if task == "rationale":
        return Example(card.rationale_prompt(definitions=definitions), f"{scene.caption}\n{card.final_line(name)}")
    hidden = bool(rng.random() < 0.3)
    name = str(rng.choice(card.names))  # the expert may say anything: only the hint tells the name
    prompt = card.rationale_prompt(name, definitions=definitions)
    return Example(prompt, f"{scene.caption}\n{card.final_line(name)}", hidden)
