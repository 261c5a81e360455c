"""Verifiers by answer type: what is near enough passes in every spelling, and nothing else in any disguise."""

import dataclasses
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rbft_trl.data.answers import AnswerType, iou, spelled
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from tests.helpers import REPOSITORY

NUMBER = AnswerType("number", absolute=0.0)
METRES = AnswerType("number", relative=0.1, unit="metres")
TIME = AnswerType("time", absolute=0.1)
RANGE = AnswerType("time_range", iou=0.5)
LIST = AnswerType("list")
TYPES = [NUMBER, METRES, TIME, RANGE, LIST]

huge = st.integers(10**11, 10**15 - 1)  # up to the most digits that are read
amounts = st.one_of(st.integers(0, 10**9), st.integers(0, 10**6).map(lambda n: n / 100), huge)
signed = amounts.flatmap(lambda n: st.sampled_from([n, -n]))
moments = st.integers(0, 36000).map(lambda n: n / 10)
ranges = st.tuples(moments, st.integers(1, 3000).map(lambda n: n / 10)).map(lambda p: (p[0], round(p[0] + p[1], 1)))
before = st.sampled_from(["", "**", '"', " "])
pieces = st.sampled_from(["0", "1", "9" * 15, "99", ".", ",", "-", "e", "e-", ":", " to ", "00", " "])


def said(answer: AnswerType, text: str, gold: str) -> str | None:
    """The objection to `text`, or None."""
    value, reason = answer.read(text)
    assert (value is None) == (reason is not None)
    return reason if value is None else answer.objection(value, gold)


@given(signed, before)
def test_a_number_passes_in_every_usual_spelling(n: float, mark: str) -> None:
    gold = spelled(n)
    for text in (f"{n}", f"{n:,}", f"{n}.", f"{n:+}", gold, f"{n}".replace("-", "−"), f"{n}".replace("-", "minus ")):
        assert said(NUMBER, f"{mark}{text}{mark[::-1]}", gold) is None, text
    assert NUMBER.read(gold) == (gold, None), "the one spelling reads as itself"


@given(signed, signed)
def test_a_number_passes_if_and_only_if_it_is_near(n: float, m: float) -> None:
    assert (said(NUMBER, spelled(n), spelled(m)) is None) == math.isclose(n, m, rel_tol=1e-9)
    near = abs(n - m) <= 0.1 * abs(m) * (1 + 1e-9)
    far = abs(n - m) > 0.1 * abs(m) * (1 + 1e-6)
    verdict = said(METRES, f"{spelled(n)} metres", spelled(m))
    assert verdict is None if near else not far or verdict == "wrong_value"


@given(signed, st.sampled_from(["not {}", "never {}", "{} is wrong, not sure", "it isn't {}", "no, {}", "neither {}"]))
def test_a_negated_number_never_passes(n: float, form: str) -> None:
    for answer in (NUMBER, METRES, TIME):
        assert said(answer, form.format(spelled(n)), spelled(abs(n))) == "negated"


@given(
    amounts, st.sampled_from(["about {}", "{}?", "~{}", "maybe {}", "at least {}", "{} or so", "<{}", "roughly {}"])
)
def test_a_hedged_number_never_passes(n: float, form: str) -> None:
    for answer in (NUMBER, METRES, TIME):
        assert said(answer, form.format(spelled(n)), spelled(n)) == "hedged"


@given(amounts, amounts, st.sampled_from(["{} or {}", "{}, {}", "{}/{}", "{} {}", "{}-{}", "{} to {}", "{} and {}"]))
def test_an_enumeration_of_numbers_never_passes(n: float, m: float, form: str) -> None:
    text = form.format(spelled(n), spelled(m))
    for gold in (n, m):
        assert said(NUMBER, text, spelled(gold)) is not None
        assert said(METRES, text, spelled(gold)) is not None
        assert said(TIME, text, spelled(gold)) is not None


