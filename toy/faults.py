"""Faults planted into real rationales: what a check must find, each made from a text that the base wrote.

Input: sound rationales. Output: the same rows, one per chosen clip with a fault.
"""

import random
from collections.abc import Callable
from typing import Any

from rbft_trl.data.task import TaskCard

Sample = dict[str, Any]
COPIED = (
    "This clip shows {gold}.",
    "The name {gold} fits this clip, so it is {gold} and nothing else.",
    "I watch the clip from start to end. It is {gold}.",
    "I watched the whole clip with care and the answer is quite clear to me.",
)
DENIED = ("{said} There are no signs of {gold}.", "{said} It is not {gold}.", "{said} Therefore this is {other}.")
REFUSALS = (
    "I'm sorry, but I can't help with this clip.",
    "As an AI language model I do not watch clips, so I take the first name.",
    "I am unable to view the clip that was given to me.",
    "No video was provided, so this is no more than a guess.",
)


class Planter:
    """Makes faulty texts for one set of sound rationales.

    Args:
        sound (`list[dict]`): Labelled rows whose class attributes are true.
        card (`TaskCard`): Their names.
        far (`dict[str, str]`): Class → a class that differs in every attribute.
        seed (`int`): Of all choices.
    """

    def __init__(self, sound: list[Sample], card: TaskCard, far: dict[str, str], *, seed: int = 0) -> None:
        self.sound, self.card, self.far, self.rng = sound, card, far, random.Random(seed)
        self.makers: dict[str, Callable[[Sample, str], str]] = {
            "label copied without evidence": self._copied,
            "opposite argument, in names": self._denied,
            "opposite argument, in attributes": lambda row, _: self._of_class(self.far[row["label"]], row),
            "rationale of a clip of another class": lambda row, _: self._of_other_class(row),
            "rationale of another clip of the class": lambda row, _: self._of_class(row["label"], row),
            "loop": self._loop,
            "refusal": lambda row, _: self.rng.choice(REFUSALS),
        }

    def plant(self, fault: str, wanted: int) -> tuple[list[Sample], set[int]]:
        """All rows, `wanted` of them faulty, at most one per clip; and the places of the faulty ones."""
        self.rng.seed(f"{fault}:{wanted}")
        first: dict[str, int] = {}
        for place in self.rng.sample(range(len(self.sound)), len(self.sound)):
            first.setdefault(self.sound[place]["id"], place)
        places = set(list(first.values())[:wanted])
        rows = []
        for place, row in enumerate(self.sound):
            if place in places:
                said = self.makers[fault](row, self.card.without_final_line(row["text"]))
                row = row | {"text": f"{said}\n{self.card.final_line(row['label'])}"}
            rows.append(row)
        return rows, places

    def _copied(self, row: Sample, _: str) -> str:
        return self.rng.choice(COPIED).format(gold=row["label"])

    def _denied(self, row: Sample, said: str) -> str:
        others = [name for name in self.card.names if name != row["label"]]
        return self.rng.choice(DENIED).format(said=said, gold=row["label"], other=self.rng.choice(others))

    def _of_class(self, label: str, row: Sample) -> str:
        texts = [other for other in self.sound if other["label"] == label and other["id"] != row["id"]]
        return self.card.without_final_line(self.rng.choice(texts)["text"])

    def _of_other_class(self, row: Sample) -> str:
        return self._of_class(self.rng.choice([name for name in self.card.names if name != row["label"]]), row)

    def _loop(self, _: Sample, said: str) -> str:
        words = said.rstrip(".").split()
        tail = words[-self.rng.randint(1, len(words)) :]
        return " ".join(words + tail * self.rng.randint(4, 8)) + "."
