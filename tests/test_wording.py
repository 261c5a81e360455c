"""What a text claims and denies: strict about negation, enumeration, hedges, and names that are everyday words."""

import pytest

from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.verify import check_rationales, contradiction
from rbft_trl.evidence.wording import claimed_and_denied, without_classes
from tests.test_verify import CARD as HOME
from tests.test_verify import concluded, row

CARD = TaskCard(
    "t",
    dict.fromkeys(["normal", "abnormal", "running", "fire", "fire alarm", "hit and run", "no", "dorvan"], "x"),
    "?",
    "r",
    ("a",),
    HOME.prompts,
)
CONTRADICTIONS = [
    ("abnormal", "A man waters the plants. There are no signs of suspicious or abnormal behaviour."),
    ("abnormal", "Everything appears normal in the clip."),
    ("abnormal", "The family eats. It doesn't look abnormal."),
    ("running", "The boy isn\u2019t running, he sits on the grass."),
    ("fire alarm", "This is fire."),
    ("fire", "A fire alarm was not seen, and this is a fire alarm"),
    ("hit and run", "There is nothing of a hit and run."),
    ("dorvan", "One large circle moves right. Abnormal was ruled out, so the class normal fits."),
    ("dorvan", "The label dorvan is not likely here."),
    ("normal", "Therefore this is abnormal."),
    ("dorvan", "Dorvan is absent and a fire."),
]
SOUND = [
    ("abnormal", "It is a normal day. A man climbs the fence at night and hides his face."),
    ("abnormal", "Everything looks normal at first, but a man climbs the fence."),
    ("abnormal", "Everything is normal. Then a window breaks."),
    ("abnormal", "No person is seen in the normal yard, which is burning."),
    ("abnormal", "There is no doubt that this is abnormal."),
    ("abnormal", "This is not only abnormal, it is dangerous."),
    ("abnormal", "This is abnormal and not normal."),
    ("abnormal", "It could be normal."),
    ("abnormal", "It is normal or abnormal."),
    ("abnormal", "Abnormal cannot be ruled out."),
    ("no", "No one moves in the whole clip."),
    ("running", "A man stands beside the running track."),
    ("running", "He is not walking but running."),
    ("hit and run", "The car hits a man and drives on: a hit and run."),
    ("fire alarm", "The fire alarm rings. A fire is not visible."),
    ("dorvan", "one small red circle moving left quickly."),
    ("dorvan", ""),
]


@pytest.mark.parametrize(("label", "text"), CONTRADICTIONS)
def test_an_argument_against_its_own_conclusion_is_found(label: str, text: str) -> None:
    assert contradiction(text, label, CARD) == "contradiction", claimed_and_denied(text, CARD)


@pytest.mark.parametrize(("label", "text"), SOUND)
def test_no_contradiction_is_seen_where_there_is_none(label: str, text: str) -> None:
    assert contradiction(text, label, CARD) is None, claimed_and_denied(text, CARD)


def test_the_check_belongs_to_all_and_spares_the_pool() -> None:
    text = "A man sits on the porch and reads. There are no signs of a fire alarm."
    samples = [row(concluded(text)), row(concluded(text), None)]
    assert [s["reason"] for s in check_rationales(samples, HOME, mode="all")] == ["contradiction", None]
    assert [s["reason"] for s in check_rationales(samples, HOME, mode="label_match")] == [None, None]


def test_sentences_that_name_a_class_are_deleted() -> None:
    assert without_classes("A man runs. It is Fire  Alarm! Smoke;", CARD) == ("A man runs. Smoke.", True)
    assert without_classes("A man runs", CARD) == ("A man runs.", False)
    assert without_classes("Fire.", CARD) == ("", True)
