"""One sentence that the figures of a comparison support; docs/statistics.md says when each part of it is said.

Input: `pairs` of rbft_trl.evidence.stats. Output: a verdict, and text.
"""

from typing import Any

from rbft_trl.evidence.drawn import draws_part, labels_part
from rbft_trl.evidence.figures import enough, figures_of, invisible_of, share_of, size_of
from rbft_trl.evidence.table import signed_points, title

Pair = dict[str, Any]
MIN_ORACLE_GAIN = 3.0  # points; below, no filter of rationales could win more than noise
ALPHA = 0.05
MATCHED_WITHIN = 0.05  # an arm whose optimiser steps differ by more is not called step-matched
DIRECT, MATCHED = "direct SFT", "step-matched direct SFT"
SEES, CANNOT, UNSURE, ABSENT = "sees", "cannot help", "unsure", "absent"


def verdict(pairs: list[Pair]) -> dict[str, Any]:
    """What the figures allow to be claimed, before it is put into words.

    Args:
        pairs (`list[dict]`): From [`compare_all`].

    Returns:
        `dict`: `better` and `worse` (treatments whose difference to direct SFT is sure after correction, the largest
        difference first); `oracle`: "sees" (true rationales surely gain, 3 points or more), "cannot help" (a gain of 3
        points is ruled out for every oracle arm), "unsure" or "absent"; `content`: 1, 0 or -1, whether RB-FT surely
        differs from shuffled rationales, None without that arm; `rival`: None, or the reference that surely beats
        direct SFT (`arm`, see [`stronger_rival`]) and the treatments that surely beat it (`beaten_by`).
    """
    treatments = sorted(_of(pairs, "treatments"), key=lambda pair: -pair["difference"])
    content, rival = next(iter(_of(pairs, "content")), None), stronger_rival(pairs)
    beaten_by = [pair["arm"] for pair in _of(pairs, "rival") if _side(pair) > 0]
    return {
        "better": [pair["arm"] for pair in treatments if _side(pair) > 0],
        "worse": [pair["arm"] for pair in reversed(treatments) if _side(pair) < 0],
        "oracle": _oracle(_oracles(pairs)),
        "content": None if content is None else _side(content),
        "rival": rival and {"arm": rival["arm"], "beaten_by": beaten_by},
    }


def conclude(
    pairs: list[Pair],
    *,
    note: str = "",
    shots: int | None = 0,
    labels: tuple[int, int] | None = None,
) -> str:
    """One sentence that the figures support whichever way they fall, then the caller's `note`.

    It tells the best treatment's difference to step-matched direct SFT, whether a reference surely beats that (then it
    is the rival that counts, and what the treatment is beside it is told), RB-FT's own if that is another arm, whether
    this comparison could see a gain at all (oracle against direct), and whether what a rationale says of its clip
    matters (RB-FT against shuffled). An arm that was not run is named as missing.

    Args:
        pairs (`list[dict]`): From [`compare_all`].
        note (`str`, *optional*): What holds whatever the figures say, e.g. that the clips are synthetic.
        shots (`int`, *optional*, defaults to 0): Labelled clips per class of a draw; None: all, so that draws differ
            in their seed alone; 0: not known.
        labels (`tuple[int, int]`, *optional*): How many the draws could choose from, in the class that has fewest and
            in the one that has most.
    """
    treatments = sorted(_of(pairs, "treatments"), key=lambda pair: -pair["difference"])
    if not treatments:
        sentence = "Nothing is compared: no arm with a stage of its own stands beside step-matched direct SFT."
    else:
        found = verdict(pairs)
        told = _told(treatments, found)
        parts = [_main_part(treatments, found), *_rival_part(pairs, found, told), *_own_part(treatments, told)]
        parts.append(_oracle_part(pairs, found, told))
        content = next(iter(_of(pairs, "content")), None)
        if content or any(pair["arm"] == "rbft" for pair in treatments):
            shuffled = any(pair["arm"] == "shuffled" for pair in pairs)
            parts.append(_content_part(content, told, shuffled=shuffled))
        parts += draws_part(pairs) + labels_part(max(pair["num_draws"] for pair in pairs), shots, labels)
        sentence = "; ".join(parts) + "."
    return f"{sentence} {note}".strip()


