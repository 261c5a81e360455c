"""Ordered lists as answers: the right items in every usual spelling, and nothing that denies or enumerates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_answers import LIST, said

items = st.lists(
    st.sampled_from(["left", "right", "up", "down", "half twist", "no splash", "hit and run"]), min_size=1, max_size=5
)


@given(items, items)
def test_a_list_passes_if_and_only_if_it_is_the_list(one: list[str], two: list[str]) -> None:
    gold = LIST.read(", ".join(two))[0]
    assert gold is not None
    gaps = (", ", ",", "; ", " -> ", " then ", ", then ", "; then ", ";then ", " and then ", ", and then ", " → ")
    for gap in gaps:
        assert (said(LIST, gap.join(one), gold) is None) == (one == two)
        for last in (" and ", ", and ", "; and ", ", and then "):
            text = last.join([gap.join(one[:-1]), one[-1]] if one[1:] else one)
            assert (said(LIST, text, gold) is None) == (one == two), text
    assert said(LIST, ", ".join(two).upper() + ".", gold) is None
    assert said(LIST, ", ".join([*two, "spin"]), gold) == said(LIST, ", ".join(["spin", *two]), gold) == "added"
    if len(two) > 1:
        assert said(LIST, ", ".join(two[1:]), gold) == said(LIST, ", ".join(two[:-1]), gold) == "missing"
    if one != two and sorted(one) == sorted(two):
        assert said(LIST, ", ".join(one), gold) == "wrong_order"
    assert said(LIST, f"not {', '.join(two)}", gold) == "wrong_item"
    assert said(LIST, f"{' or '.join([*two, 'spin'])}", gold) == "hedged"
    for last in (" and ", ", and "):
        assert said(LIST, f"{', '.join(two)}{last}spin", gold) == "added"
        assert said(LIST, f"{', '.join(two)}{last}not {two[-1]}", gold) == "added"
        assert said(LIST, f"{', '.join(two)} or {two[0]}{last}spin", gold) == "hedged"
        if len(two) > 1:
            assert said(LIST, f"{', '.join(two[:-1])}{last}not {two[-1]}", gold) == "wrong_item"
    if len(two) > 2:
        assert said(LIST, " and ".join(two), gold) is not None, "only the last"
    assert said(LIST, ", ".join(two) + ",", gold) == "empty_item"


@pytest.mark.parametrize(
    ("text", "gold", "reason"),
    [
        ("left, up, and right", "left, up, right", None), ("left; then up; then right", "left, up, right", None),
        ("up, left and right", "left, up, right", "wrong_order"), ("left and up", "left, up, right", "missing"),
        ("left, hit and run", "left, hit and run", None), ("left and hit and run", "left, hit and run", None),
        ("left, hit and run and up", "left, hit and run, up", None), ("hit and run", "hit and run", None),
        ("left, hit, run", "left, hit and run", "wrong_item"), ("left, and gate", "left, and gate", None),
        ("left and", "left", "wrong_item"), ("left, and", "left", "added"), ("and left", "left", "wrong_item"),
        ("left and up, right", "left, up, right", "wrong_item"), ("neither left and up", "left, up", "wrong_item"),
    ],
)  # fmt: skip
def test_a_last_and_parts_two_items_where_the_gold_list_has_both(text: str, gold: str, reason: str | None) -> None:
    assert said(LIST, text, gold) == reason
    assert LIST.distance(LIST.read(text)[0] or "", gold) == float(reason is not None)
