"""The card of a classifier on the Hub: labels, metrics with intervals, data, lineage, frames, a snippet, metadata.

Input: the public record, the task card and metrics.json. Output: the text of README.md.
"""

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rbft_trl.data.task import TaskCard
from rbft_trl.evidence.metrics import wilson_interval

REPLICATES = 2000
MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$@:^=])")
KINDS = {"rationale": "rationales (stage 1)", "label": "labels", "rationale_label": "rationale, then label"}
KINDS |= {"label_rationale": "label, then rationale", "joint": "labels and rationales (one joint loss)"}


def model_card(
    record: dict[str, Any],
    card: TaskCard,
    metrics: dict[str, Any] | None,
    *,
    repo: str,
    base: str | None,
    init: str | None,
    license: str | None,
    answer: list[dict[str, Any]] | None,
    calibration: dict[str, Any] | None,
) -> str:
    """README.md of a pushed model.

    Args:
        record (`dict`): The public record.
        card (`TaskCard`): Labels, definitions and prompts.
        metrics (`dict`, *optional*): metrics.json of these weights.
        repo (`str`): `user/name`.
        base (`str`, *optional*): `organisation/name@commit`.
        init (`str`, *optional*): The pushed parent, `base`, or None for a parent that was a local folder.
        license (`str`, *optional*): `unknown` if left out.
        answer (`list`, *optional*): What the snippet printed.
        calibration (`dict`, *optional*): calibration.json.
    """
    record = dict.fromkeys(("unfinished", "merged_from", "merged_check", "best_validation", "shots", "draw")) | record
    kind = "adapter" if record["adapters"]["use_peft"] else "merge" if record.get("merged_from") else "finetune"
    view = {
        "record": record, "card": card, "metrics": metrics, "repo": Markup(repo), "base": base, "init": init,
        "license": license, "answer": answer, "calibration": calibration, "kind": kind, "stages": _stages(record),
        "frames": _frames(record["frames"]), "rows": metric_rows(metrics) if metrics else [],
        "classes": class_rows(metrics) if metrics else [], "data": record.get("data"),
        "step": KINDS[record["target"]], "rationales": _rationales(record),
    }  # fmt: skip
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=plain
    )
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    body = environment.from_string(template).render(view)
    return f"---\n{metadata(record, card, metrics, repo=repo, base=base, license=license, kind=kind)}\n---\n\n{body}"


