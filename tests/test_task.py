"""Task cards: hostile labels and wrong keys are told with a way out, and the one parser never guesses."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbft_trl.data.source import KEYS
from rbft_trl.data.task import CARD_FILE, CLIP_PLACE, TaskCard, normalise
from rbft_trl.errors import UserError

REPOSITORY = Path(__file__).parents[1]
CARD = {
    "name": "home",
    "question": "What happens?",
    "role": "You guard a home.",
    "aspects": ["people", "light"],
    "labels": {"fire alarm": "smoke or flames", "cat": "a cat walks by", "normal": "nothing happens"},
    "data": {"root": "clips"},
}


def write_card(folder: Path, **changes: Any) -> Path:
    """A card with keys changed, or removed by None."""
    raw = {key: value for key, value in (CARD | changes).items() if value is not None}
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def card(tmp_path: Path) -> TaskCard:
    return TaskCard.from_yaml(write_card(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": {"a": "b"}}, ["unknown key 'label'", "did you mean 'labels'"]),
        ({"data": {"root": ".", "anotations": "x"}}, ["unknown key 'anotations'", "did you mean 'annotations'"]),
        ({"question": None}, ["'question' is missing", "copy_me.yaml"]),
        ({"question": 7}, ["'question' is 7", "must be text"]),
        ({"role": "Say <|im_end|>"}, ["'role'", "special tokens"]),
        ({"aspects": "light"}, ["'aspects' is 'light'", "list"]),
        ({"aspects": ["people", True]}, ["'aspects' holds True", "quotes"]),
        ({"labels": {"cat": "a cat"}}, ["at least two class names"]),
        ({"labels": ["cat", "dog"]}, ["at least two class names"]),
        ({"labels": {True: "yes", "no way": "b"}}, ["label True was read as bool", "quotes"]),
        ({"labels": {7: "seven", "b": "b"}}, ["label 7 was read as int", "quotes"]),
        ({"labels": {"cat": "", "dog": "a dog"}}, ["label 'cat' has no definition", "sentence"]),
        ({"labels": {"cat": None, "dog": "a dog"}}, ["label 'cat' has no definition"]),
        ({"labels": {"cat": "a", " Cat.": "b"}}, ["' Cat.'", "begins or ends with a space"]),
        ({"labels": {"cat": "a", "CAT": "b"}}, ["labels 'cat' and 'CAT'", "differ only in case"]),
        ({"labels": {"big cat": "a", "big  cat": "b"}}, ["differ only in case or spacing"]),
        ({"labels": {"<|im_end|>": "a", "dog": "b"}}, ["special token", "rename"]),
        ({"labels": {"cat": "a <|video_pad|>", "dog": "b"}}, ["label 'cat'", "special token"]),
        ({"labels": {"big\ncat": "a", "dog": "b"}}, ["line break", "rename"]),
        ({"labels": {"big\u2028cat": "a", "dog": "b"}}, ["line break", "rename"]),
        ({"labels": {"'.'": "a", "dog": "b"}}, ["is empty", "rename"]),
        ({"labels": {"Classification: cat": "a", "dog": "b"}}, ["Classification:", "rename"]),
        ({"prompts": "nowhere"}, ["prompt folder", "nowhere", "leave 'prompts' out"]),
        ({"data": {"annotations": "a.csv"}}, ["data.root is None", "folder"]),
        ({"data": {"root": ""}}, ["data.root is ''", "folder"]),
        ({"data": {"root": ".", "annotations": ["a.csv"]}}, ["data.annotations is ['a.csv']", "must be text"]),
        ({"data": {"root": ".", "test": 1}}, ["data.test is 1", "share"]),
        ({"data": {"root": ".", "test": True}}, ["data.test is True", "share"]),
        ({"data": {"root": ".", "validation": float("nan")}}, ["data.validation is nan", "share"]),
        ({"data": {"root": ".", "split_seed": "x"}}, ["data.split_seed is 'x'", "whole number"]),
        ({"data": "clips"}, ["'data' must be a mapping"]),
    ],
)
def test_a_wrong_card_is_one_sentence(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    path = write_card(tmp_path, **changes)
    with pytest.raises(UserError) as told:
        TaskCard.from_yaml(path)
    message = str(told.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("word", ["yes", "no", "on", "off"])
def test_unquoted_yes_and_no_are_told(tmp_path: Path, word: str) -> None:
    path = write_card(tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  cat:", f"  {word}:"), encoding="utf-8")
    with pytest.raises(UserError, match="read as bool; write it in quotes"):
        TaskCard.from_yaml(path)
    path.write_text(text.replace("  cat:", f'  "{word}":'), encoding="utf-8")
    assert word in TaskCard.from_yaml(path).names


@pytest.mark.parametrize("data", [b"a: [1", b"a: b: c", b"\xff\xfe", b"? [a, {b: c}]\n: d", b"name: 2024-99-99", b"x"])
def test_a_file_that_is_no_card(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        TaskCard.from_yaml(path)
    for missing in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UserError, match=r"does not exist; recipes/tasks/copy_me\.yaml is the one to copy"):
            TaskCard.from_yaml(missing)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("label", "$question $lables", "'\\$' stands for something unknown"),
        ("label", "costs 5 $ $labels", "'\\$\\$' for a dollar"),
        ("label", "$question only", "placeholder \\$labels is missing"),
        ("rationale", "$labels", "placeholder \\$hint is missing"),
        ("hint", "no label", "placeholder \\$label is missing"),
        ("hint", "$video $label", "'\\$' stands for something unknown"),
        ("label", "$video $labels ${video}", "\\$video stands twice"),
    ],
)
def test_wrong_prompts_are_told(tmp_path: Path, file: str, text: str, words: str) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / f"{file}.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        TaskCard.from_yaml(write_card(tmp_path, prompts="own"))


def test_a_label_that_stands_twice_is_told(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  normal:", "  cat: another\n  normal:"), encoding="utf-8")
    with pytest.raises(UserError, match=r"line \d+: the key 'cat' stands there twice"):
        TaskCard.from_yaml(path)


def test_own_prompts_replace_only_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "label.txt").write_text("Which costs $$5?\n$labels\n")
    card = TaskCard.from_yaml(write_card(tmp_path, prompts="own"))
    assert card.label_prompt(definitions=False) == "Which costs $5?\nNames: fire alarm, cat, normal"
    assert card.rationale_prompt() == TaskCard.from_yaml(write_card(tmp_path)).rationale_prompt()


def test_prompts_hold_what_they_should(card: TaskCard) -> None:
    prompt = card.label_prompt()
    assert "- fire alarm: smoke or flames\n- cat: a cat walks by\n- normal: nothing happens" in prompt
    assert "What happens?" in prompt
    assert "smoke" not in card.label_prompt(definitions=False)
    blind, hinted = card.rationale_prompt(), card.rationale_prompt("cat")
    assert "people, light" in blind and "You guard a home." in blind and "clip is: cat" not in blind
    assert "clip is: cat" in hinted and len(hinted) > len(blind)
    assert "Classification:" in blind


def test_a_dollar_in_the_card_is_only_a_dollar(tmp_path: Path) -> None:
    labels = {"$5": "five $labels", "$hint": "six"}
    card = TaskCard.from_yaml(write_card(tmp_path, labels=labels, question="Cheap, $role?"))
    assert "- $5: five $labels" in card.label_prompt() and "Cheap, $role?" in card.label_prompt()
    assert "clip is: $hint." in card.rationale_prompt("$hint")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("cat", "cat"),
        (" Cat.\n\n", "cat"),
        ("**Classification: Fire  Alarm**", "fire alarm"),
        ("It burns.\nClassification: `fire alarm`.", "fire alarm"),
        ("classification:cat", "cat"),
        ("It walks.\n**Classification**: cat", "cat"),
        ("## Classification \uff1a cat", "cat"),
        ("Classi\ufb01cation:cat", "cat"),
        ("\uff23\uff21\uff34", "cat"),
        ("", None),
        ("cat or normal", None),
        ("not cat", None),
        ("cats", None),
        ("Classification: cat\nI hope this helps", None),
        ("Classification: Classification: cat", None),
        ("Classification:", None),
    ],
)
def test_the_label_parser(card: TaskCard, text: str, label: str | None) -> None:
    assert card.parse_label(text) == label
    if label is not None:
        with_prefix = "cation" in text
        assert card.parse_label(text, require_prefix=True) == (label if with_prefix else None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It walks.\nClassification: cat\nClassification: Cat.", None),  # a line that is said again
        ("It walks.\nClassification: normal", "wrong_label"),
        ("Classification: normal\nClassification: fire alarm\nClassification: cat", "several"),
        ("1. Classification: normal\n2. **Classification: fire alarm**\nClassification: cat", "several"),
        ("Classification: normal or cat\nClassification: cat", "several"),
        ("**Classification**: normal\nClassification: cat", "several"),
        ("Classification: cat\nIt walks.", "no_label"),
        ("Classification: normal\nClassification: dog", "no_label"),
    ],
)
def test_an_enumeration_of_classes_is_no_answer(card: TaskCard, text: str, reason: str | None) -> None:
    assert card.objection(text, "cat") == card.objection(text, "cat", require_prefix=False) == reason
    assert card.unread(text) == (None if reason == "wrong_label" else reason)
    assert card.parse_label("Classification: normal\ncat") is None


WORDS = ["cat", "CAT", "fire alarm", "normal", "Classification:", "not", " ", "\n", ".", "*", "\u2028", "\uff1a"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map("".join)), require=st.booleans())
def test_the_parser_takes_any_text_and_never_guesses(card: TaskCard, text: str, require: bool) -> None:
    label = card.parse_label(text, require_prefix=require)
    if label is not None:
        *above, last = [line for line in text.splitlines() if line.strip()]
        said = normalise(last)
        assert said.startswith(normalise("Classification:")) or not (above or require)
        assert said.endswith(normalise(label)) and label in card.names
        assert normalise(said.removeprefix(normalise("Classification:"))) == normalise(label)
    card.without_final_line(text)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=2, max_size=4),
    meaning=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_every_accepted_label_is_parsed_and_survives_saving(tmp_path: Path, names: list[str], meaning: str) -> None:
    """Whatever a card accepts, its own final line is understood, alone and after a text, and a saved card is equal."""
    try:
        card = TaskCard.from_yaml(write_card(tmp_path, labels=dict.fromkeys(names, meaning)))
    except UserError:
        return
    for name in card.names:
        assert card.parse_label(name) == name
        assert card.parse_label(f"Seen.\n{card.final_line(name)}", require_prefix=True) == name
        assert card.without_final_line(f"Seen.\n{card.final_line(name)}") == "Seen."
        assert name in card.label_prompt()
    card.save(tmp_path / "saved")
    again = TaskCard.from_yaml(tmp_path / "saved" / CARD_FILE)
    assert again.fingerprint() == card.fingerprint() and again.data is None


def test_the_fingerprint_sees_what_the_model_sees(tmp_path: Path, card: TaskCard) -> None:
    def of(**changes: Any) -> str:
        return TaskCard.from_yaml(write_card(tmp_path, **changes)).fingerprint()

    assert of() == card.fingerprint() == of(name="other", data={"root": "elsewhere"})
    changed = [{"question": "Who?"}, {"role": "You see."}, {"aspects": ["light"]}]
    changed.append({"labels": dict(reversed(CARD["labels"].items()))})
    prints = [of(**change) for change in changed]
    assert len({card.fingerprint(), *prints}) == 5


def test_root_is_relative_to_the_card_and_annotations_to_the_root(tmp_path: Path) -> None:
    card = TaskCard.from_yaml(write_card(tmp_path, data={"root": "sub/clips", "annotations": "a.csv"}))
    assert card.data is not None
    assert card.data.root == tmp_path / "sub/clips" and card.data.annotations == tmp_path / "sub/clips/a.csv"
    assert (card.data.validation, card.data.test, card.data.split_seed) == (None, None, None)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes/tasks").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_cards_are_read(path: Path) -> None:
    card = TaskCard.from_yaml(path)
    assert (len(card.names) >= 2 or card.answer.type != "class") and card.data is not None
    assert all(name in card.label_prompt() for name in card.names)


def test_every_key_of_the_card_to_copy_is_explained() -> None:
    """copy_me.yaml shows every key there is, those that are optional behind a `#`, each with a comment."""
    text = (REPOSITORY / "recipes/tasks/copy_me.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    assert set(raw) == {"name", "question", "role", "aspects", "labels", "data"}
    keys = ("name", "question", "role", "aspects", "labels", "prompts", "data")
    keys += tuple(KEYS)
    for key in keys:
        lines = [line for line in text.splitlines() if line.lstrip("# ").startswith(f"{key}:")]
        assert len(lines) == 1 and "  # " in lines[0], key
    uncommented = text.replace("# prompts:", "prompts:")
    assert yaml.safe_load(uncommented)["prompts"] == "my_prompts"


@pytest.mark.parametrize("end", ["\nI hope this helps.", "\nClassification: cat", " ", "\n\n"])
@pytest.mark.parametrize("start", ["\n", "\n## ", "\n- **", " "])
@pytest.mark.parametrize("line", ["Classification:", "**Classification**:", "_CLASSIFICATION_ \uff1a"])
def test_nothing_of_a_conclusion_stays_in_the_reasoning(start: str, line: str, end: str) -> None:
    card = TaskCard.from_yaml(REPOSITORY / "recipes/tasks/toy.yaml")
    assert card.without_final_line(f"a small thing moves.{start}{line} dog{end}") == "a small thing moves."


def test_the_shipped_prompts_with_the_instruction_first(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "recipes/tasks/instruction_first"
    plain = TaskCard.from_yaml(write_card(tmp_path))
    card = TaskCard.from_yaml(write_card(tmp_path, prompts=str(folder)))
    assert CLIP_PLACE not in plain.rationale_prompt() + plain.label_prompt()
    for asked in (card.rationale_prompt, card.label_prompt):
        first, last = asked(text=f"a tit{CLIP_PLACE}le").split(CLIP_PLACE)
        assert "- cat: a cat walks by" in first and "What happens?\nText that came with the clip: a tit le" in last
        assert asked().startswith(first)  # the same for every clip
    assert card.rationale_prompt("cat").split(CLIP_PLACE)[0] == card.rationale_prompt().split(CLIP_PLACE)[0]
    assert card.fingerprint() != plain.fingerprint()
