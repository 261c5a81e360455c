"""The comparisons behind the figures of the toy domains: compare.py accepts each, and tables need no run."""

import pytest

from rbft_trl import compare
from rbft_trl.compare_config import CompareArguments
from rbft_trl.errors import UserError
from rbft_trl.evidence.results import read_results
from rbft_trl.recipe import parse_recipe
from toy import evidence
from toy.ladder import write_arms


@pytest.mark.parametrize("name", list(evidence.RUNS))
def test_every_run_passes_the_checks_of_the_comparison(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evidence.REPOSITORY)
    for chunk, draws in evidence.RUNS[name].chunks(seeds=10, first=1):
        (args,) = parse_recipe(evidence.command(name, chunk, draws), CompareArguments)
        assert (args.seeds, args.first_draw) == (len(draws), draws.start)
        arms = compare.check(args)
        assert {"rbft", "direct"} <= set(arms) and set(args.arms) <= set(arms)


def test_all_arms_have_few_draws_and_the_main_ones_more() -> None:
    run = evidence.Run("near", ["direct", "rbft", "joint"], draws=5, few=2)
    main = [*evidence.UNTRAINED, *evidence.MAIN, *evidence.RIVALS]
    assert run.chunks(seeds=10, first=0) == [(run.arms, range(0, 2)), (main, range(2, 5))]
    assert run.chunks(seeds=1, first=1) == [(run.arms, range(1, 2))]
    assert run.chunks(seeds=2, first=1) == [(run.arms, range(1, 2)), (main, range(2, 3))]
    assert run.chunks(seeds=2, first=3) == [(main, range(3, 5))] and not run.chunks(seeds=2, first=5)
    assert evidence.RUNS["ladder_far"].chunks(seeds=10, first=0) == [(write_arms, range(0, 10))]


def test_tables_say_what_was_not_measured(
    capsys: pytest.CaptureFixture, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    evidence.main(["--tables", "--run", "ladder_far"])
    assert "## ladder_far\n\nnot measured" in capsys.readouterr().out


def test_the_main_question_is_also_answered_alone(capsys: pytest.CaptureFixture) -> None:
    """On all its draws and without the correction for arms that have fewer."""
    evidence.main(["--tables", "--run", "arms_far"])
    _, alone, every = capsys.readouterr().out.split("\n## ")
    names = [line.split()[0] for line in alone.partition(" test clips, ")[0].splitlines()[3:] if "±" in line]
    assert alone.startswith("arms_far, the question alone, 16 shots")
    assert names == [*evidence.UNTRAINED, *evidence.MAIN]
    assert every.startswith("arms_far, 16 shots") and "pseudo_labels" in every


def test_every_arm_stands_beside_every_other() -> None:
    found = {name: read_results(evidence.RESULTS / f"{name}.jsonl") for name in ("arms_far", "arms_near")}
    lines = evidence.summaries(found).splitlines()
    assert lines[3] == "| arm | near | far |"
    assert {line.split(" | ")[0] for line in lines[5:]} == {
        f"| {arm}" for arm in found["arms_far"]["rungs"][-1]["arms"]
    }
    direct, rbft, joint = (
        next(line for line in lines if line.startswith(f"| {arm} |")) for arm in ("direct", "rbft", "joint")
    )
    near, far = (found[f"arms_{name}"]["pairs"] for name in ("near", "far"))
    pair = next(pair for pair in far if pair["arm"] == "rbft")
    assert f"{100 * found['arms_near']['arms']['direct']['summary']['accuracy']['mean']:.1f} [" in direct
    assert "({:+.1f}; {:.1f} to {:.1f}) [".format(pair["difference"], *pair["interval"]) in rbft
    pair = next(pair for pair in near if pair["arm"] == "joint")
    assert (
        f"({', '.join(format(draw['difference'], '+.1f') for draw in pair['per_draw'])}) [{pair['num_draws']}]"
        in joint
    )


def test_a_run_that_failed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "make_clips", lambda domain: None)
    monkeypatch.setattr(evidence, "command", lambda *_: ["nowhere.yaml"])
    with pytest.raises(UserError, match=r"'ladder_far' was stopped or failed \(exit codes \[2, 2\]\)"):
        evidence.execute("ladder_far", seeds=2, first=0)


def test_draws_that_a_run_does_not_have_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(evidence, "make_clips", None)
    evidence.execute("shots_far", seeds=2, first=3)
    assert "'shots_far' has draws 0 to 2, so none is run from draw 3 on" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--first_draw", "-1"], ["--run"]])
def test_a_command_that_would_run_nothing(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        evidence.main(words)
    assert "--seeds is a number from 1" in capsys.readouterr().err


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
