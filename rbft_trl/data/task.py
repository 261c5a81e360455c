"""The task card: class names with definitions or the type of an open answer, prompts, where the data is, the parser.

Input: a YAML file such as recipes/tasks/copy_me.yaml. The card travels with every checkpoint (`TaskCard.save`),
so training, evaluation and prediction ask the same question in the same words.
"""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import yaml

from rbft_trl.data.answers import CLASSES, AnswerType, read_answer_type
from rbft_trl.data.checklist import Question, read_checklist
from rbft_trl.data.source import DataSource, read_source
from rbft_trl.data.templates import CLIP_PLACE, read_prompts
from rbft_trl.errors import UserError
from rbft_trl.yaml_file import check_keys, read_mapping

FINAL_LINE = "Classification:"
TEXT_LINE = "Text that came with the clip:"
OPEN_FINAL_LINE = "Answer:"
EMPHASIS = "\\s*_`\"'"  # as in **Classification**: left
CONCLUSION = re.compile(rf"[#>{EMPHASIS}-]*classification[{EMPHASIS}]*[:\uff1a]", re.IGNORECASE)
OPEN_CONCLUSION = re.compile(rf"[#>{EMPHASIS}-]*answer[{EMPHASIS}]*[:\uff1a]", re.IGNORECASE)
CARD_FILE = "task_card.yaml"
SPECIAL_TOKEN = re.compile(rf"<\|.*?\|>|{CLIP_PLACE}")


