"""Faults planted into real rationales: what a check must find, each made from a text that the base wrote.

Input: sound rationales. Output: the same rows, one per chosen clip with a fault.
"""

import random
from collections.abc import Callable
from typing import Any

from rbft_trl.data.task import FINAL_LINE, TaskCard
from rbft_trl.evidence.verify import ECHO_WORDS, MAX_WORDS
from rbft_trl.evidence.wording import words

Sample = dict[str, Any]
AGAIN = "another sample of the clip again"
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
CITED = (
    "{said} An expert says that this clip is {gold}.",
    "According to the expert this is {gold}. {said}",
    "{said} This fits the given label.",
    "As stated, it is {gold}. {said}",
)
# Not planted, since no text can have them: `label_in_prompt` (what the row says of its prompt) and `cut` (what the
# writer says of its tokens; a text that breaks off and is not marked has no final line, `no_label`).


class Planter:
    """Makes faulty texts for one set of sound rationales.

    Args:
        sound (`list[dict]`): Labelled rows whose class attributes are true, all hinted or all blind: each have faults
            of their own.
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
            "argument from the hint": self._cited,
            "copy of the prompt": self._echo,
            "endless text": lambda _, said: self._endless(said),
            AGAIN: lambda row, _: self.card.without_final_line(self.rng.choice(self._before(row))["text"]),
        }
        if not any(row.get("shown") for row in sound):
            self.makers = {"label copied without evidence, blind": self._copied, "several names, blind": self._several}

    def plant(self, fault: str, wanted: int) -> tuple[list[Sample], set[int]]:
        """All rows, `wanted` of them faulty (fewer where clips are few), at most one per clip; and their places."""
        self.rng.seed(f"{fault}:{wanted}")
        first: dict[str, int] = {}
        may = [place for place, row in enumerate(self.sound) if fault != AGAIN or self._is_new(row)]
        for place in self.rng.sample(may, len(may)):
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

    def _cited(self, row: Sample, said: str) -> str:
        return self.rng.choice(CITED).format(said=said, gold=row["label"])

    def _echo(self, row: Sample, said: str) -> str:
        prompt = self.card.rationale_prompt(row["label"] if row.get("shown") else None, definitions=False)
        asked = prompt.partition(FINAL_LINE)[0].split()
        size = self.rng.randint(ECHO_WORDS + 2, len(asked))
        start = self.rng.randint(0, len(asked) - size)
        return f"{said} {' '.join(asked[start : start + size])}."

    def _endless(self, said: str) -> str:
        """Goes on from second to second, without a loop."""
        second = 0
        while len(words(said)) <= MAX_WORDS:
            second += 1
            x, y = self.rng.randint(0, 55), self.rng.randint(0, 55)
            said += f" At {second} s it stands {x} pixels from the left and {y} from the top."
        return said

    def _several(self, row: Sample, said: str) -> str:
        others = [name for name in self.card.names if name != row["label"]]
        chosen = self.rng.sample(others, self.rng.randint(1, len(others)))
        return "\n".join([said, *map(self.card.final_line, chosen)])

    def _before(self, row: Sample) -> list[Sample]:
        """The samples of the clip that come before this one."""
        of_clip = [other for other in self.sound if other["id"] == row["id"]]
        return of_clip[: next(i for i, other in enumerate(of_clip) if other is row)]

    def _is_new(self, row: Sample) -> bool:
        """There are samples of the clip before this one, and none says the same."""
        said = [words(self.card.without_final_line(other["text"])) for other in (*self._before(row), row)]
        return len(said) > 1 and said[-1] not in said[:-1]
