"""What a sentence has to say of the draws of labelled clips that its figures are of.

Input: pairs of rbft_trl.evidence.stats. Output: parts of the sentence, none where there is nothing to say.
"""

from typing import Any

from rbft_trl.evidence.table import title

Pair = dict[str, Any]
NARROW = 0.1  # excess of the draws' variance, were it all the luck of the labels, above which a shared pool is told


def draws_part(pairs: list[Pair]) -> list[str]:
    """Which draws an arm lacks that another has, after results of several runs were merged."""
    lacks: dict[str, set[int]] = {}
    for pair in pairs:
        for arm, draws in pair["lacks"].items():
            lacks.setdefault(arm, set()).update(draws)
    same: dict[tuple[int, ...], list[str]] = {}
    for arm, of in lacks.items():
        same.setdefault(tuple(sorted(of)), []).append(title(arm))
    told = [f"{_listed(arms)} draw {', '.join(map(str, of))}" for of, arms in same.items() if of]
    return [f"{' and '.join(told)}, so each pair is compared on the draws that both have"] if told else []


def labels_part(num_draws: int, shots: int | None, labels: tuple[int, int] | None) -> list[str]:
    """That draws share labelled clips: their differences then say less of other clips than the interval assumes."""
    if num_draws < 2 or shots == 0:
        return []
    if shots is None or (labels and shots >= labels[1]):
        return ["every draw had all labels and a seed of its own, so which clips were labelled is not varied"]
    if not labels or num_draws * shots / (labels[1] - shots) < NARROW:
        return []
    of = f"{labels[0]}" if labels[0] == labels[1] else f"{labels[0]} to {labels[1]}"
    return [
        f"each draw took {shots} of {of} labelled clips per class, so the interval is of draws from these clips, and "
        "others that could have been labelled may differ by more"
    ]


def _listed(arms: list[str]) -> str:
    """Who lacks something: an arm or two by name, of more the first and how many there are."""
    if len(arms) == 1:
        return f"{arms[0]} lacks"
    return f"{arms[0]} and {arms[1] if len(arms) == 2 else f'{len(arms) - 1} other arms'} lack"
