"""Children that are killed from outside: an item that nobody works on any more is given to a new pool."""

from concurrent.futures import Future
from typing import Any

import pytest

from rbft_trl.data import children


def double(number: int) -> int:
    return 2 * number


def test_an_item_that_was_lost_with_its_child_is_worked_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """pebble loses an item if its child is killed between taking it and saying so: its result would never come."""
    schedule, lost = children._schedule, []

    def losing(pool: Any, work: Any, item: int, seconds: float) -> Any:
        if item == 3 and not lost:
            lost.append(item)
            return Future()
        return schedule(pool, work, item, seconds)

    monkeypatch.setattr(children, "_schedule", losing)
    assert list(children.in_children(double, range(8), workers=1, seconds=2)) == [2 * i for i in range(8)]
    assert lost == [3]
