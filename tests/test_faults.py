"""Every fault at five random points of every stage that it applies to: nothing lost, doubled or different.

`python -m pytest tests/test_faults.py -m slow` prints the table of docs/reliability.md; FAULT_SEED draws other points.
"""

import itertools
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbft_trl.data.jsonl import read_jsonl
from tests.faults import FAULTS, Case, finish, outcome, start
from tests.helpers import toy_recipe
from tests.hub_process import HubProcess
from tests.hub_server import HubServer

POINTS = 5
PUSH = "HTTP 500 on push"
SEED = int(os.environ.get("FAULT_SEED", 0))
CELLS = [(fault, stage) for fault, (_, stages) in FAULTS.items() for stage in stages]
STEPS = 12
TRAINING = {"max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 1}
TRAINING |= {"lora_dropout": 0.1, "dataloader_num_workers": 2, "save_strategy": "steps", "save_steps": 3}
TRAINING |= {"save_total_limit": 2, "eval_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}


@pytest.fixture(scope="module")
def straight(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case]:
    """The undisturbed run of each stage, in processes like the disturbed ones."""
    folder = tmp_path_factory.mktemp("straight")
    rationales, cases = folder / "stage0/rationales.jsonl", {}
    writing = {"per_device_batch_size": 2, "num_samples": 2, "temperature": 1.0, "max_new_tokens": 8, "checks": "none"}
    changes = {
        "stage0": writing | {"dataloader_num_workers": 1},
        "stage1": TRAINING | {"rationales": rationales},
        "stage2": TRAINING | {"init": folder / "stage1", "class_balance": "sampler"},
        "eval": {"per_device_batch_size": 1, "max_new_tokens": 8, "dataloader_num_workers": 1},
    }
    names = {"stage0": "rationales", "eval": "eval"}
    for stage, options in changes.items():
        recipe = toy_recipe(names.get(stage, stage), folder, toy_set[0], smoke_base, **options)
        cases[stage] = Case(stage, recipe, folder / stage, folder / stage, folder / f"{stage}.log", STEPS)
        (folder / stage).mkdir() if stage == "stage0" else None
        assert finish(start(cases[stage])) == 0, cases[stage].log.read_text()[-3000:]
    cases["stage0"].units = len({row["id"] for row in read_jsonl(rationales)}) // 2
    cases["eval"].units = len(read_jsonl(folder / "eval/predictions.jsonl"))
    return cases


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], tuple[int, int]]]:
    """Cases tried and cases that ended as if nothing had been, by fault and stage; printed at the end."""
    rows: dict[tuple[str, str], tuple[int, int]] = {}
    yield rows
    lines = [f"| fault (seed {SEED}) | stage 0 | stage 1 | stage 2 | evaluation |", "|---|---|---|---|---|"]
    for fault in [*FAULTS, PUSH]:
        cells = [rows.get((fault, stage)) for stage in ("stage0", "stage1", "stage2", "eval")]
        lines.append(f"| {fault} | " + " | ".join(f"{c[1]} of {c[0]}" if c else "-" for c in cells) + " |")
    lines.append(f"{sum(fine for _, fine in rows.values())} of {sum(tried for tried, _ in rows.values())} cases")
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB, which can be filled without harm."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(place)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (it needs root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "stage"), CELLS, ids=[f"{fault}-{stage}" for fault, stage in CELLS])
def test_fault(
    straight: dict[str, Case], table: dict, tmp_path: Path, request: pytest.FixtureRequest, fault: str, stage: str
) -> None:
    draw = random.Random(f"{SEED} {fault} {stage}")
    place = request.getfixturevalue("small_disk") if fault.startswith("disk") else tmp_path
    found = {}
    for number in range(POINTS):
        base = straight[stage]
        out, log = place / f"run{number}" / stage, tmp_path / f"{stage}{number}.log"
        case = Case(stage, base.recipe, out, base.straight, log, base.units)
        (case.out if stage == "stage0" else case.out.parent).mkdir(parents=True)
        point = draw.randint(1, base.units - 1)
        found[f"run {number}, after {point} of {base.units}"] = outcome(case, fault, point, draw)
        if fault.startswith("disk"):
            subprocess.run(["rm", "-rf", str(case.out.parent)], check=True)
    table[fault, stage] = (POINTS, sum(result == "fine" for result in found.values()))
    assert set(found.values()) == {"fine"}, found


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_http_500_on_push(
    straight: dict[str, Case], table: dict, tmp_path: Path, me: HubProcess, hub: HubServer, stage: str
) -> None:
    """From a random request on, a random number of answers is 500; a push that failed is made again by hand."""
    draw, case, found, requests = random.Random(f"{SEED} push {stage}"), straight[stage], {}, 0
    for number in range(-1, POINTS):
        out, name = tmp_path / str(number), f"me/{stage}_{SEED}_{number + 1}"
        options = {"push_to_hub": True, "hub_model_id": name, "hub_strategy": "every_save", "hub_private_repo": False}
        options |= {"hub_base_id": "org/base", "hub_license": "apache-2.0", "output_dir": out}
        first, count = (draw.randrange(requests), draw.choice([1, 2, 6, 50])) if number >= 0 else (0, 0)
        asked = itertools.count()
        hub.fault_of = lambda line, asked=asked, bad=range(first, first + count): 500 if next(asked) in bad else None
        done = me.run("sft", case.recipe, *(word for key, value in options.items() for word in (f"--{key}", value)))
        if number < 0:  # the push without a fault says how many requests there are
            requests = next(asked)
        del hub.fault_of
        if again := re.search(r"the model is safe in '.*?', push it with: python rbft_trl/push.py (.*)", done.said):
            me.ok("push", *again[1].split())
        assert ("models", name) in hub.repos, done.said[-3000:]
        pushed = hub.repos["models", name].files.get("adapter_model.safetensors")
        fine = done.code == 0 and "Traceback" not in done.said and case.result(out) == case.result(case.straight)
        fine = fine and pushed == (out / "adapter_model.safetensors").read_bytes()
        if number < 0:
            assert fine and not again, done.said[-3000:]
        else:
            found[f"run {number}: {count} from request {first} of {requests}"] = "fine" if fine else done.said[-600:]
    table[PUSH, stage] = (POINTS, sum(result == "fine" for result in found.values()))
    assert set(found.values()) == {"fine"}, found
