"""The toy domains: what decides each class is true, seen, and known to whom it should be."""

import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from rbft_trl import rationales
from rbft_trl.data.jsonl import read_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from toy import attribute_probe
from toy.attribute_probe import probe_cells
from toy.captions import true_shares
from toy.clips import main as make_clips
from toy.clips import plan, read_arguments
from toy.corpus import RESERVED
from toy.domains import DOMAINS
from toy.scenes import ATTRIBUTES, LABELS, LIGHTS, NUM_FRAMES, SIDE, draw_background, draw_scene, paths, render

CARDS = Path(__file__).resolve().parents[1] / "recipes/tasks"
COUNTS = "--labelled 1 --pool 8 --validation 8 --test 16 --workers 1"


@pytest.fixture(scope="module", params=DOMAINS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param)
    make_clips(["--domain", request.param, "--out", str(out), *COUNTS.split()])
    return request.param, out


def test_truth_and_table_agree_and_texts_name_no_class(made: tuple[str, Path]) -> None:
    domain, truth = DOMAINS[made[0]], {row["id"]: row for row in read_jsonl(made[1] / "attributes.jsonl")}
    rows = list(csv.DictReader((made[1] / "clips.csv").open()))
    assert {row["id"] for row in rows} == set(truth) and len(rows) == 8 + 8 + 8 + 16
    assert {row["label"] for row in rows if row["split"] == "test"} == set(domain.labels)
    for row in rows:
        said = truth[row["id"]]
        assert row["label"] in (said["label"], "") and (made[1] / row["video"]).is_file()
        shown = said.get("shown", said["label"])
        assert tuple(said[name] for name in domain.decides) == domain.labels[shown]
        assert said["guideline"] == f"{said['text']} {domain.definition(shown)}."
        assert not any(name in said["guideline"] for name in domain.labels)


