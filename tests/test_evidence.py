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


def test_yields_are_summed_over_the_draws_that_had_the_cycle() -> None:
    first = {"cycle": 0, "clips": 64, "generated": 8, "rationalised": 24, "dropped": 32}
    second = first | {"cycle": 1, "generated": 16, "rationalised": 16}
    arms = {"direct": {"draws": [{"yields": None}]}}
    assert evidence.yields({"arms": arms}) == ""
    arms["star"] = {"draws": [{"yields": [first, second]}, {"yields": [first | {"generated": 16, "dropped": 24}]}]}
    assert evidence.yields({"arms": arms}).splitlines()[2:] == [
        "| star | 0 | 2 | 128 | 18.8 % | 37.5 % | 43.8 % |",
        "| star | 1 | 1 | 64 | 25.0 % | 25.0 % | 50.0 % |",
    ]