@given(amounts, st.sampled_from(["metres", "m", "kg", "%", "cats", "feet", "stones"]))
def test_a_unit_passes_only_where_the_card_names_it(n: float, unit: str) -> None:
    verdict = said(METRES, f"{spelled(n)} {unit}", spelled(n))
    assert verdict == (None if unit == "metres" else "unit")
    assert said(NUMBER, f"{spelled(n)} {unit}", spelled(n)) == "unit"
    assert said(METRES, spelled(n), spelled(n)) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("three", "3"), ("Twenty-one", "21"), ("twenty one", "21"), ("minus two", "-2"), ("zero", "0"), ("-0", "0"),
        ("1,250", "1250"), ("1,250,000.50", "1250000.5"), (".5", "0.5"), ("2e3", "2000"), ("３", "3"), ("3.0", "3"),
        ("999,999,999,999,999", "1e+15"), ("1.5e15", "1.5e+15"), ("6.02e23", "6.02e+23"), ("1e-7", "1e-07"),
    ],
)  # fmt: skip
def test_spellings_of_numbers(text: str, value: str) -> None:
    assert NUMBER.read(text) == (value, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3,5", "ambiguous"), ("1.000.000", "ambiguous"), ("1 000", "ambiguous"), ("12,34", "ambiguous"),
        ("3½", "ambiguous"), ("3²", "ambiguous"), ("", "no_answer"), ("**", "no_answer"), ("many", "unreadable"),
        ("oneself", "unreadable"), ("tens", "unreadable"), ("3 (three)", "several"), ("one hundred", "unit"),
        ("3px4", "unit"), ("I do not know", "negated"), ("9" * 400, "unreadable"), ("nan", "unreadable"),
        ("9e99", "unreadable"), ("inf", "unreadable"), ("0x3", "unit"), ("2 out of 3", "several"), ("١", "unreadable"),
    ],
)  # fmt: skip
def test_what_is_no_number(text: str, reason: str) -> None:
    assert NUMBER.read(text) == (None, reason)


@given(moments, st.integers(0, 40))
def test_a_time_passes_within_its_tolerance(t: float, off: int) -> None:
    other = round(t + off / 20, 2)
    for text in (f"{other}", f"{other} s", f"{other} seconds", f"{int(other // 60)}:{other % 60:05.2f}"):
        if ":" not in text or other < 6000:
            verdict = said(TIME, text, spelled(t))
            assert verdict == (None if off <= 2 else "wrong_value"), (text, t)
    assert said(TIME, f"{other} minutes", spelled(other)) is not None
    assert said(TIME, f"-{spelled(other)}", spelled(other)) == "negative"


@given(ranges, ranges)
def test_a_range_passes_if_and_only_if_it_overlaps_enough(one: tuple[float, float], two: tuple[float, float]) -> None:
    common = max(0.0, min(one[1], two[1]) - max(one[0], two[0]))
    share = common / (max(one[1], two[1]) - min(one[0], two[0])) if common else 0.0
    assert iou(one, two) == pytest.approx(share) == pytest.approx(iou(two, one))
    gold = "-".join(map(spelled, two))
    for form in ("{}-{}", "{} s - {} s", "from {} to {}", "{} to {} seconds", "between {} and {}", "{} – {}"):
        verdict = said(RANGE, form.format(*map(spelled, one)), gold)
        if abs(share - 0.5) > 1e-6:
            assert verdict == (None if share > 0.5 else "low_iou"), form
    assert RANGE.read(gold) == (gold, None) and RANGE.distance(gold, gold) == 0


@given(ranges)
def test_a_range_in_disguise_never_passes(span: tuple[float, float]) -> None:
    a, b = map(spelled, span)
    gold = f"{a}-{b}"
    for text, reason in (
        (f"{b}-{a}", "empty_range"), (f"{a}-{a}", "empty_range"), (f"not {gold}", "negated"), (f"{gold}?", "hedged"),
        (f"about {gold}", "hedged"), (f"{gold} or {b}-{b}9", "hedged"), (f"-{gold}", "negative"), (a, "unreadable"),
        (f"{gold}, {gold}", "several"),
    ):  # fmt: skip
        assert said(RANGE, text, gold) == reason, text