def stronger_rival(pairs: list[Pair]) -> Pair | None:
    """The reference that is surely better than step-matched direct SFT, by the most if there are several: whoever
    takes an arm could have taken that one."""
    above = [pair for pair in _of(pairs, "references") if _side(pair) > 0]
    return max(above, key=lambda pair: pair["difference"], default=None)


def _rival_part(pairs: list[Pair], found: dict[str, Any], told: Pair) -> list[str]:
    """That a reference does better than step-matched direct SFT, and where the treatment stands beside that one."""
    if (rival := stronger_rival(pairs)) is None:
        return []
    size = f"{size_of(rival)} points ({figures_of(rival, beside=told)})"
    steps = f"{_other_steps(rival)}," if _steps(rival) else ""
    start = f"the reference {rival['arm']}{' too' if found['better'] else ''}{steps} is better than {DIRECT}"
    pair = next((pair for pair in _of(pairs, "rival") if pair["arm"] == told["arm"]), None)
    if pair is None:
        return [f"{start} by {size}, and no draw has both it and {_name(told)}"]
    gain = f"{signed_points(pair['difference'])} points, {figures_of(pair, beside=told)}"
    if _side(pair) > 0:
        return [f"{start} by {size}, and {_name(told)} is better than that one ({gain})"]
    return [f"{start} by {size}, and that {_name(told)} is better than that one cannot be shown ({gain})"]


def _told(treatments: list[Pair], found: dict[str, Any]) -> Pair:
    """The treatment that the sentence begins with: the best of those that are better, or of those on most draws."""
    most = max(pair["num_draws"] for pair in treatments)
    longest = next(pair for pair in treatments if pair["num_draws"] == most)
    return next((pair for pair in treatments if pair["arm"] in found["better"]), longest)


def _main_part(treatments: list[Pair], found: dict[str, Any]) -> str:
    """The best treatment, or the one that did least badly."""
    many = len(treatments) > 1
    if found["better"]:
        best, *others = (pair for pair in treatments if pair["arm"] in found["better"])
        subject = f"The best of {len(treatments)} arms, {_name(best)}," if many else _name(best)
        if larger := ", ".join(map(_name, treatments[: treatments.index(best)])):
            subject = f"Of {len(treatments)} arms, {_name(best)} (the larger difference of {larger} is not sure)"
        others = [
            f"{_name(pair)}{_other_steps(pair)}" for pair in others if pair["arm"] != "rbft"
        ]  # it has its own part
        also = f"; also better after correction: {', '.join(others)}" if others else ""
        size = f"{size_of(best)} points ({figures_of(best)}){share_of(best)}"
        return f"{subject} is better than {_rival(best)} by {size}{also}"
    best = _told(treatments, found)
    if not many and found["worse"]:
        return f"{_name(best)} is worse than {_rival(best)} by {size_of(best)} points ({figures_of(best)})"
    gain = f"{signed_points(best['difference'])} points, {figures_of(best)}"
    invisible = invisible_of(best)
    longest = sum(pair["num_draws"] == best["num_draws"] for pair in treatments)
    which = "the best is " if longest == len(treatments) else f"the best on {best['num_draws']} draws is "
    which = "" if longest == 1 < len(treatments) else which  # the one that has most draws
    if not many:
        return f"No difference between {_name(best)} and {_rival(best)} can be shown ({gain}); {invisible}"
    told = {"rbft"} - {best["arm"]}  # in a part of its own
    worse = [_name(pair) for pair in reversed(treatments) if pair["arm"] in set(found["worse"]) - told]
    less = f"; worse after correction: {', '.join(worse)}" if worse else ""
    rival = DIRECT if any(map(_steps, treatments)) else MATCHED
    return (
        f"None of {len(treatments)} arms can be shown to be better than {rival} ({which}"
        f"{_name(best)}{_other_steps(best)}: {gain}); {invisible}{less}"
    )


def _own_part(treatments: list[Pair], told: Pair) -> list[str]:
    """RB-FT, where another arm is the one that is told of."""
    own = next((pair for pair in treatments if pair["arm"] == "rbft"), None)
    if own is None or told is own:
        return []
    words = {1: "is better too", 0: f"cannot be told from {DIRECT}", -1: "is worse"}[_side(own)]
    gain = f"{signed_points(own['difference'])} points, {figures_of(own, beside=told)}"
    steps = f"{_other_steps(own)}," if _steps(own) else ""
    return [f"RB-FT itself{steps} {words} ({gain})"]


