"""Evaluation and stage 0 of 1 to 101 clips on 2 and 3 processes: every id exactly once, the same rows, no hang."""

import json
from pathlib import Path

import pytest

from rbft_trl import eval as evaluation
from rbft_trl import rationales
from rbft_trl.data.jsonl import read_jsonl
from tests.helpers import card_with, toy_recipe
from tests.launching import COMPILES, cpu_twin, launch

SEVERAL = """
import json, sys
from accelerate import Accelerator
from rbft_trl import eval as evaluation, rationales
end, Accelerator.end_training = Accelerator.end_training, lambda self: None
for entry, argv in json.loads(open(sys.argv[1]).read()):
    {"eval": evaluation, "rationales": rationales}[entry].main(argv)
end(Accelerator(cpu=True))
"""
Run = tuple[str, str, str, Path]


@pytest.fixture(scope="module")
def runs(toy_set: tuple, smoke_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """(entry, recipe, key of its output, what one process wrote), for each number of clips."""
    made: list[Run] = []
    for count in (1, 2, 7, 99, 101):
        folder = tmp_path_factory.mktemp(f"test{count}")
        card = card_with(count, "test", toy_set, folder)
        options = {"per_device_batch_size": 4, "generate": False, "max_new_tokens": ..., "output_dir": folder / "one"}
        recipe = toy_recipe("eval", folder, card, smoke_base, **options)
        evaluation.main([recipe])
        made.append(("eval", recipe, "output_dir", folder / "one/predictions.jsonl"))
    for count in (9, 99, 101):  # a class without a training clip is refused
        folder = tmp_path_factory.mktemp(f"train{count}")
        card = card_with(count, "train", toy_set, folder)
        options = {"per_device_batch_size": 4, "checks": "none", "max_new_tokens": 4, "label_shown": "hint"}
        options |= {"shots": ..., "output_file": folder / "one.jsonl"}
        recipe = toy_recipe("rationales", folder, card, smoke_base, **options)
        rationales.main([recipe])
        made.append(("rationales", recipe, "output_file", folder / "one.jsonl"))
        assert len({row["id"] for row in read_jsonl(folder / "one.jsonl")}) == count
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "processes"), [("multi_gpu", 2), ("multi_gpu", 3), pytest.param("zero2", 2, marks=COMPILES)]
)
def test_every_id_once_whatever_the_number_of_processes(
    name: str, processes: int, runs: list[Run], tmp_path: Path
) -> None:
    (tmp_path / "several.py").write_text(SEVERAL)
    places = [tmp_path / f"{i}" / Path(run[3]).name for i, run in enumerate(runs)]
    jobs = []
    for (entry, recipe, key, _), place in zip(runs, places, strict=True):
        jobs.append((entry, [recipe, f"--{key}", str(place.parent if key == "output_dir" else place)]))
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    config = cpu_twin(tmp_path, name, num_processes=processes)
    seen = launch(tmp_path, config, str(tmp_path / "several"), str(tmp_path / "jobs.json"))
    assert [s["world"] for s in seen] == [processes] * processes and {s["backend"] for s in seen} == {"gloo"}
    for (entry, _, _, one), place in zip(runs, places, strict=True):
        rows, wanted = read_jsonl(place), read_jsonl(one)
        ids = [row["id"] for row in rows]
        assert ids == [row["id"] for row in wanted] and len(ids) == len(set(ids))
        for row, other in zip(rows, wanted, strict=True):
            if entry == "eval":
                assert row["logprobs"] == pytest.approx(other["logprobs"], abs=1e-5)
            else:
                assert row == other
