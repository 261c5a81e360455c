"""What is known to break on an engine is refused before a model is loaded; the docs show the table of the code."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from rbft_trl import engines, predict, rationales, sft, writers
from rbft_trl import eval as evaluation
from rbft_trl.engines import ENGINES, REFUSED, WORK, check_work, started_engine, support_table
from rbft_trl.errors import UserError
from rbft_trl.model import loading
from tests.helpers import REPOSITORY, toy_recipe

ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
ZERO |= {"ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what a launch file sets; as on a machine with a GPU and DeepSpeed."""
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    return lambda values: [monkeypatch.setenv(key, value) for key, value in values.items()]


def test_the_docs_show_the_table_of_the_code() -> None:
    assert support_table() in (REPOSITORY / "docs/engines.md").read_text(encoding="utf-8")
    assert {work for work, _ in REFUSED} <= set(WORK) and {engine for _, engine in REFUSED} <= set(ENGINES)


def test_the_table_says_no_exactly_where_the_code_refuses() -> None:
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in support_table().splitlines()[2:-4]}
    for work in WORK:
        for engine, cell in zip(ENGINES, rows[work], strict=True):
            if cell.strip(" |") == "yes":
                check_work(engine, work)
                continue
            with pytest.raises(UserError, match=r"under (ZeRO-3|FSDP2): .*; (use|write) "):
                check_work(engine, work)


@pytest.mark.parametrize(
    ("values", "engine"),
    [
        ({}, "one process"),
        ({"WORLD_SIZE": "2"}, "DDP"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}, "ZeRO-2"),
        (ZERO, "ZeRO-3"),
        (FSDP, "FSDP2"),
    ],
)
def test_the_engine_is_read_from_what_the_launcher_sets(environment: Any, values: dict, engine: str) -> None:
    environment(values)
    assert started_engine(use_cpu=False) == engine


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "'ds.json', whose optimizer .* would replace"),
        (
            ZERO | {"ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false"},
            "no adapter would be written; set it to true",
        ),
        (FSDP | {"FSDP_VERSION": "1"}, "fsdp_version is 1"),
        (FSDP | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, "no adapter would be written; write FULL_STATE_DICT"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM, which is not supported"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "a parallelism_config, which is not supported"),
    ],
)
def test_launch_files_that_would_mislead_are_refused(environment: Any, values: dict, words: str) -> None:
    environment(values)
    with pytest.raises(UserError, match=words):
        started_engine(use_cpu=False)


def test_fsdp_without_a_gpu_and_deepspeed_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        [patch.setenv(key, value) for key, value in FSDP.items()]
        with pytest.raises(UserError, match="only on GPUs: on a CPU it would silently be DDP"):
            started_engine(use_cpu=True)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="run `pip install deepspeed`"):
        started_engine(use_cpu=False)


@pytest.mark.parametrize("values", [ZERO, FSDP], ids=["ZeRO-3", "FSDP2"])
def test_no_entry_loads_a_model_for_what_breaks(
    environment: Any,
    toy_set: tuple,
    smoke_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: dict,
) -> None:
    for room in (sft, loading):
        monkeypatch.setattr(room, "load_base", None)
    monkeypatch.setattr(writers, "load_for_inference", None)
    environment(values)
    make = lambda name, **changes: toy_recipe(name, tmp_path, toy_set[0], smoke_base, use_cpu=False, **changes)  # noqa: E731
    whole = "stage 0, evaluation, prediction under .*; use multi_gpu.yaml"
    with pytest.raises(UserError, match=whole):
        rationales.main([make("rationales", output_file=tmp_path / "r.jsonl")])
    with pytest.raises(UserError, match=whole):
        evaluation.main([make("eval", output_dir=tmp_path / "eval")])
    with pytest.raises(UserError, match=whole):
        predict.main([str(toy_set[1]), "--model", str(smoke_base), "--output", str(tmp_path / "p.csv")])
    with pytest.raises(UserError, match=r"validation by label scores .*; write validate_by_score: false"):
        sft.main([make("direct", output_dir=tmp_path / "run")])


def test_4_bit_under_a_sharding_engine_is_refused(environment: Any) -> None:
    environment(ZERO)
    with pytest.raises(UserError, match=r"use multi_gpu\.yaml or zero2\.yaml, or load_in_4bit: false"):
        check_work(started_engine(use_cpu=False), engines.NF4)


def test_deepspeed_settings_that_contradict_the_recipe_are_refused(environment: Any) -> None:
    environment(ZERO | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_GRADIENT_CLIPPING": "auto"})
    engines.check_agreement(gradient_accumulation_steps=4, max_grad_norm=1.0)
    with pytest.raises(UserError, match="sets gradient_accumulation_steps to 4, the recipe to 1; drop it"):
        engines.check_agreement(gradient_accumulation_steps=1, max_grad_norm=1.0)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "accelerate_configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_key_of_a_launch_file_is_one_of_accelerate(path: Path) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = set(vars(launch_command_parser().parse_args(["x.py"])))
    inner = {**config.pop("deepspeed_config", {}), **config.pop("fsdp_config", {})}
    assert {*config, *inner} - {"compute_environment", "distributed_type", "use_cpu"} <= known
