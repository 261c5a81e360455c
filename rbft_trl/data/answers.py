"""Open answers: a number, a time, a range of time or an ordered list, read strictly and compared with the gold one.

Input: the `answer` part of a task card, what a model wrote. Output: a value in one spelling, or a reason code.

The whole of an answer must be the value: "not 3", "2 or 3", "about 3" and "3 apples" are objections, never a 3.
Video-STaR (arXiv 2407.06189) looks for the label anywhere in the text, which every one of these passes.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rbft_trl.errors import UserError, nearest
from rbft_trl.yaml_file import check_keys

TOLERANCES = {
    "class": (), "number": ("absolute", "relative"), "time": ("absolute",), "time_range": ("iou",), "list": (),
}  # fmt: skip
SMALLEST, LARGEST = 1e-99, 1e99  # numbers in between, and 0, are spelled so that they read as themselves
ROUNDING = 1e-9  # 0.33 is within 10 % of 0.3, whatever binary fractions say
UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()  # noqa: SIM905
WORDS = {word: n for n, word in enumerate([*UNITS, "seventeen", "eighteen", "nineteen"])}
TENS = {word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}  # noqa: SIM905
WORDS |= TENS | {f"{ten}{gap}{UNITS[i]}": TENS[ten] + i for ten in TENS for i in range(1, 10) for gap in "- "}
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15})(?:\.[0-9]{1,15})?|\.[0-9]{1,15}"
NUMBER = rf"(?:{DIGITS})(?:e[+-]?[0-9]{{1,2}})?|(?:{'|'.join(sorted(WORDS, key=len, reverse=True))})(?![a-z])"
ANY_NUMBER = re.compile(rf"(?<![a-z0-9])(?:{NUMBER})(?![a-z0-9])")
CLOCK = r"[0-9]{1,2}(?::[0-5][0-9]){1,2}(?:\.[0-9]+)?"
SECONDS = r"(?:\s*(?:s|sec|secs|second|seconds))?"
MOMENT = rf"(?:{CLOCK}|(?:{NUMBER}){SECONDS})"
WHOLE_NUMBER = re.compile(rf"(?P<sign>[+-]?|minus )(?P<value>{NUMBER})(?:\s*(?P<unit>[^\s0-9.,].*))?")
WHOLE_TIME = re.compile(rf"(?P<sign>[+-]?|minus )(?P<value>{MOMENT})")
WHOLE_RANGE = re.compile(
    rf"(?:from )?(?P<start>{MOMENT})(?: to |\s*-\s*)(?P<end>{MOMENT})"
    rf"|between (?P<start2>{MOMENT}) and (?P<end2>{MOMENT})"
)
SEPARATORS = re.compile(r"\s*(?:[,;]\s*(?:and )?then |[,;]|->|→| (?:and )?then )\s*")
NEGATION = re.compile(r"\b(?:not?|never|none|neither|nor|without|cannot|except)\b|n't\b")
HEDGE = re.compile(
    r"\b(?:or|either|maybe|perhaps|probabl[ye]|possibl[ye]|likely|about|around|approximately|approx|roughly|nearly"
    r"|almost|circa|ca|some|at (?:least|most)|(?:more|less|fewer) than|over|under|up to|between|could|might|may"
    r"|i think|i guess|unsure|unclear|seems?)\b|[~≈?<>≤≥±]"
)


@dataclass(frozen=True)
class AnswerType:
    """What kind of answer a task wants, and how near to the gold one it must be.

    Args:
        type (`str`): `class`, `number`, `time` (a moment), `time_range` or `list` (ordered).
        absolute (`float`, *optional*): Largest distance; of times in seconds.
        relative (`float`, *optional*): Largest distance as a share of the gold number.
        iou (`float`, *optional*): Smallest intersection over union of two ranges.
        unit (`str`, *optional*): What a number may be followed by. Nothing is converted: another unit is an objection.
    """

    type: str = "class"
    absolute: float | None = None
    relative: float | None = None
    iou: float | None = None
    unit: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is no closed list of answers."""
        return self.type != "class"

    @property
    def form(self) -> str:
        """What prompts ask for."""
        unit = f" ({self.unit})" if self.unit else ""
        return {
            "number": f"one number{unit}",
            "time": "one time in seconds",
            "time_range": "start-end in seconds",
            "list": "the items in their order, with commas between them",
        }[self.type]

    def to_dict(self) -> dict[str, Any]:
        """The `answer` part of a card."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def read(self, text: str) -> tuple[str | None, str | None]:
        """`(value in one spelling, None)` of a bare answer, or `(None, reason code)`.

        Codes: `no_answer`, `negated`, `hedged`, `several`, `unit`, `ambiguous` (how many thousands?), `negative`,
        `empty_range`, `empty_item`, `unreadable`.
        """
        plain = plain_text(text)
        if not plain:
            return None, "no_answer"
        if any(unicodedata.category(sign) == "No" for sign in text):  # ½ and ³, which NFKC would turn into digits
            return None, "ambiguous"
        value, reason = {
            "number": self._number, "time": self._time, "time_range": self._range, "list": self._list,
        }[self.type](plain)  # fmt: skip
        if value is None and self.type != "list":  # an item may well be called "no splash"
            reason = _doubt(plain) or reason
        return value, reason

    def distance(self, said: str, gold: str) -> float:
        """How far two values of `read` are apart: a difference, 1 - IoU of ranges, 0 or 1 for lists."""
        if self.type == "list":
            return float(self.objection(said, gold) is not None)
        if self.type == "time_range":
            return 1 - iou(ends(said), ends(gold))
        return abs(float(said) - float(gold))

    def objection(self, said: str, gold: str) -> str | None:
        """Why a value is not the gold one, both as `read` spells them, or None.

        Codes: `wrong_value`, `low_iou`, `wrong_order`, `added`, `missing`, `wrong_item`.
        """
        if self.type == "list":
            return list_objection(said.split(", "), gold.split(", "))
        far = self.distance(said, gold)
        if self.type == "time_range":
            assert self.iou is not None
            return "low_iou" if 1 - far < self.iou - ROUNDING else None
        most = self.absolute if self.relative is None else self.relative * abs(float(gold))
        assert most is not None
        return "wrong_value" if far > most * (1 + ROUNDING) + ROUNDING * abs(float(gold)) else None

    def _number(self, plain: str) -> tuple[str | None, str | None]:
        found = WHOLE_NUMBER.fullmatch(plain)
        if found is None:
            return None, _what_else(plain)
        if found["unit"]:
            if ANY_NUMBER.search(found["unit"]):
                return None, "several"
            if self.unit is None or plain_unit(found["unit"]) != plain_unit(self.unit):
                return None, "unit"
        return _in_reach(amount(found["value"]) * (-1 if found["sign"] in ("-", "minus ") else 1))

    def _time(self, plain: str) -> tuple[str | None, str | None]:
        found = WHOLE_TIME.fullmatch(plain)
        if found is None:
            return None, _what_else(plain)
        if found["sign"] in ("-", "minus "):
            return None, "negative"
        return _in_reach(amount(found["value"]))

    def _range(self, plain: str) -> tuple[str | None, str | None]:
        found = WHOLE_RANGE.fullmatch(plain)
        if found is None:
            return None, "negative" if re.match(r"(from )?(-|minus )", plain) else _what_else(plain, most=2)
        start, end = (_in_reach(amount(found[name] or found[f"{name}2"]))[0] for name in ("start", "end"))
        if start is None or end is None:
            return None, "unreadable"
        return (f"{start}-{end}", None) if float(start) < float(end) else (None, "empty_range")

    def _list(self, plain: str) -> tuple[str | None, str | None]:
        items = [plain_text(item) for item in SEPARATORS.split(plain)]
        if not all(items):
            return None, "empty_item"
        return (
            (None, "hedged") if re.search(r"\b(?:or|either|maybe|perhaps)\b|\?", plain) else (", ".join(items), None)
        )


CLASSES = AnswerType()


def plain_text(text: str) -> str:
    """NFKC, lower case, one kind of minus, single spaces, no quotes, emphasis or closing stop."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"\s+", " ", re.sub(r"[\u2010-\u2015\u2212]", "-", plain.replace("\u2019", "'")))
    return re.sub(r"\.$", "", plain.strip(" *_`\"'")).strip(" *_`\"'")


