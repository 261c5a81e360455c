"""The checklist of a task card: questions with a few possible answers, each of which may speak for some labels.

Input: the `checklist` part of a card. Output: `Question`s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbft_trl.errors import UserError, nearest

YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Question:
    """One question of the checklist.

    Args:
        text (`str`): The question as it is asked.
        answers (`dict[str, tuple[str, ...]]`): Possible answer → labels that it speaks for, if any.
    """

    text: str
    answers: dict[str, tuple[str, ...]]

    def expected(self, label: str) -> set[str]:
        """The answers that fit a label; empty if the question says nothing of it."""
        return {answer for answer, labels in self.answers.items() if label in labels}

    def line(self, answer: str) -> str:
        """The line of a rationale that answers the question."""
        return f"{self.text} {answer}."

    def to_yaml(self) -> dict[str, Any]:
        """As it stands in a card."""
        return {"question": self.text, "answers": {answer: list(labels) for answer, labels in self.answers.items()}}


def read_checklist(raw: object, path: Path, names: Sequence[str]) -> tuple[Question, ...]:
    """Reads and checks the `checklist` of a card.

    Args:
        raw (`object`): A list. An entry is a question that is answered with yes or no, or a mapping with `question`
            and the answers: `answers: [small, large]`, or `answers: {small: [label, ...], large: [label, ...]}`, or
            for yes and no simply `yes: [label, ...]` and `no: [label, ...]`.
        path (`Path`): The card, for messages.
        names (`Sequence[str]`): Its labels.

    Raises:
        UserError: naming the entry and the way out.
    """
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{path}: 'checklist' must be a list of questions; recipes/tasks/copy_me.yaml shows one")
    questions = [
        _read_question(entry, f"{path}: question {number} of 'checklist'", names)
        for number, entry in enumerate(raw, 1)
    ]
    texts = [question.text for question in questions]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise UserError(f"{path}: the question '{twice}' stands in 'checklist' twice; remove one")
    return tuple(questions)


def _read_question(raw: object, place: str, names: Sequence[str]) -> Question:
    if isinstance(raw, str):
        raw = {"question": raw}
    if not isinstance(raw, dict):
        raise UserError(f"{place} is {raw!r}; write the question in quotes, or 'question:' and 'answers:'")
    # YAML reads an unquoted yes or no as a truth value
    raw = {YES_NO[0] if key is True else YES_NO[1] if key is False else key: value for key, value in raw.items()}
    for key in raw:
        if key not in ("question", "answers", *YES_NO):
            raise UserError(
                f"{place}: unknown key '{key}'{nearest(key, ['question', 'answers'])}; use question, answers, yes, no"
            )
    text = raw.get("question")
    if not isinstance(text, str) or not text.strip() or len(text.splitlines()) > 1:
        raise UserError(f"{place}: 'question' is {text!r} but must be one line of text; if it holds ': ', quote it")
    tied = {key: raw[key] for key in YES_NO if key in raw}
    if tied and "answers" in raw:
        raise UserError(f"{place}: 'answers' stands beside yes or no; keep one of them")
    answers = _answers(raw.get("answers", dict.fromkeys(YES_NO) | tied), place)
    for answer, labels in answers.items():
        for label in labels:
            if label not in names:
                raise UserError(
                    f"{place}: answer '{answer}' speaks for '{label}', which is no label{nearest(label, names)}"
                )
    return Question(" ".join(text.split()), answers)


def _answers(raw: object, place: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, list | dict) or len(raw) < 2:
        raise UserError(f"{place}: 'answers' is {raw!r} but must name two answers at least")
    answers: dict[str, tuple[str, ...]] = {}
    for answer, labels in raw.items() if isinstance(raw, dict) else ((answer, None) for answer in raw):
        said = {True: "yes", False: "no"}.get(answer, answer) if isinstance(answer, bool) else answer
        if not isinstance(said, str) or not said.strip() or len(said.splitlines()) > 1:
            raise UserError(f"{place}: the answer {answer!r} is no text; write it in quotes")
        if said.strip() in answers:
            raise UserError(f"{place}: an answer stands twice in {list(raw)}; remove one")
        labels = [labels] if isinstance(labels, str) else labels if labels is not None else []
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(
                f"{place}: answer '{said}' holds {labels!r} but must list labels; put yes, no and numbers in quotes"
            )
        answers[said.strip()] = tuple(labels)
    return answers
