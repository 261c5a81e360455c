"""The card on the Hub: the figures, metadata that the Hub's own parser takes, names that change nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.card import macro_f1_interval, model_card, plain
from rbft_trl.evidence.metrics import compute_metrics

LABELS = {"cat": "a cat walks by", "dog": "a dog"}
FRAMES = {"num_frames": 8, "fps": None, "max_frames": 32, "min_pixels": 3136, "max_pixels": 151200}
ADAPTERS = {"use_peft": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "train_parts": ["llm"]}
STAGE1 = {"weights": "aaa111", "target": "rationale", "steps": 7, "presentations": 56, "adapters": ADAPTERS}
STAGE1 |= {"settings": {"learning_rate": 2e-4}, "hub": None}
STAGE1["rationales"] = {
    "options": {"label_shown": "blind"}, "checks": "label_match", "kept": {"overall": {"kept": 9, "total": 12}},
}  # fmt: skip
EVIL = [
    "a\n---\nlicense: evil", "x | y | z", "<script>alert(1)</script>", "[link](http://evil.example)", "# head",
    "![p](http://evil.example/p.png)", "`code`", "*bold* _it_", "$$x$$", "\u202egnp", "a\u2028b", "{{ 7 * 7 }}",
    "{% raw %}", "@someone", "~~x~~", "&lt;b&gt;", "--- | ---", "\\", "https://evil.example/x", "<!-- x",
]  # fmt: skip


def record(**changes: Any) -> dict[str, Any]:
    counts = {name: {"train": 10, "validation": 2, "test": 3} for name in changes.get("labels", LABELS)}
    data = {"counts": counts, "pool": 4, "groups": 9, "unreadable": 1, "source": None}
    data["split_by_seed"] = {"seed": 3, "shares": {"test": 0.15, "validation": 0.1}}
    whole = {"frames": FRAMES, "adapters": ADAPTERS, "target": "label", "steps": 12, "presentations": 96, "data": data}
    whole |= {"weights": "bbb222", "init": "aaa111", "parents": [STAGE1], "definitions": True, "base": "q/b@main"}
    whole |= {"recipe": {"learning_rate": 1e-4}, "versions": {"rbft_trl": "0.1.0"}, "best_validation": 0.8}
    return whole | changes


def task_card(labels: dict[str, str] = LABELS, name: str = "home", question: str = "What is it?") -> TaskCard:
    return TaskCard(name, labels, question, "You see.", ("light",), {"label": "", "rationale": "", "hint": ""})


def measured(names: list[str], right: int = 15, total: int = 20) -> dict[str, Any]:
    rows = []
    for i in range(total):
        gold = names[i % len(names)]
        said = gold if i < right else names[(i + 1) % len(names)]
        scores = {name: 0.9 if name == said else 0.1 / (len(names) - 1) for name in names}
        rows.append({"id": str(i), "label": gold, "prediction": said, "scores": scores, "seconds": 0.1})
    return compute_metrics(rows, names) | {"settings": {"options": {"split": "test"}, "checkpoint": "bbb222"}}


def write(whole: dict[str, Any], card: TaskCard, metrics: dict[str, Any] | None = None, **told: Any) -> str:
    facts = {"repo": "me/model", "base": "q/b@c0ffee", "init": None, "license": "mit", "answer": None}
    return model_card(whole, card, metrics, **facts | {"calibration": None} | told)


def test_the_hubs_own_parser_reads_metadata_and_results() -> None:
    metrics = measured(list(LABELS))
    parsed = ModelCard(write(record(), task_card(), metrics)).data
    accuracy, f1 = parsed.eval_results
    assert accuracy.metric_type == "accuracy" and accuracy.metric_value == round(metrics["accuracy"], 4)
    assert f1.metric_value == round(metrics["macro_f1"], 4) and f1.metric_args == {"average": "macro"}
    assert accuracy.task_type == "video-classification" and accuracy.dataset_split == "test"
    assert parsed.base_model == "q/b" and parsed["base_model_relation"] == "adapter" and parsed.license == "mit"
    assert parsed.pipeline_tag == "video-classification" and parsed.model_name == "model"


def test_the_card_says_what_was_measured_and_where_it_comes_from() -> None:
    metrics = measured(list(LABELS))
    text = write(record(), task_card(), metrics, calibration={"temperature": 1.5, "n": 40})
    low, high = metrics["accuracy_interval"]
    assert f"| accuracy | {metrics['accuracy']:.3f} | {low:.3f}-{high:.3f} |" in text and "(confusion.png)" in text
    for words in (
        "| cat | a cat walks by | 10 | 2 | 3 |", "On 20 clips of the test split", "temperature of 1.5", "seed 3",
        "| 1 | rationale | 7 | 56 | 0.0002 | aaa111 | a local folder, not pushed |", "| 2 | label | 12 | 96 |",
        "9 of 12 passed the checks (label\\_match)", "8 frames, evenly over the clip", "--init my_stage1",
        "test 15 %, validation 10 %", "was not run on a clip", 'from_pretrained("me/model")',
    ):  # fmt: skip
        assert words in text, words
    named = write(record(), task_card(), metrics, init="me/stage1@abc")
    assert "me/stage1\\@abc |" in named and "--init" not in named


def test_without_an_evaluation_no_figure_is_claimed() -> None:
    text = write(record(), task_card(), license=None)
    assert "Not evaluated" in text and "model-index" not in text and "confusion.png" not in text
    assert "license: unknown" in text and "validation score of 0.8, which is no test result" in text


def test_full_and_merged_weights_need_no_base() -> None:
    full = ADAPTERS | {"use_peft": False}
    merged = record(
        adapters=full, merged_from={"weights": "ccc"}, merged_check={"same": 5, "clips": 5, "largest_change": 0}
    )
    for whole, kind in ((record(adapters=full), "finetune"), (merged, "merge")):
        assert f"base_model_relation: {kind}\n" in write(whole, task_card())
        text = write(whole, task_card(), base=None)
        assert "base_model" not in text and "a base that was a local folder; no base is needed" in text


@pytest.mark.parametrize("evil", EVIL)
def test_names_change_nothing_of_card_and_metadata(evil: str) -> None:
    label = " ".join(evil.split())
    cards = []
    for labels, name, first in ((LABELS, "home", "cat"), ({label: evil, "dog": "a dog"}, evil, label)):
        answer = [{"label": first, "score": 0.5}]
        card, metrics = task_card(labels, name, name), measured(list(labels))
        cards.append(ModelCard(write(record(labels=labels), card, metrics, answer=answer)))
    ours, theirs = cards
    assert ours.data.to_dict().keys() == theirs.data.to_dict().keys() and theirs.data.license == "mit"
    assert shape_of(ours.text) == shape_of(theirs.text)
    assert "49" not in theirs.text.partition("## Results")[0]


def shape_of(text: str) -> list[tuple[str, str]]:
    """The elements of a Markdown text, tables, links and raw HTML included, without the words in them."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    flat = [each for token in tokens for each in (token.children or [token])]
    return [(token.type, token.tag) for token in flat if token.type != "text"]


def test_the_interval_of_macro_f1_holds_the_value_and_narrows() -> None:
    small, large = ([[8 * k, 2 * k, 0], [3 * k, 7 * k, 0]] for k in (1, 100))
    value = np.mean([2 * 8 / (10 + 11), 2 * 7 / (10 + 9)])
    for matrix in (small, large):
        low, high = macro_f1_interval(matrix)
        assert 0 <= low < value < high <= 1
    assert np.diff(macro_f1_interval(large)) < 0.2 * np.diff(macro_f1_interval(small))
    assert json.dumps(macro_f1_interval(small)) == json.dumps(macro_f1_interval(small))  # pushed again: the same card


def test_plain_keeps_words() -> None:
    assert plain("fire alarm, 24/7 (café)") == "fire alarm, 24/7 \\(café\\)" and plain(Path("a.b")) == "a.b"
