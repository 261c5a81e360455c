"""Checks of rationales: every planted fault is found, clean texts pass, no text crashes, no row is lost."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbft_trl.data.task import TaskCard, fingerprint
from rbft_trl.data.templates import PROMPT_FOLDER
from rbft_trl.errors import UserError
from rbft_trl.evidence import verify
from rbft_trl.evidence.verify import check_rationales, kept_share, require_every_class

CARD = TaskCard(
    name="home",
    labels={
        "normal": "nothing that would need attention happens in front of the house or inside of it during the clip",
        "fire alarm": "flames or thick smoke are seen",
        "dorvan": "something small moving left",
    },
    question="What happens in this clip of a home camera?",
    role="You guard a home.",
    aspects=("people", "objects", "movement", "light"),
    prompts={
        name: (PROMPT_FOLDER / f"{name}.txt").read_text(encoding="utf-8") for name in ("label", "rationale", "hint")
    },
)
CLEAN = "Bright flames rise from the pan on the stove."


def row(text: str, label: str | None = "fire alarm", *, clip: str = "a", shown: bool = False) -> dict[str, Any]:
    prompt = fingerprint(CARD.rationale_prompt(label if shown else None))
    return {"id": clip, "label": label, "sample": 0, "shown": shown, "prompt_fingerprint": prompt, "text": text}


def concluded(reasoning: str, label: str = "fire alarm") -> str:
    return f"{reasoning}\n{CARD.final_line(label)}"


def verdict(sample: dict[str, Any], mode: str = "all") -> tuple[str, str | None]:
    (checked,) = check_rationales([sample], CARD, mode=mode)
    return checked["verdict"], checked["reason"]


ECHO = "You guard a home. What happens in this clip of a home camera? Bright flames rise."
REFUSED = (
    "I cannot provide a description of this video.",
    "I can't see the video, so I go by the names.",
    "I'm unable to describe the clip that is shown.",
    "I am not able to see any video in the message.",
    "Sorry, I can't do that for you right now.",
    "I don't see any video attached to the message.",
    "There is no video to look at, so I guess.",
    "I can't identify people in videos, as a rule.",
    "Please provide the video so that I can look.",
    "I can't tell what happens in this video because I cannot see it.",
    "I am not able to determine the content of this video.",
    "The footage could not be loaded, so I go by the names.",
)
FAULTS = {
    "no_label": [
        CLEAN,
        f"{CLEAN}\nfire alarm",
        concluded(CLEAN, "fire alarm or normal"),
        concluded(CLEAN, "not normal"),
        concluded(CLEAN, "burglary"),
        f"{concluded(CLEAN)}\nI hope this helps.",
        "",
    ],
    "several": [
        "\n".join([CLEAN, *map(CARD.final_line, CARD.names), CARD.final_line("fire alarm")]),
        f"{concluded(CLEAN, 'not normal')}\n{CARD.final_line('fire alarm')}",
    ],
    "wrong_label": [concluded(CLEAN, "normal")],
    "refusal": [
        concluded("I'm sorry, but I can't help with the content of this clip."),
        concluded("I\u2019m unable to view videos, so I go by the names."),
        "As an AI language model I do not watch clips.",
        concluded("No video was provided, so this is a guess at best."),
        concluded("I do not have access to the clip itself, so I guess."),
        concluded("The video is not available here, so I go by the names."),
        *map(concluded, REFUSED),
    ],
    "too_short": [concluded(""), concluded("Flames."), CARD.final_line("fire alarm")],
    "too_long": [concluded(" ".join(f"thing{i}" for i in range(verify.MAX_WORDS + 1)))],
    "repetition": [
        concluded("Bright flames rise rise rise rise from the pan."),
        concluded("The man walks to the door. " * 3),
        "The man walks to the door. " * 40,
        concluded(" ".join(f"The tall man in the red coat walks to door {i}." for i in range(6))),
    ],
    "prompt_echo": [concluded(ECHO), concluded(CARD.rationale_prompt())],
    "label_in_reasoning": [
        concluded("It is a fire alarm because it is a Fire  Alarm."),
        concluded("This is the class dorvan I think. Flames."),
    ],
}
PASSING = [
    concluded('The man says: "I\'m sorry, but I have to go now", and leaves.'),
    concluded("The boy shouts that I cannot open the door of the house."),
    concluded("A man stands at the door of the house. I cannot see a weapon in the video."),
    concluded("I can't tell from the clip whether he is angry, but he raises his fist."),
    concluded("I cannot identify a vehicle in the footage; the street is empty."),
    concluded("There is no picture, only a wall, and flames rise behind it."),
    concluded("I cannot tell what happens in the video after the lamp goes out; before that a pan burns."),
    concluded("I cannot determine the content of the box in the video, but flames rise from it."),
    concluded("The truck could not be loaded in time, and flames rise from its roof."),
    concluded(CLEAN),
    concluded("one small red circle moving left quickly."),
    concluded("I cannot see any person, but thick smoke fills the room."),
    concluded("The man says he cannot open the door. He waits and waits and waits."),
    concluded("Thick grey smoke comes out of the kitchen window. This fits fire alarm."),
    concluded("Here flames or thick smoke are seen behind the kitchen window."),
    concluded("Frame 1: a man walks in. Frame 2: a man sits down. Frame 3: the pan burns brightly."),
    concluded("厨房里有明亮的火焰和浓烟。"),
    f"{CLEAN}\n**Classification: Fire Alarm.**\n\n",
    f"{concluded(CLEAN)}\n{CARD.final_line('Fire Alarm')}",
]


@pytest.mark.parametrize(("reason", "text"), [(r, t) for r, texts in FAULTS.items() for t in texts])
def test_planted_fault_is_found(reason: str, text: str) -> None:
    assert verdict(row(text)) == ("dropped", reason)


@pytest.mark.parametrize("text", PASSING)
def test_clean_rationale_passes(text: str) -> None:
    assert verdict(row(text)) == ("kept", None)


def test_quoting_a_long_definition_is_no_echo() -> None:
    text = concluded(f"The porch is empty. So {CARD.labels['normal']}.", "normal")
    assert len(verify.words(CARD.labels["normal"])) > verify.ECHO_WORDS
    assert verdict(row(text, "normal")) == ("kept", None)


def test_a_text_without_a_name_does_not_argue_from_one() -> None:
    assert verify.label_in_reasoning("Flames.", CARD) is None


def test_the_echo_of_a_shown_label_is_found() -> None:
    hinted = concluded("An expert says that this clip is: fire alarm. Say what in the clip speaks for it.")
    assert verdict(row(hinted, shown=True)) == ("dropped", "prompt_echo")


def test_a_name_is_allowed_where_the_label_was_shown() -> None:
    text = FAULTS["label_in_reasoning"][0]
    assert verdict(row(text, shown=True)) == ("kept", None)


def test_a_blind_row_must_answer_the_blind_prompt() -> None:
    leaked = row(concluded(CLEAN)) | {"prompt_fingerprint": fingerprint(CARD.rationale_prompt("fire alarm"))}
    assert verdict(leaked) == ("dropped", "label_in_prompt")
    names_only = row(concluded(CLEAN)) | {"prompt_fingerprint": fingerprint(CARD.rationale_prompt(definitions=False))}
    assert verdict(names_only) == ("kept", None)
    by_hand = row(concluded(CLEAN)) | {"prompt_fingerprint": None}
    assert verdict(by_hand) == ("kept", None)


def test_duplicates_are_of_one_clip_only_and_the_first_stays() -> None:
    text = concluded(CLEAN)
    samples = [row(text), row(text.upper().replace("CLASSIFICATION", "Classification")), row(text, clip="b")]
    checked = check_rationales(samples, CARD, mode="all")
    assert [s["reason"] for s in checked] == [None, "duplicate", None]


def test_a_dropped_blind_text_does_not_make_its_hinted_twin_a_duplicate() -> None:
    text = FAULTS["label_in_reasoning"][0]
    checked = check_rationales([row(text), row(text, shown=True)], CARD, mode="all")
    assert [s["reason"] for s in checked] == ["label_in_reasoning", None]


def test_rows_without_a_label_are_kept_unless_a_check_without_labels_fails() -> None:
    assert verdict(row(CLEAN, None)) == ("unlabelled", None)
    assert verdict(row(concluded(CLEAN, "normal"), None)) == ("unlabelled", None)
    assert verdict(row("As an AI I cannot watch.", None)) == ("dropped", "refusal")
    assert verdict(row("Flames.", None)) == ("dropped", "too_short")
    for mode in ("none", "label_match"):
        assert verdict(row("Flames.", None), mode) == ("unlabelled", None)


def test_label_match_looks_at_the_final_line_only() -> None:
    assert verdict(row(FAULTS["too_short"][0]), "label_match") == ("kept", None)
    assert verdict(row(FAULTS["wrong_label"][0]), "label_match") == ("dropped", "wrong_label")
    assert verdict(row(CLEAN), "label_match") == ("dropped", "no_label")


def test_none_keeps_all_and_warns_with_the_share() -> None:
    samples = [row(concluded(CLEAN)), row(CLEAN), row(concluded(CLEAN, "normal")), row(CLEAN, None)]
    with pytest.warns(UserWarning, match=r"keeps 2 of 3 rationales \(67%\)"):
        checked = check_rationales(samples, CARD, mode="none")
    assert [s["verdict"] for s in checked] == ["kept", "kept", "kept", "unlabelled"]
    assert all(s["reason"] is None for s in checked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_rationales([row(concluded(CLEAN))], CARD, mode="none")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("As the expert says, flames rise behind the window of the kitchen.", "hint_cited"),
        ("The expert\u2019s opinion is right: flames rise behind the window.", "hint_cited"),
        ("Flames rise behind the window, which fits the given label well.", "hint_cited"),
        ("Flames rise behind the window, as stated in the question above.", "hint_cited"),
        ("This is the ground truth. Flames rise behind the window.", "hint_cited"),
        ("I was told that it burns, and flames rise behind the window.", "hint_cited"),
        ("The label given to me fits. Flames rise behind the window.", "hint_cited"),
        ("This is consistent with the expert. Flames rise behind the window.", "hint_cited"),
        ("There is a hint of smoke above the roof of the house.", None),
        ("The experts judge the dive from their table by the pool.", None),
        ("The experts say that it burns. Flames rise behind the window.", "hint_cited"),
        ("Flames rise behind the window, which fits the given answer.", "hint_cited"),
        ("He gets a ball from the expert skier and gives a hint that he is tired.", None),
        ("The given answer on the quiz screen is blue, and flames rise.", None),
        ("As the expert points out, flames rise behind the window.", "hint_cited"),
        ("The expert is right: flames rise behind the window.", "hint_cited"),
        ("Since the label is Fire Alarm, I look for it. Flames rise behind the window.", "hint_cited"),
        ("You said that this is a fire alarm. Flames rise behind the window.", "hint_cited"),
        ("The provided annotation tells of flames, and flames rise.", "hint_cited"),
        ("I was given the correct category, and flames rise.", "hint_cited"),
        ("The expert is right behind the man, and flames rise.", None),
        ("The pupils leave since the class is over, and flames rise.", None),
        ("Flames rise because the label is on the hot pan.", None),
        ("The man shouts that you said it is safe, and flames rise.", None),
        ("The flames do not belong to any given category of fireworks.", None),
        ("She was given the correct medicine, and flames rise.", None),
        ("An experienced climber hands the labelled box to a correct class of pupils.", None),
    ],
)
def test_a_hinted_rationale_must_not_argue_from_the_hint(text: str, reason: str | None) -> None:
    shown, blind = (
        check_rationales([row(concluded(text), shown=shown)], CARD, mode="all")[0] for shown in (True, False)
    )
    assert shown["reason"] == reason and blind["reason"] is None


def test_kept_share_and_every_class(tmp_path: Path) -> None:
    samples = [row(concluded(CLEAN)), row(CLEAN), row(concluded(CLEAN, "normal"), "normal"), row(CLEAN, None)]
    samples.append(row(concluded("Flames."), "dorvan", clip="c"))
    checked = check_rationales(samples, CARD, mode="label_match")
    shares = kept_share(checked, CARD)
    assert shares["fire alarm"] == {"kept": 1, "total": 2, "share": 0.5}
    assert shares["dorvan"] == {"kept": 0, "total": 1, "share": 0.0}
    assert shares["overall"] == {"kept": 2, "total": 4, "share": 0.5}
    assert shares["unlabelled"] == {"kept": 1, "total": 1, "share": 1.0}
    with pytest.raises(UserError, match=r"class 'dorvan' .* 0 of 1 \(1 wrong_label\); .*blind_then_hint"):
        require_every_class(checked, CARD)
    require_every_class([s | {"verdict": "kept"} for s in checked], CARD)
    with pytest.raises(UserError, match=r"class 'normal' has no kept rationale: 0 of 0;"):
        require_every_class([s for s in checked if s["label"] != "normal"], CARD)


def test_nothing_to_share_is_none_and_a_class_may_be_called_overall() -> None:
    card = TaskCard("t", {"overall": "x", "b": "y"}, "?", "r", ("a",), CARD.prompts)
    shares = kept_share([row("t", "overall") | {"verdict": "kept"}], card)
    assert shares["overall (class)"]["share"] == 1.0
    assert shares["unlabelled"] == {"kept": 0, "total": 0, "share": None}


PIECES = [
    "Classification:",
    "normal",
    "fire alarm",
    "\n",
    "I can't help",
    " ",
    "\u2019",
    "\ud800",
    "**",
    "火",
    "e\u0301 ",
]
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))


@settings(max_examples=150)
@given(
    st.lists(st.tuples(TEXTS, st.sampled_from([None, *CARD.names]), st.booleans(), st.sampled_from("ab")), max_size=6),
    st.sampled_from(["none", "label_match", "all"]),
)
def test_any_text_keeps_its_row_and_place(drawn: list[tuple[str, str | None, bool, str]], mode: str) -> None:
    samples = [row(t, label, clip=c, shown=shown and label is not None) for t, label, shown, c in drawn]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checked = check_rationales(samples, CARD, mode=mode)
    added = ("verdict", "reason", "agreement")
    assert [{k: v for k, v in s.items() if k not in added} for s in checked] == samples
    assert all((s["verdict"] == "dropped") == (s["reason"] is not None) for s in checked)
    assert all(s["verdict"] != "unlabelled" or s["label"] is None for s in checked)
    if mode == "all":
        again = check_rationales(checked, CARD, mode=mode)
        assert again == checked
