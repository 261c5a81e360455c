"""Settings that would be ignored, cannot work or contradict each other are refused in one sentence."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbft_trl import configs, rationales
from rbft_trl.errors import UserError, run_entry
from rbft_trl.model.loading import check_base
from rbft_trl.model.trainer import check_optimizer
from rbft_trl.rationale_config import RationaleArguments
from rbft_trl.recipe import parse_recipe
from rbft_trl.renamed import IGNORED_BY_US, NOT_TAKEN
from rbft_trl.training_config import TrainingConfig
from tests.test_setups import STAGE0, Write, said, write  # noqa: F401


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    def both(**values: Any) -> str:
        path = tmp_path / "x.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return both


VALUES: dict[str, Any] = {"dataset_num_proc": 2, "neftune_noise_alpha": 5.0, "label_smoothing_factor": 0.1}
VALUES |= {"dataset_kwargs": {"a": 1}, "model_init_kwargs": {"a": 1}, "pad_to_multiple_of": 8}
VALUES |= dict.fromkeys(
    ["chat_template_path", "eos_token", "pad_token", "dataset_text_field", "truncation_mode", "packing_strategy"], "a"
)
VALUES |= dict.fromkeys(["length_column_name", "hub_token", "hub_revision"], "a")
VALUES |= {"liger_kernel_config": {"a": True}, "label_names": ["a"], "include_for_metrics": ["loss"]}


@pytest.mark.parametrize("key", IGNORED_BY_US)
def test_settings_that_would_be_ignored_are_refused(key: str, recipe: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=f"'{key}'"):
        parse_recipe([recipe(**{"output_dir": "out", key: VALUES.get(key, True)})], TrainingConfig)


def test_a_right_training_recipe_is_taken(recipe: Callable[..., str]) -> None:
    path = recipe(output_dir="out", use_cpu=True, learning_rate="1e-4", report_to="none", optim="adamw_torch")
    (args,) = parse_recipe([path, "--eval_strategy", "no", "--save_strategy=epoch"], TrainingConfig)
    assert args.learning_rate == 1e-4 and args.eval_strategy == "no" and args.save_strategy == "epoch"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--eval_strategy", "epochs"], ["--eval_strategy is 'epochs'", "no or steps or epoch"]),
        (["--optim", "adam"], ["--optim is 'adam'", "adamw_torch"]),
        (["--lr_scheduler_type", "cosin"], ["--lr_scheduler_type is 'cosin'", "cosine"]),
        (["--fp16"], ["fp16", "bf16"]),
        (["--loss_type", "dft"], ["loss_type 'dft'", "nll"]),
        (["--load_best_model_at_end"], ["the command line", "strategy"]),  # transformers' own check
        (["--metric_for_best_model", "f1"], ["metric_for_best_model 'f1'", "eval_accuracy"]),
        (["--metric_for_best_model", "accuracy", "--validate_by_score", "false"], ["'accuracy'", "['eval_loss']"]),
        (["--train_sampling_strategy", "group_by_length"], ["train_sampling_strategy 'group_by_length'", "random"]),
    ],
)
def test_training_settings_that_are_refused(argv: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe(["--output_dir", "out", "--use_cpu", *argv], TrainingConfig)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "argv", "words"),
    [
        (configs.DataArguments, ["--max_frames", "16"], ["'max_frames' is 16", "set fps"]),
        (configs.DataArguments, ["--num_frames", "7"], ["the command line", "num_frames is 7", "even"]),
        (configs.DataArguments, ["--num_frames", "8", "--fps", "2"], ["the command line", "exactly one"]),
        (configs.DataArguments, ["--min_pixels", "9", "--max_pixels", "4"], ["the command line", "min_pixels is 9"]),
        (configs.DataArguments, ["--draw", "1"], ["'draw' is 1", "set shots"]),
        (configs.DataArguments, ["--shots", "2", "--draw", "-1"], ["'draw' is -1", "at least 0"]),
        (configs.DataArguments, ["--shots", "2", "--shots", "3"], ["--shots stands on the command line twice"]),
        (
            RationaleArguments,
            ["--output_file", "r.jsonl", "--temperature", "0", "--top_p", "0.5"],
            ["'top_p' is 0.5", "greedy"],
        ),
        (configs.AdapterArguments, ["--use_peft", "false", "--lora_r", "8"], ["'lora_r' is 8", "use_peft is false"]),
        (
            configs.EvalArguments,
            ["--output_dir", "out", "--method", "probe", "--label_score", "mean"],
            ["'label_score' is 'mean'", "probe"],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(cls: type, argv: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe([*(["--task", "card.yaml"] if cls is configs.DataArguments else []), *argv], cls)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adam_beta1": 1.5}, ["optim 'adamw_torch", "1.5"]),
        ({"optim": "galore_adamw"}, ["optim 'galore_adamw'", "choose others"]),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, ["'cosine_with_min_lr'", "min_lr"]),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, ["'linear'", "cycles"]),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_refused(options: dict[str, Any], words: list[str]) -> None:
    settings = {"output_dir": "out", "use_cpu": True, "report_to": "none"}
    check_optimizer(TrainingConfig(**settings))
    with pytest.raises(UserError) as caught:
        check_optimizer(TrainingConfig(**settings | options))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(NOT_TAKEN))
def test_a_key_that_is_not_taken_is_not_suggested(key: str) -> None:
    with pytest.raises(UserError, match=f"unknown key '{key}x'") as caught:
        parse_recipe([f"--{key}x=1"], TrainingConfig)
    assert not [word for word in re.findall(r"did you mean '(.*)'\?", str(caught.value)) if word in NOT_TAKEN]


def test_a_list_without_brackets_is_told_how_to_write_it(recipe: Callable[..., str]) -> None:
    for text in ("llm,vision", "llm, vision", "llm vision", "(llm,vision)"):
        with pytest.raises(UserError, match=r"--train_parts is .* but must be list; write '\[llm, vision\]'$"):
            parse_recipe(["--train_parts", text], configs.AdapterArguments)
    with pytest.raises(UserError, match=r"'train_parts' is 'llm' \(str\) but must be list; write '\[llm\]'$"):
        parse_recipe([recipe(train_parts="llm")], configs.AdapterArguments)
    (args,) = parse_recipe(["--train_parts", "[llm, vision]"], configs.AdapterArguments)
    assert args.train_parts == ["llm", "vision"]


@pytest.mark.parametrize(
    ("text", "meant"), [("spda", "sdpa"), ("flash_attn_2", "flash_attention_2"), ("eagre", "eager")]
)
def test_a_misspelt_attention_names_the_nearest(text: str, meant: str, smoke_base: Path) -> None:
    for value in (text, {"text_config": text}):
        with pytest.raises(UserError, match=f"attn_implementation '{text}' .*; did you mean '{meant}'\\?"):
            check_base(configs.ModelArguments(str(smoke_base), attn_implementation=value))
    with pytest.raises(UserError, match=r"holds 'text_confg', which is no part; did you mean 'text_config'\?"):
        configs.ModelArguments(str(smoke_base), attn_implementation={"text_confg": "sdpa"})


@pytest.mark.parametrize(
    ("setup", "own", "words", "place", "told"),
    [
        ({}, {}, ["--num_samples", "0"], "the command line", "'num_samples' is 0 but must be at least 1"),
        ({"per_device_batch_size": 0}, {}, ["--num_samples", "2"], "setups/s.yaml", "'per_device_batch_size' is 0"),
        ({}, {"seed": -1}, ["--num_samples", "2"], "stage.yaml", "'seed' is -1 but must be from 0"),
        ({"dataloader_num_workers": 1}, {}, ["--seed", "-1"], "the command line", "'seed' is -1"),
        ({}, {"rebuild_margin": math.nan}, [], "stage.yaml", "'rebuild_margin' is nan but must be a finite number"),
        (
            {"use_cpu": True},
            {"temperature": 0.0},
            ["--top_p", "0.5"],
            "stage.yaml with the command line",
            "'top_p' is",
        ),
    ],
)
def test_stage_0_names_the_one_value_that_is_wrong_and_its_place(
    write: Write,  # noqa: F811
    setup: dict,
    own: dict,
    words: list[str],
    place: str,
    told: str,
) -> None:
    recipe = write(setup, output_file="r.jsonl", **own)
    message = said([recipe, *words], *STAGE0)
    start = place if place == "the command line" else f"{Path(recipe).parent}/{place}"
    assert message.startswith(f"{start}: ") and told in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num_samples", "0"], "error: the command line: 'num_samples' is 0"),
        (["--num_samples", "x"], "error: --num_samples is 'x' (str)"),
        (["--num_sample", "1"], "error: the command line: unknown key 'num_sample'"),
    ],
)
def test_a_recipe_is_not_blamed_for_the_command_line(
    words: list[str],
    told: str,
    write: Write,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["rationales.py", write(output_file="r.jsonl"), *words])
    with pytest.raises(SystemExit, match="2"):
        run_entry(rationales.main)
    assert capsys.readouterr().err.startswith(told)
