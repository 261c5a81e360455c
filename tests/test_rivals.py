"""Rivals without training, majority, voting heads (SAVs) and in-context examples, against plain re-computation."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rbft_trl import eval as evaluation
from rbft_trl.configs import EvalArguments
from rbft_trl.data.jsonl import read_json, read_jsonl
from rbft_trl.data.task import TaskCard
from rbft_trl.errors import UserError
from rbft_trl.model import inference
from rbft_trl.model.collator import ClipCollator
from rbft_trl.model.heads import best_heads, fit_heads, number_of_heads, read_heads, watched
from rbft_trl.model.in_context import InContext
from rbft_trl.model.inference import LabelScorer, prefill, write
from rbft_trl.model.loading import load_base, load_processor
from tests.helpers import base_arguments, make_collator, toy_recipe
from tests.tiny_families import FAMILIES, LINEAR, frame_settings, tiny_base


@pytest.fixture(scope="module")
def table(toy_set: tuple[Path, Path]) -> list[dict]:
    rows = list(csv.DictReader((toy_set[1] / "clips.csv").open(encoding="utf-8")))
    return [row | {"label": row["label"] or None, "group": row["id"]} for row in rows]


@pytest.fixture(scope="module")
def train(table: list[dict]) -> list[dict]:
    """Three clips of each class."""
    labelled = [row for row in table if row["split"] == "train" and row["label"]]
    return [row for i, row in enumerate(labelled) if [r["label"] for r in labelled[:i]].count(row["label"]) < 3]


@pytest.fixture(scope="module", params=FAMILIES)
def made(
    request: pytest.FixtureRequest, toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, torch.nn.Module, ClipCollator]:
    """(family, model, collator) of a tiny base of each family."""
    folder = tiny_base(request.param, tmp_path_factory.mktemp("tiny"), smoke_base)
    frames = frame_settings(request.param)
    card, root = toy_set
    collator = ClipCollator(load_processor(str(folder)), TaskCard.from_yaml(card), root, frames, definitions=False)
    return request.param, load_base(base_arguments(folder), device="cpu").eval(), collator


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_what_is_watched_is_what_o_proj_mixes(made: tuple, train: list[dict]) -> None:
    """Every attention layer of the language model, and no other; with padding too."""
    family, model, collator = made
    layers = [m for name, m in model.named_modules() if name.endswith("self_attn") and "visual" not in name]
    outputs: list[torch.Tensor] = []
    hooks = [m.register_forward_hook(lambda _, __, out: outputs.append(out[0][:, -1])) for m in layers]
    batch = collator.prompts(train[:2], ["A short prompt.", collator.label_prompt(train[1])])
    with watched(model) as seen:
        prefill(model, batch)
    for hook in hooks:
        hook.remove()
    config = model.config.get_text_config()
    assert len(seen) == len(layers) == (1 if family == LINEAR else config.num_hidden_layers)
    assert number_of_heads(config) == len(seen) * config.num_attention_heads
    for layer, heads, mixed in zip(layers, seen, outputs, strict=True):
        assert torch.allclose(layer.o_proj(heads.flatten(1)), mixed, atol=1e-6)
    assert not any(m._forward_pre_hooks for m in model.modules() if type(m) is torch.nn.Linear)


def test_heads_are_chosen_and_vote_as_in_plain_loops(made: tuple, table: list[dict], train: list[dict]) -> None:
    _, model, collator = made
    names = collator.card.names
    outputs = {row["id"]: read_heads(model, collator, [row])[0].numpy() for row in train}
    heads = len(outputs[train[0]["id"]])
    right = []
    for head in range(heads):
        hits = 0
        for row in train:
            others = [r for r in train if r["id"] != row["id"]]
            means = [np.mean([outputs[r["id"]][head] for r in others if r["label"] == n], axis=0) for n in names]
            near = [cosine(outputs[row["id"]][head], mean) for mean in means]
            hits += names[int(np.argmax(near))] == row["label"]
        right.append(hits)
    best = sorted(range(heads), key=lambda head: -right[head])[:3]
    ordered = sorted(train, key=lambda row: row["id"])
    stacked = np.stack([outputs[row["id"]] for row in ordered])
    labels = np.array([names.index(row["label"]) for row in ordered])
    assert best_heads(stacked, labels, len(names))[:3].tolist() == best

    tested = [row for row in table if row["split"] == "test"][:3]
    clips = [collator.read_row(row) for row in tested]
    found = fit_heads(Accelerator(cpu=True), model, collator, train, 4, keep=3)(tested, clips)
    for row, logprobs in zip(tested, found, strict=True):
        said = read_heads(model, collator, [row])[0].numpy()
        votes, nearness = np.zeros(len(names)), np.zeros(len(names))
        for head in best:
            means = [np.mean([outputs[r["id"]][head] for r in train if r["label"] == n], axis=0) for n in names]
            near = [cosine(said[head], mean) for mean in means]
            votes[int(np.argmax(near))] += 1
            nearness += np.array(near) / len(best)
        expected = votes + (1 + nearness) / 2
        assert logprobs.exp().numpy() == pytest.approx(expected / expected.sum(), abs=1e-5)


def test_examples_stand_before_the_clip_as_the_template_has_them(made: tuple, train: list[dict]) -> None:
    """The tokens are those of the whole conversation rendered at once; the clips come in its order."""
    collator = made[2]
    text = collator.card.label_prompt(definitions=False)
    messages = []
    for row in train[:3]:
        messages.append({"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": row["label"]}]})
    clips = [collator.read_row(row) for row in train[:3]]
    turns = [(row, clip, row["label"]) for row, clip in zip(train[:3], clips, strict=True)]
    turns[-1] = (*turns[-1][:2], None)
    batch = collator.conversations([turns, turns[-1:]])
    whole = collator.processor.apply_chat_template(
        messages[:-1], add_generation_prompt=True, tokenize=False, enable_thinking=False
    )
    video, single = collator.processor.video_token_id, collator.prompts(train[:1], [text])["input_ids"][0].tolist()
    marks = single[len(collator.opening_ids) : len(single) - len(collator.encode(text)) - len(collator.after_ids)]
    found = [token for token in batch["input_ids"][0].tolist() if token != video]
    stamps = [token for token in marks if token != video]
    kept = collator.tokenizer(whole, add_special_tokens=False).input_ids
    start = collator.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    end = collator.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    spread: list[int] = []
    for token in (token for token in kept if token != video):
        spread += stamps if token == start else [] if token == end else [token]  # the processor writes its own marks
    assert found == spread
    last = batch["input_ids"][1][batch["attention_mask"][1].bool()].tolist()
    assert last == collator.prompts(train[2:3], [text])["input_ids"][0].tolist()
    pixels = [collator.prompts([row], [text])["pixel_values_videos"] for row in train[:3]]
    assert torch.equal(batch["pixel_values_videos"], torch.cat([*pixels, pixels[-1]]))


def test_in_context_scores_equal_full_forwards(made: tuple, table: list[dict], train: list[dict]) -> None:
    """The two most similar clips by features, the nearest last, and each label in a forward of its own."""
    _, model, collator = made
    scorer = LabelScorer(collator)
    method = InContext(Accelerator(cpu=True), model, scorer, train, 4, examples=2)
    tested = [row for row in table if row["split"] == "test"][:2]
    clips = [collator.read_row(row) for row in tested]
    _, scores = method(tested, clips)

    def features(row: dict) -> np.ndarray:
        return prefill(model, collator.prompts([row], [collator.label_prompt(row)])).features[0].numpy()

    known = {row["id"]: features(row) for row in train}
    mean, sd = np.mean(list(known.values()), axis=0), np.std(list(known.values()), axis=0)
    for row, clip, found in zip(tested, clips, scores, strict=True):
        own = (features(row) - mean) / sd
        near = sorted(train, key=lambda r: cosine(own, (known[r["id"]] - mean) / sd))[-2:]
        turns = [(r, collator.read_row(r), r["label"]) for r in near] + [(row, clip, None)]
        for name, score in zip(collator.card.names, found.tolist(), strict=True):
            batch = collator.conversations([turns])
            ids = torch.tensor([[*collator.encode(name), collator.end_id]])
            start = batch["input_ids"].shape[1]
            batch["input_ids"] = torch.cat([batch["input_ids"], ids], 1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            batch["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(ids)], 1)
            with torch.no_grad():
                logprobs = model(**batch).logits[0, start - 1 : -1].log_softmax(-1)
            assert score == pytest.approx(float(logprobs.gather(1, ids.T).sum()), abs=1e-4)


def test_majority_loads_no_model(toy_set: tuple, smoke_base: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: ANN001
    """Three clips of one class and two of the others: that class, for every clip."""
    monkeypatch.setattr(evaluation, "load_for_inference", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(inference, "prefill", lambda *_: pytest.fail("a clip was read"))
    card = tmp_path / "card.yaml"
    root = tmp_path / "clips"
    shutil.copytree(toy_set[1], root)
    lines = (toy_set[1] / "clips.csv").read_text().splitlines()
    labels = [line.split(",")[2] for line in lines]
    dropped = [i for i, line in enumerate(lines) if ",train," in line and labels[i] and labels[i] != "dorvan"][::3]
    (root / "clips.csv").write_text("\n".join(line for i, line in enumerate(lines) if i not in dropped) + "\n")
    card.write_text(toy_set[0].read_text().replace(str(toy_set[1]), str(root)))
    common = {"output_dir": tmp_path / "out", "method": "majority", "shots": ..., "draw": ...}
    recipe = toy_recipe("eval", tmp_path, card, smoke_base, **common)
    metrics = evaluation.main([recipe])
    predictions = read_jsonl(tmp_path / "out/predictions.jsonl")
    assert {p["prediction"] for p in predictions} == {"dorvan"} and metrics["n"] == 24
    assert metrics["accuracy"] == pytest.approx(3 / 24) and metrics["brier"] < 1
    kept = [line.split(",") for line in (root / "clips.csv").read_text().splitlines()]
    counts = {name: sum(r[2] == name and r[3] == "train" for r in kept) for name in predictions[0]["scores"]}
    total = sum(counts.values()) + len(counts)
    assert predictions[0]["scores"] == pytest.approx({name: (n + 1) / total for name, n in counts.items()})


def test_reason_scores_labels_behind_what_it_writes(made: tuple, table: list[dict]) -> None:
    """Each label in a forward of its own, behind the prompt and the written text without its conclusion."""
    _, model, collator = made
    tested = [row for row in table if row["split"] == "test"][:2]
    texts, cut, scores = LabelScorer(collator).reasoned(model, tested, max_new_tokens=6)
    assert cut == [True, True]
    for row, text, found in zip(tested, texts, scores, strict=True):
        batch = collator.prompts([row], [collator.rationale_prompt(row)])
        assert write(model, prefill(model, dict(batch)), collator, max_new_tokens=6)[0] == [text]
        begun = collator.encode(f"{text.rstrip()}\nClassification:".lstrip())
        for name, score in zip(collator.card.names, found.tolist(), strict=True):
            said = [*collator.encode(f" {name}"), collator.end_id]
            ids = torch.tensor([[*begun, *said]])
            whole = dict(batch) | {"input_ids": torch.cat([batch["input_ids"], ids], 1)}
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
            whole["mm_token_type_ids"] = torch.cat([batch["mm_token_type_ids"], torch.zeros_like(ids)], 1)
            with torch.no_grad():
                logprobs = model(**whole).logits[0, -len(said) - 1 : -1].log_softmax(-1)
            assert score == pytest.approx(float(logprobs.gather(1, torch.tensor([said]).T).sum()), abs=1e-4)


def test_the_words_before_a_label_end_where_training_ends_them(made: tuple) -> None:
    collator = made[2]
    for name in collator.card.names:
        trained = collator.encode(f"It moves.\n{collator.card.final_line(name)}")
        assert trained == collator.encode("It moves.\nClassification:") + collator.encode(f" {name}")


@pytest.mark.parametrize("method", ["heads", "in_context", "reason"])
def test_an_evaluation_with_every_method(toy_set: tuple, smoke_base: Path, tmp_path: Path, method: str) -> None:
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "out", method=method)
    metrics = evaluation.main([recipe])
    assert metrics["n"] == 24 and metrics["invalid_rate"] == 0 and 0 < metrics["brier"] < 2
    assert (metrics["generated_accuracy"] is None) == (method == "heads")
    assert evaluation.main([recipe]) == metrics  # reused
    assert metrics["settings"]["options"]["method"] == method
    other = {"heads": "--num_heads", "in_context": "--num_examples", "reason": "--max_new_tokens"}[method]
    with pytest.raises(UserError, match=r"output_dir .* holds an evaluation with options"):
        evaluation.main([recipe, other, "2"])


def test_what_does_not_fit_stops_before_the_model(
    toy_set: tuple, smoke_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "load_for_inference", lambda *_, **__: pytest.fail("a model was loaded"))
    large = ["--min_pixels", "50176", "--max_pixels", "50176"]
    for argv, said in (
        (["--method", "in_context", "--num_examples", "17"], "num_examples is 17 but there are 16 training clips"),
        (
            ["--method", "in_context", "--num_examples", "16", *large],
            r"prompt would have \d+ tokens, but the base",
        ),
        (["--method", "heads", "--num_heads", "99"], r"num_heads is 99 but the base has \d+ attention heads"),
        (["--method", "heads", "--shots", "1"], r"heads needs 2 training clips per class, '.*' has 1"),
        (["--method", "probe", "--shots", "1"], r"the probe needs 2 training clips per class, '.*' has 1"),
    ):
        recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "out")
        with pytest.raises(UserError, match=said):
            evaluation.main([recipe, *argv])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "majority", "checkpoint": "x"}, "'checkpoint' is 'x' but the method is majority, which loads no"),
        ({"method": "majority", "frame_order": "shuffled"}, "'frame_order' is 'shuffled' but the method is majority"),
        ({"method": "heads", "label_score": "mean"}, "'label_score' is 'mean' but the method is heads"),
        ({"method": "majority", "label_score": "mean"}, "'label_score' is 'mean' but the method is majority"),
        ({"num_heads": 5}, "'num_heads' is '5' but the method is score, which has no voting heads"),
        (
            {"method": "heads", "num_examples": 5},
            "'num_examples' is '5' but the method is heads, which has no examples",
        ),
        ({"method": "reason", "generate": False}, "'generate' is 'False' but the method is reason, which writes"),
        ({"method": "in_context", "num_examples": 0}, "'num_examples' is 0 but must be at least 1"),
        (
            {"frame_order": "shuffled", "calibrate": True, "split": "validation", "checkpoint": "x"},
            "calibrate is for clips as they are",
        ),
    ],
)
def test_an_option_that_a_method_ignores_is_an_error(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        EvalArguments(output_dir="out", **options)


def test_shuffled_frames_are_another_evaluation(toy_set: tuple, smoke_base: Path, tmp_path: Path) -> None:
    """Recorded in metrics.json; the scores are those of the clips with their frames in the row's order."""
    recipe = toy_recipe("eval", tmp_path, toy_set[0], smoke_base, output_dir=tmp_path / "out", generate=False)
    plain = evaluation.main([recipe])
    shuffled = evaluation.main([recipe, "--frame_order", "shuffled", "--output_dir", str(tmp_path / "mixed")])
    assert (plain["frame_order"], shuffled["frame_order"]) == ("original", "shuffled")
    assert read_json(tmp_path / "mixed/metrics.json")["settings"]["options"]["frame_order"] == "shuffled"
    assert "frame_order" not in plain["settings"]["options"]  # finished evaluations from before are still reused
    one, other = (read_jsonl(tmp_path / name / "predictions.jsonl") for name in ("out", "mixed"))
    assert [p["id"] for p in one] == [p["id"] for p in other]
    assert all(a["logprobs"] != b["logprobs"] for a, b in zip(one, other, strict=True))
    collator = make_collator(*toy_set, smoke_base)
    model = load_base(base_arguments(smoke_base), device="cpu").eval()
    rows = [p | {"order": "shuffled"} for p in other[:2]]
    expected = LabelScorer(collator).read(model, rows)[1].tolist()
    assert [list(p["logprobs"].values()) for p in other[:2]] == [pytest.approx(e, abs=1e-4) for e in expected]
    with pytest.raises(UserError, match="holds an evaluation with"):
        evaluation.main([recipe, "--frame_order", "shuffled"])