def plain(value: Any) -> str:
    """A value as text that Markdown, HTML and tables take for nothing else; what is already Markup stays."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    text = MARKDOWN.sub(r"\\\1", one_line(str(value)))
    return Markup(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def one_line(text: str) -> str:
    """Without line breaks, control and direction marks, which could end a table, a metadata block or a sentence."""
    kept = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co") else c for c in text)
    return " ".join(kept.split())


def metadata(
    record: dict[str, Any],
    card: TaskCard,
    metrics: dict[str, Any] | None,
    *,
    repo: str,
    base: str | None,
    license: str | None,
    kind: str,
) -> str:
    """The YAML block that the Hub reads, `model-index` included."""
    source = (record.get("data") or {}).get("source") or {}
    tags = ["rbft", "video-classification", "trl", *(["peft", "lora"] if kind == "adapter" else [])]
    data = ModelCardData(
        base_model=base and base.partition("@")[0],
        base_model_relation=kind if base else None,
        datasets=[source["dataset"]] if source else None,
        eval_results=eval_results(card, metrics, source) if metrics else None,
        library_name="rbft_trl",
        license=one_line(license or "unknown"),
        metrics=["accuracy", "f1"] if metrics else None,
        model_name=repo.rpartition("/")[2] if metrics else None,
        pipeline_tag="video-classification",
        tags=tags,
    )
    return data.to_yaml()


def eval_results(card: TaskCard, metrics: dict[str, Any], source: dict[str, Any]) -> list[EvalResult]:
    """Accuracy and macro-F1 as the Hub shows them."""
    name = one_line(card.name)[:100]
    dataset = source.get("dataset") or re.sub(r"\W+", "-", name.casefold()).strip("-") or "private"
    common = {"task_type": "video-classification", "dataset_type": dataset, "dataset_name": name}
    common |= {"dataset_split": (metrics.get("settings") or {}).get("options", {}).get("split", "test")}
    if source:
        common["dataset_revision"] = source["revision"]
    low, high = metrics["accuracy_interval"]
    return [
        EvalResult(
            metric_type="accuracy",
            metric_value=round(metrics["accuracy"], 4),
            metric_name=f"accuracy (95 % interval {low:.3f}-{high:.3f}, n = {metrics['n']})",
            **common,
        ),
        EvalResult(
            metric_type="f1",
            metric_value=round(metrics["macro_f1"], 4),
            metric_name="macro-F1",
            metric_args={"average": "macro"},
            **common,
        ),
    ]


def metric_rows(metrics: dict[str, Any]) -> list[tuple[str, float, list[float] | None]]:
    """`(name, value, 95 % interval or None)` of the main figures."""
    invalid = round(metrics["invalid_rate"] * metrics["n"])
    return [
        ("accuracy", metrics["accuracy"], metrics["accuracy_interval"]),
        ("macro-F1", metrics["macro_f1"], macro_f1_interval(metrics["confusion"]["matrix"])),
        ("without a valid label", metrics["invalid_rate"], wilson_interval(invalid, metrics["n"])),
        ("Brier score (0 to 2, lower is better)", metrics["brier"], None),
        ("chance", metrics["chance"], None),
        ("always the most frequent class", metrics["majority"], None),
    ]


def macro_f1_interval(matrix: list[list[int]], *, seed: int = 0) -> list[float]:
    """95 % percentile interval of macro-F1 over clips drawn anew from the confusion matrix.

    Args:
        matrix (`list[list[int]]`): Gold × predicted, the last column without a valid prediction.
        seed (`int`, *optional*, defaults to 0): Of the draws.
    """
    counts = np.array(matrix)
    shares = counts.ravel() / counts.sum()
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), shares, size=REPLICATES)
    drawn = drawn.reshape(REPLICATES, *counts.shape)
    right = np.diagonal(drawn, axis1=1, axis2=2)
    both = drawn.sum(2) + drawn[:, :, : counts.shape[0]].sum(1)
    f1 = np.divide(2 * right, both, out=np.zeros(right.shape), where=both > 0).mean(1)
    return [float(edge) for edge in np.percentile(f1, [2.5, 97.5])]


def class_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Per class precision and recall with Wilson intervals, F1 and support."""
    rows = []
    for index, (name, figures) in enumerate(metrics["per_class"].items()):
        matrix = np.array(metrics["confusion"]["matrix"])
        right, said, gold = int(matrix[index, index]), int(matrix[:, index].sum()), int(matrix[index].sum())
        intervals = {"precision": wilson_interval(right, said) if said else None}
        intervals["recall"] = wilson_interval(right, gold) if gold else None
        rows.append({"name": name, "intervals": intervals} | figures)
    return rows


def _stages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """This stage and its parents, the first one first."""
    own = {key: record.get(key) for key in ("weights", "target", "steps", "presentations", "adapters")}
    own |= {"settings": record["recipe"], "hub": None, "own": True}
    return [*reversed([parent | {"own": False} for parent in record.get("parents", [])]), own]


def _frames(frames: dict[str, Any]) -> str:
    if frames["fps"]:
        many = f"{frames['fps']:g} frames per second, at most {frames['max_frames']}"
    else:
        many = f"{frames['num_frames']} frames, evenly over the clip"
    return f"{many}; each between {frames['min_pixels']:,} and {frames['max_pixels']:,} pixels"


def _rationales(record: dict[str, Any]) -> dict[str, Any] | None:
    """What is known of the rationales of stage 1, with the share that was kept."""
    made = next((r["rationales"] for r in [record, *record.get("parents", [])] if r.get("rationales")), None)
    return made and {"checks": made["checks"], "shown": made["options"].get("label_shown")} | made["kept"]["overall"]