def plain_unit(unit: str) -> str:
    """A unit as it is compared: without a closing stop, and one for many ("pixels" is "pixel")."""
    plain = plain_text(unit)
    return plain[:-1] if len(plain) > 2 and plain.endswith("s") else plain


def amount(text: str) -> float:
    """A number or a time as a float: `1,250.5`, `twenty-one`, `12 s`, `1:23`."""
    if ":" in text:
        return sum(float(part) * 60**i for i, part in enumerate(reversed(text.split(":"))))
    if (number := re.match(NUMBER, text)) is not None:
        text = number[0]
    return float(WORDS[text]) if text in WORDS else float(text.replace(",", ""))


def spelled(value: float) -> str:
    """The one spelling of a number: no thousands separator, no zeros at the end, at most 12 digits, and 1e+15."""
    value = float(f"{value:.12g}")
    if value.is_integer():
        return str(int(value)) if abs(value) < 1e15 else f"{value:.12g}"
    return repr(value)


def _in_reach(value: float) -> tuple[str | None, str | None]:
    """As `AnswerType.read`: the spelling of a number, if that can be read again."""
    in_reach = value == 0 or SMALLEST <= abs(value) <= LARGEST
    return (spelled(value), None) if in_reach else (None, "unreadable")


def ends(value: str) -> tuple[float, float]:
    """Start and end of a range that `read` spelled, in seconds."""
    found = WHOLE_RANGE.fullmatch(value)
    assert found is not None, value
    return amount(found["start"]), amount(found["end"])


def iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two ranges, from 0 to 1."""
    common = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return common / (max(one[1], other[1]) - min(one[0], other[0]))  # their union wherever they overlap


def list_objection(said: list[str], gold: list[str]) -> str | None:
    """Why a list is not the gold one: the order kept, nothing added, nothing left out.

    The last "and" may part two items or belong to a name ("hit and run"): it is read as the gold list has it.
    """
    codes = [_list_objection(reading, gold) for reading in _readings(said)]
    return None if None in codes else next((code for code in codes if code != "wrong_item"), "wrong_item")


def _readings(said: list[str]) -> Iterator[list[str]]:
    """The list as it is, and with an "and" before or within its last item as what parts it from the one before."""
    yield said
    *before, last = said
    if before and last.startswith("and "):
        yield [*before, last.removeprefix("and ")]
        return
    for found in re.finditer(" and ", last):
        yield [*before, last[: found.start()], last[found.end() :]]


def _list_objection(said: list[str], gold: list[str]) -> str | None:
    if said == gold:
        return None
    if _inside(gold, said):
        return "added"
    if _inside(said, gold):
        return "missing"
    return "wrong_order" if Counter(said) == Counter(gold) else "wrong_item"


def read_answer_type(raw: Any, path: Path) -> AnswerType:
    """Checks the `answer` part of the card at `path`; a card without one has classes.

    Raises:
        UserError: naming the key, its value and the way out.
    """
    if raw is None:
        return AnswerType()
    check_keys(raw, set(AnswerType.__dataclass_fields__), path, "'answer'")
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in TOLERANCES:
        raise UserError(f"{path}: answer.type is {kind!r}{nearest(kind, TOLERANCES)}; use one of {list(TOLERANCES)}")
    given = {key: raw[key] for key in ("absolute", "relative", "iou") if raw.get(key) is not None}
    wanted = TOLERANCES[kind]
    if len(given) != bool(wanted) or not given.keys() <= set(wanted):
        raise UserError(
            f"{path}: answer.type {kind} has the tolerances {sorted(given)} but needs "
            f"{'one of ' + ', '.join(wanted) if wanted else 'none'}; correct them"
        )
    for key, value in given.items():
        low, high = {"absolute": (0, LARGEST), "relative": (0, 1), "iou": (ROUNDING, 1)}[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise UserError(f"{path}: answer.{key} is {value!r:.40} but must be a number from {low:g} to {high:g}")
    unit = raw.get("unit")
    if unit is not None and (
        kind != "number" or not isinstance(unit, str) or not re.fullmatch(r"[^\s0-9.,:/-][^0-9]*", unit)
    ):
        raise UserError(f"{path}: answer.unit is {unit!r} but must be a word beside type number (it is {kind})")
    return AnswerType(kind, **{key: float(value) for key, value in given.items()}, unit=unit)


def _doubt(plain: str) -> str | None:
    return "negated" if NEGATION.search(plain) else "hedged" if HEDGE.search(plain) else None


def _what_else(plain: str, *, most: int = 1) -> str:
    """The code of an answer that is not bare."""
    if most == 1 and re.fullmatch(r"[+-]?[0-9]+(?:[.,' ][0-9]+)+(?: .*)?", plain):
        return "ambiguous"
    count = len(re.findall(rf"{CLOCK}|{ANY_NUMBER.pattern}", plain))
    return "several" if count > most else "unreadable"


def _inside(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return len(short) < len(long) and all(item in rest for item in short)