@given(st.sampled_from(TYPES), st.one_of(st.text(max_size=30), st.lists(pieces, max_size=9).map("".join)))
@example(RANGE, "0-999999999999999")
@example(RANGE, "0.1-0.1000000000001")
@example(NUMBER, "999999999999999")
@example(NUMBER, "999999999e99")
@example(TIME, "0.01e-99")
def test_any_text_gives_a_value_or_a_reason_and_a_value_reads_as_itself(answer: AnswerType, text: str) -> None:
    value, reason = answer.read(text)
    assert (value is None) != (reason is None)
    if value is not None:
        assert answer.read(value) == (value, None)
        assert answer.objection(value, value) is None


def make_card(folder: Path, answer: dict | None, **changes: object) -> Path:
    raw = {"name": "t", "question": "How many?", "role": "You watch.", "aspects": ["things"], **changes}
    raw |= {"answer": answer} if answer is not None else {}
    (folder / "card.yaml").write_text(yaml.safe_dump(raw))
    return folder / "card.yaml"


@pytest.fixture
def card(tmp_path: Path) -> TaskCard:
    return TaskCard.from_yaml(make_card(tmp_path, {"type": "number", "absolute": 0.5, "unit": "px"}))


def test_an_open_card_asks_for_its_form_and_shows_no_names(card: TaskCard, tmp_path: Path) -> None:
    for text in (card.label_prompt(), card.rationale_prompt(), card.rationale_prompt("7")):
        assert "one number (px)" in text and "$" not in text and "name" not in text.casefold()
    assert "7" in card.rationale_prompt("7") and "7" not in card.rationale_prompt() + card.label_prompt()
    assert card.final_line("7") == "Answer: 7" and card.is_open and card.names == []
    assert card.without_final_line("It moves.\nAnswer: 7\nAnswer: 8") == "It moves."
    card.save(tmp_path / "saved")
    again = TaskCard.from_yaml(tmp_path / "saved/task_card.yaml")
    assert again.fingerprint() == card.fingerprint() and again.answer == card.answer
    other = make_card(tmp_path, {"type": "number", "absolute": 0.6, "unit": "px"})
    assert TaskCard.from_yaml(other).fingerprint() != card.fingerprint(), "another tolerance is another task"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It moves.\nAnswer: 7", None),
        ("It moves.\n**Answer: 7.4 px**", None),
        ("It moves.\nAnswer: 8", "wrong_value"),
        ("Answer: 7\nAnswer: 8", "several"),
        ("Answer: 8\nAnswer: 7", "several"),
        ("1. Answer: 8\n2. Answer: 7", "no_label"),
        ("1. Answer: 8\nAnswer: 7", "several"),
        ("It may be Answer: 8, or not.\nAnswer: 7", "several"),
        ("My first answer: 7\nAnswer: 7", None),
        ("Answer: not 7", "negated"),
        ("It is 7", "no_label"),
        ("Answer: 7\nThat is all", "no_label"),
        ("", "no_label"),
    ],
)
def test_the_verifier_of_an_open_card(card: TaskCard, text: str, reason: str | None) -> None:
    assert card.objection(text, "7") == reason
    assert (card.parse_label(text, require_prefix=True) is None) == (reason not in (None, "wrong_value"))


def test_a_greedy_answer_needs_no_prefix(card: TaskCard) -> None:
    for text in ("7 px", "\n **7**\n", "It moves.\n7 or 8\nAnswer: 7"):
        assert card.objection(text, "7", require_prefix=False) is None
    assert card.parse_label("7 or 8") is None
    for text, reason in (("6\n7", "several"), ("Answer: 7\n7", "several"), ("It moves.\nabout 7", "hedged")):
        assert card.objection(text, "7", require_prefix=False) == reason