def told_oracle(pairs: list[Pair]) -> Pair | None:
    """The oracle arm that the sentence tells of and shares are measured against: the first that surely gains, or else
    of those on most draws the one whose gain may be the largest."""
    oracles = _oracles(pairs)
    widest = max(oracles, key=lambda pair: (pair["num_draws"], pair["interval"][1]), default=None)
    return next((pair for pair in oracles if _sees(pair)), widest)


def _oracle_part(pairs: list[Pair], found: dict[str, Any], told: Pair) -> str:
    shown = told_oracle(pairs)
    if shown is None:
        return "no oracle arm was run, so it is not known whether this comparison can see a gain from rationales"
    alone = found["oracle"] == CANNOT  # an equivalence test that every oracle arm has to pass: none is chosen
    gain = f"{signed_points(shown['difference'])} points, {figures_of(shown, beside=told, family=not alone)}"
    gain += _other_steps(shown)
    if found["oracle"] == SEES:
        return f"the comparison can see: {_true(shown)} gain {gain.removeprefix('+')}"
    if found["oracle"] == CANNOT:
        start = "rationales cannot help here"
        if found["better"]:  # own texts may matter in another way than by being true
            start = f"what {'true ' if found['content'] == 1 else ''}rationales say is not the cause"
        return f"{start}: even the true ones do not gain {MIN_ORACLE_GAIN:g} points ({gain})"
    if not enough(shown):
        return f"whether true rationales help cannot be told here ({gain})"
    cannot = "whether rationales are the cause" if found["better"] or found["worse"] else "whether rationales can help"
    return f"even true rationales do not clearly help here ({gain}), so this comparison cannot tell {cannot}"


def _content_part(pair: Pair | None, told: Pair, *, shuffled: bool) -> str:
    if pair is None and shuffled:
        return "RB-FT and shuffled share no draw, so it is not known whether what a rationale says of its clip matters"
    if pair is None:
        return "the arm shuffled was not run, so it is not known whether what a rationale says of its clip matters"
    gain = f"{signed_points(pair['difference'])} points, {figures_of(pair, beside=told)}{_other_steps(pair)}"
    if _side(pair) > 0:
        return f"what a rationale says of its own clip matters: RB-FT against shuffled rationales {gain}"
    if _side(pair) < 0:
        return f"shuffled rationales do better than a clip's own (RB-FT against shuffled {gain})"
    return f"that what a rationale says of its own clip matters cannot be shown (RB-FT against shuffled {gain})"


def _oracle(oracles: list[Pair]) -> str:
    if not oracles:
        return ABSENT
    if any(map(_sees, oracles)):
        return SEES
    return CANNOT if all(pair["interval"][1] < MIN_ORACLE_GAIN and enough(pair) for pair in oracles) else UNSURE


def _sees(pair: Pair) -> bool:
    return _side(pair) > 0 and pair["difference"] >= MIN_ORACLE_GAIN


def _side(pair: Pair) -> int:
    """1 if the difference is surely above 0 after correction, -1 if below, 0 if neither, or of too little."""
    if not enough(pair) or pair["p_corrected"] >= ALPHA:
        return 0
    return 1 if pair["difference"] > 0 else -1


def _rival(pair: Pair) -> str:
    """Direct SFT, as what it is beside this arm."""
    return f"{DIRECT}{_steps(pair)}," if _steps(pair) else MATCHED


def _steps(pair: Pair) -> str:
    """That an arm had other optimiser steps than direct SFT, so that its difference is not one of the method alone."""
    times = pair.get("steps_ratio")
    if times is None or abs(times - 1) <= MATCHED_WITHIN:
        return ""
    return f", with {times:.2g} times its optimiser steps"


def _name(pair: Pair) -> str:
    return title(pair["arm"])


def _other_steps(pair: Pair) -> str:
    """Of whom, where the sentence has named another arm in between."""
    of = DIRECT if pair["baseline"] == "direct" else pair["baseline"]
    return _steps(pair).replace("its optimiser steps", f"the optimiser steps of {of}")


def _true(pair: Pair) -> str:
    return "oracle rationales" if pair["arm"] == "oracle" else f"the true rationales of {pair['arm']}"


def _oracles(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in _of(pairs, "controls") if pair["role"] == "oracle"]


def _of(pairs: list[Pair], family: str) -> list[Pair]:
    return [pair for pair in pairs if pair["family"] == family]