def test_the_base_can_write_the_names_of_every_domain(made: tuple[str, Path], tmp_path: Path) -> None:
    """It repeats a hint, so that each class has rationales that pass: without them there is no RB-FT on the domain."""
    raw = yaml.safe_load((CARDS / DOMAINS[made[0]].card).read_text(encoding="utf-8"))
    raw["data"] = {"root": str(made[1]), "annotations": "clips.csv"}
    (card := tmp_path / "card.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    words = ["--task", str(card), "--shots", "1", "--output_file", str(tmp_path / "rationales.jsonl")]
    samples = rationales.main([str(CARDS.parent / "toy/rationales.yaml"), *words, "--label_shown", "hint"])
    kept = [s["label"] for s in samples if s["verdict"] == "kept"]
    assert set(kept) == set(raw["labels"]) and len(kept) == len(raw["labels"])


@pytest.mark.parametrize("name", DOMAINS)
def test_the_card_says_what_the_maker_does(name: str) -> None:
    domain, card = DOMAINS[name], TaskCard.from_yaml(CARDS / DOMAINS[name].card)
    assert card.labels == {label: domain.definition(label) for label in domain.labels}
    assert card.name == domain.card.removesuffix(".yaml")
    source = (CARDS / domain.card).read_text(encoding="utf-8")
    assert f"outputs/toy/{domain.folder}\n" in source
    assert f"how_to_get: python toy/clips.py{'' if name == 'far' else f' --domain {name}'}\n" in source


def test_the_demo_s_clips_are_stamped_as_before_there_were_domains(tmp_path: Path) -> None:
    counts = "--labelled 0 --pool 0 --validation 0 --test 3 --workers 1"
    make_clips(["--out", str(tmp_path), *counts.split()])
    stamp = json.loads((tmp_path / "made.json").read_text())
    assert stamp == {"shift": 0.65, "labelled": 0, "pool": 0, "validation": 0, "test": 3, "seed": 0}
    captions = [row["text"] for row in read_jsonl(tmp_path / "attributes.jsonl")]
    assert captions == [
        "one small red circle moving up slowly.",
        "three small blue triangles moving left quickly.",
        "three small blue squares moving right quickly.",
    ]


def test_no_name_of_a_domain_means_something_to_the_base() -> None:
    names = [name for domain in DOMAINS.values() for name in domain.labels if name not in LABELS]
    assert len(names) == len(set(names)) == 16 and not RESERVED & set(names)


def test_a_quarter_of_the_disputed_clips_show_another_class(tmp_path: Path) -> None:
    args = read_arguments(["--domain", "disputed", "--out", str(tmp_path), "--test", "2000"])
    entries = plan(args)
    for split in ("train", "validation", "test"):
        other = [entry["label"] != entry["shown"] for entry in entries if entry["split"] == split]
        assert abs(np.mean(other) - 0.25) < 4 * (0.25 * 0.75 / len(other)) ** 0.5
    assert all(entry["scene"].label == entry["shown"] for entry in entries)
    assert {entry["shown"] for entry in entries if entry["label"] == "dorvan"} == set(LABELS)


def test_neighbouring_speeds_lie_between_those_of_the_source() -> None:
    rng, ways = np.random.default_rng(0), {}
    for speed, neighbours, _ in product(ATTRIBUTES["speed"], (False, True), range(50)):
        centres, _ = paths(draw_scene(rng, speed=speed), rng, neighbours=neighbours)
        assert len(centres) == NUM_FRAMES
        ways.setdefault((speed, neighbours), []).append(np.abs(centres[-1] - centres[0]).sum(-1).mean())
    assert max(ways["slowly", False]) < max(ways["slowly", True]) < min(ways["quickly", True])
    assert max(ways["quickly", True]) < min(ways["quickly", False])
    assert min(ways["quickly", True]) - max(ways["slowly", True]) < 4 < 10


def test_the_light_is_in_the_pixels_and_not_in_what_happens() -> None:
    scene = draw_scene(np.random.default_rng(0))
    for side, tint in product(LIGHTS["side"], LIGHTS["tint"]):
        rng = np.random.default_rng(1)
        background = draw_background(rng)
        plain, where = render(scene, background, np.random.default_rng(2), shift=0.5)
        lit, lit_where = render(scene, background, np.random.default_rng(2), shift=0.5, light=(side, tint))
        assert np.array_equal(where, lit_where)
        gain = lit.astype(float).mean(0) / np.maximum(plain.astype(float).mean(0), 1)
        half = SIDE // 2
        sides = {
            "the left": gain[:, :half].mean() - gain[:, half:].mean(), "above": gain[:half].mean() - gain[half:].mean()
        }  # fmt: skip
        sides |= {"the right": -sides["the left"], "below": -sides["above"]}
        assert max(sides, key=sides.get) == side
        assert (gain[..., 0].mean() > gain[..., 2].mean()) == (tint == "warm")


def test_a_true_caption_tells_nothing_of_the_light(tmp_path: Path) -> None:
    args = read_arguments(["--domain", "unsaid", "--out", str(tmp_path), "--test", "6000"])
    entries = plan(args)
    for attribute, values in ATTRIBUTES.items():
        counts = np.array(
            [[sum(e["label"] == n and getattr(e["scene"], attribute) == v for e in entries) for v in values]
             for n in DOMAINS["unsaid"].labels]
        )  # fmt: skip
        expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
        freedom = (len(counts) - 1) * (len(values) - 1)
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5
    words = {word for entry in entries[:500] for word in entry["scene"].caption.rstrip(".").split()}
    assert not words & {"warm", "cold", "light", "above", "below"}


def test_captions_are_compared_with_the_truth(toy_set: tuple[Path, Path]) -> None:
    shares = true_shares(str(toy_set[0]), split="test")
    assert set(shares) == {*ATTRIBUTES, "all"} and shares["all"]["n"] == 24 * len(ATTRIBUTES)
    assert shares["motion"]["share"] > 0.8 > shares["shape"]["share"]  # at shift 0.3 it sees most, but shapes


def test_the_probe_reads_attributes_of_other_sources_and_goes_on(
    toy_set: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, made = tmp_path / "ladder_far.attributes.jsonl", {"": "base, card", "true_1x_lm": "as written"}
    probe_cells(tmp_path, kept, str(toy_set[0]), range(2), made)
    (line,) = read_jsonl(kept)
    assert (line["arm"], line["draw"], line["n"]) == ("base", None, 24)
    assert line["right"]["size"] > 0.7 and 0 < line["right"]["all"] < 1
    stage = tmp_path / "draw1/true_1x_lm/stage1"
    stage.mkdir(parents=True)
    (stage / "rbft.json").touch()
    asked = []
    found = {name: {"share": 0.5, "n": 24} for name in ATTRIBUTES} | {"all": {"share": 0.5, "n": 24 * len(ATTRIBUTES)}}
    monkeypatch.setattr(attribute_probe, "probe_attributes", lambda card, stage: asked.append(stage) or found)
    probe_cells(tmp_path, kept, str(toy_set[0]), range(2), made)
    assert asked == [str(stage)] and [(x["arm"], x["draw"]) for x in read_jsonl(kept)[1:]] == [("true_1x_lm", 1)]
    with pytest.raises(UserError, match="'true_1x_lm' was made with other settings than now"):
        probe_cells(tmp_path, kept, str(toy_set[0]), range(2), made | {"true_1x_lm": "otherwise"})


def test_a_checkpoint_that_is_not_there_is_told_before_the_base_is_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribute_probe, "probe_attributes", None)
    gone = str(tmp_path / "stage1")
    with pytest.raises(UserError, match=f"the checkpoint '{gone}' does not exist; train it"):
        attribute_probe.main(["--checkpoint", gone])
    (tmp_path / "stage1").mkdir()
    with pytest.raises(UserError, match=r"holds no rbft\.json, so it is no finished run"):
        attribute_probe.main(["--checkpoint", gone])