TOY = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml")
names = st.sampled_from(TOY.names)
CARDS = [TOY, *(dataclasses.replace(TOY, answer=answer) for answer in TYPES)]
VALUES = [TOY.names, ["1", "2", "twenty"], ["1", "2 metres"], ["1:23", "2"], ["1-2", "2-5"], ["left, up", "up"]]


@given(st.data(), st.integers(0, len(CARDS) - 1))
def test_an_answer_without_a_final_line_is_one_line(data: st.DataObject, kind: int) -> None:
    """Whatever stands above it, a value of the same kind or words; a final line may follow on reasoning."""
    card, values = CARDS[kind], VALUES[kind]
    above = data.draw(st.lists(st.sampled_from([*values, "not 3", "It moves.", "It is 1 or 2 or 3"]), min_size=1))
    for value in values:
        gold = card.parse_label(value)
        assert gold is not None and card.objection(f"\n{value}\n\n", gold, require_prefix=False) is None
        text = "\n".join([*above, value])
        assert card.parse_label(text) is None and card.objection(text, gold, require_prefix=False) == "several"
        text = "\n".join([*above, card.final_line(value)])
        assert card.objection(text, gold, require_prefix=False) is None


@given(
    names, names, st.sampled_from(["{0} or {1}", "{0}, {1}", "{1} {0}", "not {1}", "never {1}", "maybe {1}", "{1}?"])
)
def test_the_verifier_of_classes_takes_one_bare_name(gold: str, other: str, form: str) -> None:
    right = f"Something moves.\nClassification: {gold}"
    assert TOY.objection(right, gold) is None
    assert TOY.objection(f"Something moves.\nClassification: {form.format(other, gold)}", gold) == "no_label"
    assert TOY.objection(f"{right}\nClassification: {', '.join(TOY.names)}", gold) == "no_label"
    assert TOY.objection(f"Not {gold}.\nClassification: {other}", gold) == (None if other == gold else "wrong_label")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"type": "numbr", "absolute": 1}, "did you mean 'number'"),
        ({"type": "number"}, "needs one of absolute, relative"),
        ({"type": "number", "absolute": 1, "relative": 0.1}, "needs one of absolute, relative"),
        ({"type": "list", "iou": 0.5}, "needs none"),
        ({"type": "time_range", "iou": 0}, "answer.iou is 0"),
        ({"type": "time_range", "iou": 1.5}, "answer.iou is 1.5"),
        ({"type": "time", "absolute": -1}, "answer.absolute is -1"),
        ({"type": "time", "absolute": "0.1 s"}, "must be a number"),
        ({"type": "time", "absolute": 1, "unit": "s"}, "answer.unit is 's'"),
        ({"type": "number", "absolut": 1}, "unknown key 'absolut'"),
        ({"type": "number", "absolute": True}, "answer.absolute is True"),
        ("number", "must be a mapping"),
        ({"absolute": 1}, "answer.type is None"),
        ({"type": ["number"], "absolute": 1}, r"answer.type is \['number'\].*; use one of"),
        ({"type": "number", "absolute": 10**400}, "answer.absolute is 1000000*0 but must be a number from 0 to 1e"),
    ],
)
def test_mistakes_in_the_answer_part(tmp_path: Path, answer: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaskCard.from_yaml(make_card(tmp_path, answer))


def test_labels_belong_to_classes_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'labels' lists classes but answer\.type is list"):
        TaskCard.from_yaml(make_card(tmp_path, {"type": "list"}, labels={"a": "x", "b": "y"}))
    with pytest.raises(UserError, match="'labels' is missing"):
        TaskCard.from_yaml(make_card(tmp_path, {"type": "class"}))
    assert not TaskCard.from_yaml(make_card(tmp_path, None, labels={"a": "x", "b": "y"})).is_open
