"""Each known data set in small and in its official layout: converted, read back, checked; contradictions are told."""

import json
import shutil
from collections import Counter
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models._meta import _KINETICS400_CATEGORIES

from rbft_trl import check, convert
from rbft_trl.data.converters.common import class_names
from rbft_trl.data.converters.finediving import meaning
from rbft_trl.data.converters.write import CARDS, derived
from rbft_trl.data.splits import draw_shots
from rbft_trl.data.task import TaskCard, normalise
from rbft_trl.errors import UserError
from tests import miniatures
from tests.miniatures import BUILDERS, Builder, Make, convert_small, copy_of, notes, rows_of

EXPECTED = {  # train, validation, test clips; the kinds of notes
    "smarthome": ((13, 2, 3), {"vague"}),
    "multihateclip_en": ((6, 3, 3), set()),
    "multihateclip_zh": ((6, 3, 3), set()),
    "ucf101": ((8, 4, 4), set()),
    "hmdb51": ((6, 3, 3), {"not_in_fold", "divided_sources"}),
    "kinetics400": ((9, 3, 3), set()),
    "ssv2": ((6, 2, 2), set()),
    "finediving": ((5, 2, 3), {"divided_sources"}),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_official_layout_becomes_a_card_that_passes_every_check(
    name: str, small_sets: dict[str, Builder], tmp_path: Path
) -> None:
    report = convert_small(name, small_sets[name], tmp_path / "out")
    counts, kinds = EXPECTED[name]
    assert tuple(report["cards"][0]["clips"].values()) == counts and set(notes(report)) == kinds
    assert json.loads((tmp_path / "out/conversion.json").read_text()) == json.loads(json.dumps(report))
    path = report["cards"][0]["card"]
    assert check.main([path, "--report_dir", str(tmp_path / "check")]) == 0
    found = json.loads((tmp_path / "check/check.json").read_text())
    assert found["errors"] == 0 and sum(split["clips"] for split in found["splits"].values()) == sum(counts)
    card = TaskCard.from_yaml(path)
    if (CARDS / f"{name}.yaml").is_file():  # labels and definitions are those of the card that is shipped
        shipped = TaskCard.from_yaml(CARDS / f"{name}.yaml")
        assert card.labels.items() <= shipped.labels.items() and card.question == shipped.question


def test_names_groups_texts_and_parts(small_sets: dict[str, Builder], tmp_path: Path, make_clip: Make) -> None:
    ucf = rows_of(convert_small("ucf101", small_sets["ucf101"], tmp_path / "ucf101"))
    row = next(row for row in ucf if "HandStand" in row["video"] and "g09" in row["video"])
    assert row["video"] == "HandstandPushups/v_HandStandPushups_g09_c01.avi"
    assert (row["label"], row["group"]) == ("handstand pushups", "HandstandPushups_g09")
    hmdb = rows_of(convert_small("hmdb51", small_sets["hmdb51"], tmp_path / "hmdb51"))
    assert {"Alpha_Dog (train)", "Alpha_Dog (test)", "April_09"} <= {row["group"] for row in hmdb}
    assert {row["label"] for row in hmdb} == {"brush hair", "climb", "climb stairs"}
    hate = rows_of(convert_small("multihateclip_zh", small_sets["multihateclip_zh"], tmp_path / "hate"))
    assert {row["context"] for row in hate} == {
        f"A & {label} so it goes" for label in ("Normal", "Offensive", "Hateful")
    }
    home = convert_small("smarthome", small_sets["smarthome"], tmp_path / "home")
    assert {row["group"] for row in rows_of(home)} >= {"l3qobJDgN00", "smartbench_0018"}
    oracle = [json.loads(line) for line in (tmp_path / "home/oracle_texts.jsonl").read_text().splitlines()]
    assert oracle[0] == {"id": "smartbench_0001.mp4", "text": 'A "cat" 1, walks. It is expected.'}
    assert {line["id"] for line in oracle} == {row["id"] for row in rows_of(home)}
    dives = rows_of(
        convert_small("finediving", miniatures.finediving(tmp_path / "long", make_clip, trimmed=False), tmp_path / "d")
    )
    parts = {(row["start"], row["end"]) for row in dives}
    assert parts == {(0.0, 1.0), (1.25, 2.25)}
    splits = {row["group"]: {r["split"] for r in dives if r["group"] == row["group"]} for row in dives}
    assert all(len(inside) == 1 for inside in splits.values()) and len(splits) == 5


def test_untrimmed_dives_pass_every_check(make_clip: Make, tmp_path: Path) -> None:
    report = convert_small("finediving", miniatures.finediving(tmp_path, make_clip, trimmed=False), tmp_path / "out")
    assert set(notes(report)) == {"no_official_split"}
    assert check.main([report["cards"][0]["card"], "--report_dir", str(tmp_path / "check")]) == 0


@pytest.mark.parametrize("name", ["kinetics400", "ssv2"])
def test_without_test_labels_validation_is_the_test(
    name: str, small_sets: dict[str, Builder], make_clip: Make, tmp_path: Path
) -> None:
    b = copy_of(small_sets[name], tmp_path)
    if name == "ssv2":
        (b.annotations / "labels/test-answers.csv").unlink()
    else:
        text = (b.annotations / "test.csv").read_text(encoding="utf-8-sig")
        (b.annotations / "test.csv").write_text(
            "\n".join(line.rpartition(",")[0].split(",", 1)[1] for line in text.splitlines())
        )
        (b.annotations / "val.csv").rename(b.annotations / "validate.csv")
    report = convert_small(name, b, tmp_path / "out")
    assert report["cards"][0]["clips"]["test"] == {"kinetics400": 3, "ssv2": 2}[name]
    assert report["cards"][0]["clips"]["validation"] > 0
    assert set(notes(report)) == {"validation_is_test"}
    own = {row["video"] for row in rows_of(report) if row["split"] == "test"}
    official = {
        row["video"]
        for row in rows_of(convert_small(name, small_sets[name], tmp_path / "o"))
        if row["split"] == "validation"
    }
    assert own == official


def test_clips_are_found_by_name_in_any_folder_and_container(
    small_sets: dict[str, Builder], tmp_path: Path, make_clip: Make
) -> None:
    b = copy_of(small_sets["ssv2"], tmp_path)
    b.clips = tmp_path / "clips"
    for file in small_sets["ssv2"].clips.rglob("*.webm"):
        b.clip(f"some/{file.stem}.mp4")
    b.clip("other/101.mp4")
    report = convert_small("ssv2", b, tmp_path / "out")
    assert notes(report) == {"several_files": ["101"]}
    assert {row["video"] for row in rows_of(report)} >= {"other/101.mp4", "some/102.mp4"}


def test_a_dataset_on_the_hub(small_sets: dict[str, Builder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hub/datasets--org--ucf/snapshots/0123"
    shutil.copytree(small_sets["ucf101"].annotations, folder / "lists")
    for file in small_sets["ucf101"].clips.rglob("*.avi"):  # links to blobs, as in the Hub's cache
        blob = tmp_path / "hub/datasets--org--ucf/blobs" / file.name
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(file.read_bytes())
        (link := folder / "videos" / file.relative_to(small_sets["ucf101"].clips)).parent.mkdir(
            parents=True, exist_ok=True
        )
        link.symlink_to(blob)
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(folder)
    )
    where = ["--dataset", "org/ucf", "--revision", "v1", "--annotations", "lists"]
    report = convert.main(["ucf101", *where, "--clips", "videos", "--output", str(tmp_path / "out")])
    path = report["cards"][0]["card"]
    assert yaml.safe_load(Path(path).read_text())["data"]["dataset"] == "org/ucf"
    assert check.main([path, "--report_dir", str(tmp_path / "check")]) == 0
    assert {(name, options["revision"]) for name, options in asked} == {("org/ucf", "v1")}
    assert all(row["video"].startswith("videos/") for row in rows_of(report))
    with pytest.raises(UserError, match="leaves the dataset"):
        convert.main(["ucf101", *where, "--clips", "../..", "--output", str(tmp_path / "other")])


def test_few_shot_draws_of_a_converted_card(small_sets: dict[str, Builder], tmp_path: Path) -> None:
    rows = rows_of(convert_small("ucf101", small_sets["ucf101"], tmp_path / "out"))
    draws = [draw_shots(rows, 1, seed=seed) for seed in (0, 0, 1, 2, 3)]
    train = [tuple(row["id"] for row in draw if row["split"] == "train") for draw in draws]
    assert train[0] == train[1] and len(set(train)) > 1
    for draw in draws:
        assert set(Counter(row["label"] for row in draw if row["split"] == "train").values()) == {1}
        assert sum(row["split"] != "train" for row in draw) == sum(row["split"] != "train" for row in rows)


@given(st.lists(st.text(st.sampled_from("aBcD_ 1İ-"), min_size=1, max_size=6), unique=True, max_size=8))
def test_class_names_stay_apart_or_are_refused(names: list[str]) -> None:
    try:
        ours = class_names(names)
    except UserError as error:
        assert "rename one of them" in str(error)
    else:
        assert list(ours) == names
        assert len({normalise(name) for name in ours.values()}) == len(names) and all(map(normalise, ours.values()))


def test_shipped_cards_hold_every_official_class() -> None:
    labels = {path.stem: TaskCard.from_yaml(path).labels for path in CARDS.glob("*.yaml")}
    counts = {"ucf101": 101, "hmdb51": 51, "kinetics400": 400, "finediving": 52, "smarthome": 2, "multihateclip_en": 3}
    assert {name: len(labels[name]) for name in counts} == counts
    assert labels["multihateclip_zh"] == labels["multihateclip_en"]
    assert labels["kinetics400"] == {name: derived(name) for name in sorted(_KINETICS400_CATEGORIES)}
    assert labels["finediving"] == {number: meaning(number) for number in sorted(labels["finediving"])}
    for name in ("ucf101", "hmdb51"):
        assert len(set(labels[name].values())) == counts[name], "no two classes are defined alike"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("107B", "a forward dive, 3 1/2 somersaults, pike"),
        ("409c", "an inward dive, 4 1/2 somersaults, tuck"),
        ("113C", "a forward dive, 1 1/2 somersaults with a flying phase, tuck"),
        ("5231D", "a twisting dive, back, 1 1/2 somersaults and 1/2 twist, free position"),
        ("626C", "a dive from a handstand, back, 3 somersaults, tuck"),
        ("6243D", "a dive from a handstand, back, 2 somersaults and 1 1/2 twists, free position"),
        ("99Z", "the dive with the number 99Z"),
    ],
)
def test_the_number_of_a_dive_in_words(number: str, words: str) -> None:
    assert meaning(number) == words