@dataclass(frozen=True)
class TaskCard:
    """One classification task: labels with definitions, the words of the prompts, and where its data is.

    Args:
        name (`str`): Short name, used in file names and reports.
        labels (`dict[str, str]`): Class name → one-sentence definition; the order is the order in the prompt. Empty
            where the answer is open.
        question (`str`): The question of the label prompt.
        role (`str`): First sentence of the rationale prompt.
        aspects (`tuple[str, ...]`): What a rationale should look at.
        prompts (`dict[str, str]`): Template texts by name (`label`, `rationale`, `hint`, `checklist`).
        data (`DataSource`, *optional*): Where the clips are; a card that travels with a checkpoint has none.
        path (`Path`, *optional*): The file that the card was read from, for messages.
        answer (`AnswerType`, *optional*): The type of the answers; a class if left out.
        checklist (`tuple[Question, ...]`, *optional*): Questions that stage 0 can have answered instead of a text.
    """

    name: str
    labels: dict[str, str]
    question: str
    role: str
    aspects: tuple[str, ...]
    prompts: dict[str, str] = field(repr=False)
    data: DataSource | None = None
    path: Path | None = None
    answer: AnswerType = CLASSES
    checklist: tuple[Question, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether the answers are numbers, times, ranges or lists instead of one of the classes."""
        return self.answer.is_open

    @property
    def names(self) -> list[str]:
        """The class names in the order of the card; every score vector has this order."""
        return list(self.labels)

    @classmethod
    def from_yaml(cls, path: str | Path, *, with_data: bool = True) -> "TaskCard":
        """Reads and checks a card.

        Args:
            path (`str`): The file.
            with_data (`bool`, *optional*, defaults to `True`): Whether its `data` are wanted; a dataset on the Hub is
                fetched then, which no classifier needs.

        Raises:
            UserError: if a key is unknown or missing, or a label cannot be told from another.
        """
        path = Path(path)
        raw = read_mapping(path, what="task card", example="recipes/tasks/copy_me.yaml is the one to copy")
        known = {"name", "labels", "question", "role", "aspects", "prompts", "data", "checklist", "answer"}
        check_keys(raw, known, path, "the card")
        answer = read_answer_type(raw.get("answer"), path)
        if answer.is_open and "labels" in raw:
            raise UserError(f"{path}: 'labels' lists classes but answer.type is {answer.type}; leave one of them out")
        for key in ("name", "labels", "question", "role", "aspects"):
            if not raw.get(key) and not (key == "labels" and answer.is_open):
                raise UserError(f"{path}: '{key}' is missing; recipes/tasks/copy_me.yaml shows what it is for")
            if key in ("name", "question", "role") and not isinstance(raw[key], str):
                raise UserError(f"{path}: '{key}' is {raw[key]!r} but must be text")
        if not isinstance(raw["aspects"], list):
            raise UserError(f"{path}: 'aspects' is {raw['aspects']!r} but must be a list of short phrases")
        for key, text in [
            ("question", raw["question"]),
            ("role", raw["role"]),
            *(("aspects", a) for a in raw["aspects"]),
        ]:
            if not isinstance(text, str) or SPECIAL_TOKEN.search(text):
                raise UserError(f"{path}: '{key}' holds {text!r} but must be text without special tokens; use quotes")
        labels = {} if answer.is_open else _check_labels(raw["labels"], path)
        return cls(
            name=raw["name"],
            labels=labels,
            question=raw["question"].strip(),
            role=raw["role"].strip(),
            aspects=tuple(raw["aspects"]),
            prompts=read_prompts(raw.get("prompts"), path, is_open=answer.is_open),
            data=read_source(raw["data"], path) if with_data and raw.get("data") else None,
            path=path,
            answer=answer,
            checklist=read_checklist(raw["checklist"], path, list(labels)) if "checklist" in raw else (),
        )

    def save(self, folder: str | Path) -> None:
        """Writes the card and its prompts into `folder`, without the place of the data (a local path)."""
        folder = Path(folder)
        (folder / "prompts").mkdir(parents=True, exist_ok=True)
        for name, text in self.prompts.items():
            (folder / "prompts" / f"{name}.txt").write_text(text, encoding="utf-8")
        what = {"answer": self.answer.to_dict()} if self.is_open else {"labels": self.labels}
        raw = {"name": self.name, **what, "question": self.question, "role": self.role}
        raw |= {"aspects": list(self.aspects), "prompts": "prompts"}
        raw |= {"checklist": [question.to_yaml() for question in self.checklist]} if self.checklist else {}
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
        (folder / CARD_FILE).write_text(text, encoding="utf-8")

    def fingerprint(self) -> str:
        """Twelve hex digits over everything that a model sees of the card (the checklist apart: only stage 0 does)."""
        seen = [list(self.labels.items()), self.question, self.role, self.aspects, sorted(self._asked().items())]
        seen += [self.answer.to_dict()] if self.is_open else []
        return fingerprint(json.dumps(seen, ensure_ascii=False))

    def differs_beside_labels(self, other: "TaskCard") -> str | None:
        """What a model sees of this card and sees otherwise of another one, its labels apart; None if nothing."""
        for key, what in (("question", "question"), ("role", "role"), ("aspects", "list of aspects")):
            if getattr(self, key) != getattr(other, key):
                return what
        return None if self._asked() == other._asked() else "wording of the prompts"

    def _asked(self) -> dict[str, str]:
        return {name: text for name, text in self.prompts.items() if name != "checklist"}

    def blind_fingerprints(self) -> set[str]:
        """Of the prompts that ask for a rationale without showing the label, with and without definitions."""
        return {fingerprint(self.rationale_prompt(definitions=definitions)) for definitions in (True, False)}

    def label_prompt(self, *, definitions: bool = True, text: str | None = None) -> str:
        """The prompt of stage 2, direct SFT, scoring and prediction; its answer is the bare class name.

        `text` came with the clip (a title, a transcript) and follows the question.
        """
        return self._fill("label", text, **self._choices(definitions))

    def rationale_prompt(self, hint: str | None = None, *, definitions: bool = True, text: str | None = None) -> str:
        """The prompt of stage 0 and stage 1; `hint` is the label to show, if any, `text` as in `label_prompt`."""
        shown = self._fill("hint", label=hint).rstrip() if hint is not None else ""
        if hint is not None and not shown.startswith((" ", "\n")):
            shown = " " + shown
        return self._fill("rationale", text, hint=shown, **self._choices(definitions))

    def checklist_prompts(self) -> list[str]:
        """One prompt per question of the checklist."""
        return [
            self._fill("checklist", item=question.text, answers=", ".join(question.answers))
            for question in self.checklist
        ]

    def checklist_fingerprint(self) -> str:
        """Twelve hex digits over the questions as they are asked and their answers."""
        answers = [list(question.answers) for question in self.checklist]
        return fingerprint(json.dumps([self.checklist_prompts(), answers], ensure_ascii=False))

    def final_line(self, label: str) -> str:
        """The last line of a rationale that concludes `label`."""
        return f"{OPEN_FINAL_LINE if self.is_open else FINAL_LINE} {label}"

    def parse_label(self, text: str, *, require_prefix: bool = False) -> str | None:
        """The ONE label parser: the class that the last line of `text` names (or its open answer), or None.

        The last non-empty line, without `Classification:`, quotes, emphasis and the closing full stop, must equal
        exactly one class name (case and spacing aside). "cat or dog", "not cat" and unknown names give None, and so
        do lines with `Classification:` that do not all name one class: an enumeration ends in the right one too.
        A last line without `Classification:` must be the only one, as an enumeration may have one name per line.

        Args:
            text (`str`): What a model wrote.
            require_prefix (`bool`, *optional*, defaults to `False`): Whether `Classification:` must stand there, as
                it must in a rationale.
        """
        return self._read(text, require_prefix=require_prefix)[0]

    def unread(self, text: str, *, require_prefix: bool = True) -> str | None:
        """Why `parse_label` finds nothing in `text`, or None: `no_label`, `several` (final lines that disagree, lines
        before a bare answer), or of an open answer a code of `AnswerType.read`."""
        return self._read(text, require_prefix=require_prefix)[1]

    def objection(self, text: str, gold: str, *, require_prefix: bool = True) -> str | None:
        """Why `text` does not conclude `gold`, or None. The ONE verifier, of rationales and of greedy answers: a class
        must be the gold one (`wrong_label`), an open answer near it (the codes of `AnswerType.objection`)."""
        said, reason = self._read(text, require_prefix=require_prefix)
        if said is None:
            return reason
        return self.answer.objection(said, gold) if self.is_open else None if said == gold else "wrong_label"

    def _read(self, text: str, *, require_prefix: bool) -> tuple[str | None, str | None]:
        """`(label, None)` or `(None, reason)`; what the parser and the verifier say rests on this alone."""
        return (self._open_answer if self.is_open else self._class)(text, require_prefix=require_prefix)

    def _class(self, text: str, *, require_prefix: bool) -> tuple[str | None, str | None]:
        """`(name, reason)` of the last line. A `Classification:` before it counts wherever in a line it stands, as in
        `without_final_line`."""
        lines = [line for line in unicodedata.normalize("NFKC", text).splitlines() if line.strip()]
        lines = [line.strip().strip("*_`\"' ") for line in lines]
        prefix = CONCLUSION.match(lines[-1]) if lines else None
        has_prefix = prefix is not None
        if not lines or (require_prefix and not has_prefix):
            return None, "no_label"
        by_name = {normalise(name): name for name in self.labels}
        last = by_name.get(normalise(lines[-1][prefix.end() :] if prefix else lines[-1]))
        if last is None:
            return None, "no_label"
        before = [CONCLUSION.split(normalise(line), maxsplit=1)[1:] for line in lines[:-1]]
        said = {by_name.get(normalise(rest)) for found in before for rest in found}
        return (None, "several") if said - {last} or (before and not has_prefix) else (last, None)

    def _open_answer(self, text: str, *, require_prefix: bool) -> tuple[str | None, str | None]:
        """`(value, reason)` of the last line. An `Answer:` before it that says otherwise makes an enumeration,
        wherever in a line it stands."""
        lines = [line.strip("*_`\"' ") for line in text.splitlines() if line.strip()]
        has_prefix = bool(lines) and OPEN_CONCLUSION.match(lines[-1]) is not None
        if not lines or (require_prefix and not has_prefix):
            return None, "no_label"
        last = self.answer.read(OPEN_CONCLUSION.sub("", lines[-1], count=1))
        before = [OPEN_CONCLUSION.split(line, maxsplit=1)[1:] for line in lines[:-1]]
        said = {self.answer.read(rest) for found in before for rest in found}
        return (None, "several") if said - {last} or (last[0] and before and not has_prefix) else last

    def without_final_line(self, text: str) -> str:
        """`text` up to its first `Classification:`; clips without a label are trained on that part alone.

        Everything from there on goes, wherever in a line it stands: a model may repeat the line or chat on after it.
        """
        found = (OPEN_CONCLUSION if self.is_open else CONCLUSION).search(text)
        return (text[: found.start()] if found else text).rstrip()

    def reasoning(self, text: str) -> str:
        """The rationale in what a model wrote, for people: empty if there is no more than a class name."""
        said = self.without_final_line(text).strip()
        return "" if "\n" not in said and self.parse_label(said) else said

    def _choices(self, definitions: bool) -> dict[str, str]:
        if self.is_open:
            return {"form": self.answer.form}
        if definitions:
            return {"labels": "\n".join(f"- {name}: {meaning}" for name, meaning in self.labels.items())}
        return {"labels": "Names: " + ", ".join(self.labels)}

    def _fill(self, name: str, text: str | None = None, **values: str) -> str:
        question = self.question if text is None else f"{self.question}\n{TEXT_LINE} {text.replace(CLIP_PLACE, ' ')}"
        known = {"question": question, "role": self.role, "aspects": ", ".join(self.aspects), "video": CLIP_PLACE}
        return Template(self.prompts[name]).substitute(known | values).rstrip("\n")


def fingerprint(text: str) -> str:
    """Twelve hex digits that stand for a text in records."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def normalise(name: str) -> str:
    """A class name as it is compared: NFKC, lower case, single spaces, no quotes, emphasis or closing stop."""
    text = unicodedata.normalize("NFKC", str(name)).casefold()
    return re.sub(r"\s+", " ", text).strip(" *_`\"'.")


def _check_labels(raw: object, path: Path) -> dict[str, str]:
    if not isinstance(raw, dict) or len(raw) < 2:
        raise UserError(f"{path}: 'labels' must map at least two class names to one-sentence definitions")
    seen: dict[str, str] = {}
    for name, meaning in raw.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: label {name!r} was read as {type(name).__name__}; write it in quotes")
        if not isinstance(meaning, str) or not meaning.strip():
            raise UserError(f"{path}: label '{name}' has no definition; write one sentence that says what it means")
        if len(name.splitlines()) > 1 or not normalise(name) or SPECIAL_TOKEN.search(name + meaning):
            raise UserError(f"{path}: label {name!r} is empty or holds a line break or a special token; rename it")
        if name != name.strip() or normalise(name).startswith(FINAL_LINE.casefold()):
            raise UserError(f"{path}: label {name!r} begins or ends with a space or with '{FINAL_LINE}'; rename it")
        if normalise(name) in seen:
            raise UserError(f"{path}: labels '{seen[normalise(name)]}' and '{name}' differ only in case or spacing")
        seen[normalise(name)] = name
    return {name: " ".join(meaning.split()) for name, meaning in raw.items()}
