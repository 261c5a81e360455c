"""From scored answers to a rationale: one line per question that passed, then the final line of a labelled clip.

Input: rows with `items`. Output: the same rows with a `text`, and a reason code for every item that was left out.
"""

from typing import Any

from rbft_trl.data.task import TaskCard

Sample = dict[str, Any]


def item_objection(item: dict[str, Any], label: str | None, card: TaskCard, *, margin: float) -> str | None:
    """`uncertain`: the answer is ahead of the next by less than `margin` nats; `unexpected`: the card expects other
    answers for the clip's label. Without a label, or where the card expects nothing, an answer can only be uncertain.
    """
    if item["margin"] < margin:
        return "uncertain"
    question = next(q for q in card.checklist if q.text == item["question"])
    expected = question.expected(label) if label is not None else set()
    return "unexpected" if expected and item["answer"] not in expected else None


def compose(samples: list[Sample], card: TaskCard, *, margin: float) -> list[Sample]:
    """Filters every row's items one by one and writes its text from those that are left."""
    lines = {question.text: question.line for question in card.checklist}
    composed = []
    for sample in samples:
        label = sample["label"]
        items = [i | {"reason": item_objection(i, label, card, margin=margin)} for i in sample["items"]]
        said = [lines[item["question"]](item["answer"]) for item in items if item["reason"] is None]
        end = [] if label is None else [card.final_line(label)]
        composed.append(sample | {"items": items, "text": "\n".join([*said, *end])})
    return composed


def no_item(sample: Sample) -> str | None:
    """Every answer of the checklist was left out."""
    return "no_item" if all(item.get("reason") for item in sample["items"]) else None
