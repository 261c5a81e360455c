"""A checkpoint is complete or absent, whatever happens while it is written; a broken one is passed over, and named."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from rbft_trl import sft
from rbft_trl.errors import UserError
from rbft_trl.model.checkpoints import newest_whole_checkpoint
from rbft_trl.model.stop import SetEpoch
from rbft_trl.model.trainer import WeightedSampler
from rbft_trl.model.whole import clean, is_whole
from tests.helpers import toy_recipe

EVERY_SECOND = {"max_steps": 6, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2}
EVERY_SECOND |= {"eval_strategy": "no", "load_best_model_at_end": False, "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def trained(
    toy_set: tuple[Path, Path], smoke_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """(recipe, folder of a finished run with checkpoints 2, 4 and 6)."""
    folder = tmp_path_factory.mktemp("trained")
    changes = EVERY_SECOND | {"save_total_limit": ..., "output_dir": folder / "run"}
    recipe = toy_recipe("direct", folder, toy_set[0], smoke_base, **changes)
    sft.main([recipe])
    return recipe, folder / "run"


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"]
)
@pytest.mark.parametrize("harm", ["one byte", "half", "gone"])
def test_a_broken_checkpoint_is_named_and_put_aside(
    trained: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, harm: str
) -> None:
    run = shutil.copytree(trained[1], tmp_path / "run")
    file = run / "checkpoint-6" / name
    size = file.stat().st_size
    file.unlink() if harm == "gone" else os.truncate(file, size - 1 if harm == "one byte" else size // 2)
    assert newest_whole_checkpoint(run) == str(run / "checkpoint-4")
    assert "checkpoint-6' is broken: put aside as 'broken-checkpoint-6'" in capsys.readouterr().out
    assert (run / "broken-checkpoint-6").is_dir() and not (run / "checkpoint-6").exists()


def test_what_a_save_that_was_cut_off_left_is_removed(trained: tuple[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(trained[1], tmp_path / "run")
    (run / ".saving/checkpoint-8").mkdir(parents=True)
    (run / "checkpoint-6").rename(run / ".saving/replaced-checkpoint-6")  # killed between the two renames
    clean(run)
    assert is_whole(run / "checkpoint-6") and not (run / ".saving").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, which can be filled without harm."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (it needs root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("told", ["the free space is known", "a quota"])
def test_a_full_disk_leaves_the_old_checkpoint(
    trained: tuple[str, Path], small_disk: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """The old one is not deleted before the new one is verified, and the run goes on from it."""
    recipe, run = trained[0], small_disk / "run"
    write = [recipe, "--output_dir", str(run), "--save_total_limit", "1"]
    filler = small_disk / "filler"

    def fill(*args: object, **kwargs: object) -> None:
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(free - 100_000))

    with monkeypatch.context() as patch:
        patch.setattr(sft.StopAtStep, "on_save", fill)
        if told == "a quota":
            patch.setattr("rbft_trl.model.whole.free_bytes", lambda folder: 1 << 60)
        wanted = "no room to write 'checkpoint-4'" if told == "a quota" else r"a checkpoint needs .* MB are free"
        with pytest.raises(UserError, match=wanted + ".* the checkpoints before it are untouched: make room"):
            sft.main(write)
    assert [p.name for p in run.glob("checkpoint-*")] == ["checkpoint-2"] and is_whole(run / "checkpoint-2")
    assert not (run / ".saving").exists()
    filler.unlink()
    sft.main([*write, "--resume_from_checkpoint", "true"])
    assert [p.name for p in run.glob("checkpoint-*")] == ["checkpoint-6"]
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in (run, trained[1])]
    assert weights[0] == weights[1]


def test_the_weighted_sampler_of_two_processes_knows_its_epoch_after_a_resume() -> None:
    """Upstream's `set_epoch` stops at the second wrapper; the rest of the epoch would come in the order of epoch 0."""
    PartialState()

    def loader(process: int) -> DataLoader:
        data = DataLoader(range(24), batch_size=2, sampler=WeightedSampler([1.0] * 24, seed=3))
        options = {"num_processes": 2, "process_index": process, "put_on_device": False}
        return prepare_data_loader(data, use_seedable_sampler=True, rng_types=[], **options)

    for process in (0, 1):
        whole = loader(process)
        whole.set_epoch(2)
        wanted = [batch.tolist() for batch in whole][4:]
        resumed = loader(process)
        SetEpoch().on_epoch_begin(None, SimpleNamespace(epoch=2.5), None, train_dataloader=resumed)
        rest = skip_first_batches(resumed, 4)
        rest.set_epoch(2)
        assert [batch.tolist() for batch in rest] == wanted
        upstream = skip_first_batches(loader(process), 4)
        upstream.set_epoch(2)
        assert [batch.tolist() for batch in upstream] != wanted, "upstream is mended: SetEpoch can go"
