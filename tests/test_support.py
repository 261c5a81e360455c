"""Rebuilding a label from the reasoning, and agreement of samples: known answers, planted faults, refusals."""

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import student
from rbft_trl.errors import UserError
from rbft_trl.evidence.support import Limits, agreements, margin_of, not_rebuilt, rebuilt_by_words
from rbft_trl.evidence.verify import check_rationales
from tests.test_verify import CARD, concluded, row

SEEN = {
    "normal": ["residents walk a dog", "a cat sleeps", "children play on the lawn"],
    "fire alarm": ["thick smoke rises", "bright flames burn the roof", "sparks and flames fly"],
    "dorvan": ["something small moves left", "a small thing rolls left", "small and slow to the left"],
}


def sound(clips: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Rationales whose reasoning fits their class, in other words from clip to clip."""
    draw = random.Random(seed)
    return [
        row(
            concluded(f"I look closely at it: {' and '.join(draw.sample(SEEN[name], 2))}.", name),
            name,
            clip=f"{name}{i}",
        )
        for name in SEEN
        for i in range(clips)
    ]


def test_the_label_is_rebuilt_from_other_clips_words() -> None:
    rebuilt = rebuilt_by_words(sound(), CARD)
    assert all(found["margin"] > 0 for found in rebuilt)
    assert [found["best"] for found in rebuilt] == [sample["label"] for sample in sound()]


def test_a_larger_margin_keeps_fewer_of_few_texts(capsys: pytest.CaptureFixture[str]) -> None:
    bad = row(concluded("I look closely at it: a cat sleeps.", "normal"), clip="x")  # passes no other check
    student.report("few", [[*sound(clips=3), bad]], CARD)
    lines = capsys.readouterr().out.splitlines()
    kept = [int(line.split("texts [")[1].split("]")[0]) for line in lines]
    assert all(line.startswith("few, margin ") and "of [9] texts" in line for line in lines) and len(kept) == 4
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1]


def test_the_benchmark_tells_what_it_cannot_read(tmp_path: Path) -> None:
    file, truth = tmp_path / "r.jsonl", tmp_path / "truth.jsonl"
    file.write_text('{"id": "a", "label": null, "text": "one thing"}\n{"id": "b"}\n')
    for words, message in (
        (["nowhere.jsonl"], "the file 'nowhere.jsonl' does not exist; correct its path"),
        ([str(file)], r"r\.jsonl:2: this is no rationale of a class of .*toy\.yaml"),
    ):
        with pytest.raises(UserError, match=message):
            student.main(words)
    file.write_text(file.read_text().splitlines()[0])
    truth.write_text('{"id": "a", "label": "cat"}')
    with pytest.raises(UserError, match=r"truth\.jsonl has no class of .*toy\.yaml for clip 'a'"):
        student.main([str(file), "--truth", str(truth)])


def test_what_argues_for_another_class_and_what_says_nothing_is_dropped() -> None:
    samples = sound()
    opposite = concluded("I look closely at it: thick smoke rises and sparks and flames fly.", "normal")
    samples[0] = samples[0] | {"text": opposite}
    samples[1] = samples[1] | {"text": concluded("I look at it for long and I am quite sure. It is normal.", "normal")}
    samples[2] = samples[2] | {"text": concluded("So normal. It is normal and normal again, as normal.", "normal")}
    limits = Limits(rebuild="words", rebuild_margin=0.5)
    checked = check_rationales(samples, CARD, mode="label_match", limits=limits)
    assert [s["reason"] for s in checked[:3]] == ["argues_other", "no_evidence", "no_evidence"]
    assert all(s["reason"] is None for s in checked[3:])
    assert checked == check_rationales(checked, CARD, mode="label_match", limits=limits)
    assert all(s["reason"] is None for s in check_rationales(samples, CARD, mode="label_match"))


def test_a_clip_never_teaches_its_own_judge() -> None:
    """The only evidence of the class are words that no other clip has: they cannot be learned from it."""
    samples = sound()
    own = "zebra zebras graze quietly everywhere"
    samples[0] = samples[0] | {"text": concluded(own, "normal")}
    samples.insert(1, samples[0] | {"sample": 1})
    alone = rebuilt_by_words(samples, CARD)[0]["margin"]
    more = rebuilt_by_words([*samples, samples[0] | {"id": "other"}], CARD)[0]["margin"]
    assert more > alone + 0.3


def test_a_class_of_one_clip_cannot_be_rebuilt() -> None:
    samples = [s for s in sound() if s["label"] != "dorvan" or s["id"] == "dorvan0"]
    with pytest.raises(UserError, match=r"class 'dorvan' has rationales of 1 clip only; .*rebuild: model or none"):
        check_rationales(samples, CARD, mode="label_match", limits=Limits(rebuild="words"))


def test_rows_without_scores_of_the_model_are_refused() -> None:
    with pytest.raises(UserError, match=r"written without 'rebuild: model', so clip 'normal0' has no score"):
        check_rationales(sound(), CARD, mode="all", limits=Limits(rebuild="model"))


@pytest.mark.parametrize(
    ("margin", "reason"),
    [(1.5, None), (1.0, None), (0.5, "no_evidence"), (-0.5, "no_evidence"), (-1.0, "argues_other")],
)
def test_the_margin_decides(margin: float, reason: str | None) -> None:
    sample = row("t") | {"rebuilt_model": {"best": "normal", "margin": margin}}
    assert not_rebuilt(sample, Limits(rebuild="model", rebuild_margin=1.0)) == reason
    assert not_rebuilt(sample | {"label": None}, Limits(rebuild="model", rebuild_margin=1.0)) is None


def test_margin_of_scores() -> None:
    assert margin_of({"a": -1.0, "b": -3.0, "c": -2.0}, "b") == {"best": "a", "margin": -2.0}


def test_agreement_of_final_lines_and_of_content_words() -> None:
    lines = [concluded("x", "normal"), concluded("y", "normal"), concluded("z"), "none at all"]
    samples = [row(text, "normal") for text in lines]
    assert agreements(samples, CARD) == pytest.approx([1 / 3, 1 / 3, 0, 0])
    pool = [row(text, None) for text in ("A small red ball.", "the small blue ball", "small ball, slowly")]
    # "small" and "ball" are said by both others, "red", "blue" and "slowly" by none
    assert agreements(pool, CARD) == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    hinted = [row(concluded(text), shown=True) for text in ("flames", "flames", "smoke")]
    assert agreements(hinted, CARD) == pytest.approx([0.5, 0.5, 0])


def test_a_denied_word_is_another_word_and_word_order_does_not_count() -> None:
    for one, other, agreement in (
        ("A man opens the door.", "No man opens the door.", 2 / 3),
        ("The man falls.", "The man didn\u2019t fall. He can't fall.", 1 / 2),  # "fall" is not "falls" anyhow
        ("He does not open the door", "He doesn't open the door", 1),
        ("I think not. A man waits", "I do think. A man waits", 1),  # it does not reach into the next sentence
        ("red hits blue", "blue hits red", 1),
    ):
        assert agreements([row(one, None), row(other, None)], CARD) == pytest.approx([agreement] * 2), one


def test_what_every_rationale_says_counts_next_to_nothing() -> None:
    """The two samples of each clip share "a ball moves" and differ in the colour; those of the last clip agree."""
    colours = [*((f"red{i}", f"blue{i}") for i in range(20)), ("green", "green")]
    samples = [row(f"a {one} ball moves", None, clip=str(i)) for i, pair in enumerate(colours) for one in pair]
    found = agreements(samples, CARD)
    assert max(found[:-2]) < 0.05 and found[-2:] == [1, 1]


def test_a_lone_sample_has_no_agreement_and_stays() -> None:
    (checked,) = check_rationales([row("Flames.", None)], CARD, mode="label_match", limits=Limits(min_agreement=1))
    assert checked["verdict"] == "unlabelled" and "agreement" not in checked
    assert agreements([row("", None), row("", None)], CARD) == [0, 0]


def test_blind_and_hinted_samples_of_a_clip_are_not_mixed() -> None:
    samples = [row(concluded("x")), row(concluded("y"), shown=True), row(concluded("y"), shown=True)]
    assert agreements(samples, CARD) == [None, 1, 1]


def test_disagreeing_samples_are_dropped_in_the_pool_too() -> None:
    samples = [row(t, None) for t in ("one red ball", "one red ball", "two green boxes")]
    checked = check_rationales(samples, CARD, mode="label_match", limits=Limits(min_agreement=0.5))
    assert [(s["verdict"], s["reason"]) for s in checked] == [
        ("unlabelled", None), ("unlabelled", None), ("dropped", "disagreement"),
    ]  # fmt: skip


def test_what_a_person_decided_stays() -> None:
    bad = row("no final line") | {"verdict": "kept", "reason": None, "reviewed": True}
    good = row(concluded("Bright flames rise from the pan.")) | {
        "verdict": "dropped",
        "reason": "reviewed",
        "reviewed": True,
    }
    checked = check_rationales([bad, good], CARD, mode="all")
    assert [(s["verdict"], s["reason"]) for s in checked] == [("kept", None), ("dropped", "reviewed")]
