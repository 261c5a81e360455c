"""The comparisons behind the figures of the toy domains: compare.py accepts each, and tables need no run."""

import pytest

from rbft_trl import compare
from rbft_trl.compare_config import CompareArguments
from rbft_trl.errors import UserError
from rbft_trl.recipe import parse_recipe
from toy import evidence


@pytest.mark.parametrize("name", list(evidence.RUNS))
def test_every_run_passes_the_checks_of_the_comparison(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evidence.REPOSITORY)
    (args,) = parse_recipe(evidence.command(name, seeds=3, first=10), CompareArguments)
    assert (args.seeds, args.first_draw) == (3, 10)
    arms = compare.check(args)
    assert {"rbft", "direct"} <= set(arms) and set(args.arms) <= set(arms)


def test_tables_say_what_was_not_measured(
    capsys: pytest.CaptureFixture, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    evidence.main(["--tables", "--run", "ladder_far"])
    assert "## ladder_far\n\nnot measured" in capsys.readouterr().out


def test_a_run_that_failed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "make_clips", lambda domain: None)
    monkeypatch.setattr(evidence, "command", lambda *_, **__: ["nowhere.yaml"])
    with pytest.raises(UserError, match=r"'ladder_far' was stopped or failed \(exit codes \[2, 2\]\)"):
        evidence.execute("ladder_far", seeds=2, first=0)
