"""Which engine accelerate started this process with, and what runs on it; the rest is refused with the way out.

Input: the environment that a launch file sets. Output: a `UserError` before a model is loaded; a table for the docs.
"""

import importlib.util
import os

from rbft_trl.errors import UserError

ENGINES = ("one process", "DDP", "ZeRO-2", "ZeRO-3", "FSDP2")
LORA, NF4, FULL = "LoRA", "LoRA on 4-bit weights (`load_in_4bit`)", "full fine-tuning (`use_peft: false`)"
SCORED, WHOLE = "validation by label scores (`validate_by_score`)", "stage 0, evaluation, prediction"
WORK = (LORA, NF4, FULL, SCORED, WHOLE)

PACKED = (
    "{engine} would cut packed 4-bit weights into pieces; use multi_gpu.yaml or zero2.yaml, or load_in_4bit: false"
)
UNEVEN = "the processes of {engine} score unequal numbers of clips and would wait for one another for ever; "
REFUSED = {
    (NF4, "ZeRO-3"): PACKED,
    (NF4, "FSDP2"): PACKED,
    (SCORED, "ZeRO-3"): UNEVEN + "write validate_by_score: false (eval_loss then chooses the checkpoint)",
    (SCORED, "FSDP2"): UNEVEN + "write validate_by_score: false (eval_loss then chooses the checkpoint)",
    (WHOLE, "ZeRO-3"): UNEVEN + "use multi_gpu.yaml, or for stage 0 a server (server_url)",
    (WHOLE, "FSDP2"): UNEVEN + "use multi_gpu.yaml, or for stage 0 a server (server_url)",
}


def started_engine(*, use_cpu: bool) -> str:
    """The engine that accelerate's launcher started this process with, one of `ENGINES`.

    Raises:
        UserError: for a launch file that names an engine which is not there, or another one than it seems to.
    """
    if _on("ACCELERATE_USE_DEEPSPEED"):
        return _zero_engine()
    if _on("ACCELERATE_USE_FSDP"):
        return _fsdp_engine(use_cpu=use_cpu)
    for key, name in (("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "a parallelism_config")):
        if _on(f"ACCELERATE_USE_{key}"):
            raise UserError(f"the launch file asks for {name}, which is not supported; use one of accelerate_configs/")
    return "DDP" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "one process"


def check_work(engine: str, *work: str) -> None:
    """Refuses what is known to break on this engine.

    Args:
        engine (`str`): One of `ENGINES`.
        work (`str`): Of `WORK`: what the process is about to do.

    Raises:
        UserError: with the way out.
    """
    for each in work:
        if reason := REFUSED.get((each, engine)):
            raise UserError(f"{each.replace('`', '')} under {engine}: {reason.format(engine=engine)}")


def check_full_precision(engine: str, *, dtype: str, bf16: bool) -> None:
    """Refuses full fine-tuning whose optimizer adds its steps to bf16 weights and keeps its moments in bf16.

    bf16 has 8 significant bits: a step under 1/512 of a weight is rounded away, and so is AdamW's decay of the second
    moment by 0.999. ZeRO and FSDP2 with mixed precision step on fp32 copies (`_configure_master_weights` in DeepSpeed
    0.19, `fsdp2_prepare_model` in accelerate 1.15).

    Args:
        engine (`str`): One of `ENGINES`.
        dtype (`str`): Of the weights, as the recipe has it.
        bf16 (`bool`): Whether the recipe asks for mixed precision.

    Raises:
        UserError: with the way out.
    """
    mixed = bf16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "bf16") != "no"
    if dtype == "float32" or engine.startswith("ZeRO") or (engine == "FSDP2" and mixed):
        return
    where = "FSDP2 with mixed_precision no" if engine == "FSDP2" else engine
    raise UserError(
        f"dtype is {dtype} but use_peft is false, and under {where} no fp32 copy of the weights takes the steps: "
        "small ones would be rounded away; write dtype: float32 (bf16: true still computes in bfloat16), or start "
        "with accelerate_configs/fsdp2.yaml, zero2.yaml or zero3.yaml"
    )


def check_whole_model(*, use_cpu: bool) -> None:
    """For stage 0, evaluation and prediction: a launch file that shards the model is refused."""
    check_work(started_engine(use_cpu=use_cpu), WHOLE)


def check_alone(entry: str) -> None:
    """For entries that write one folder or one repository: several processes would write it at once.

    Raises:
        UserError: if a launcher started more than one.
    """
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(f"{entry} works alone, but {count} processes were started; run python rbft_trl/{entry}")


def check_agreement(*, gradient_accumulation_steps: int, max_grad_norm: float) -> None:
    """DeepSpeed settings of the launch file that the recipe has too must be equal.

    Raises:
        UserError: naming both values.
    """
    wanted = {"gradient_accumulation_steps": gradient_accumulation_steps, "gradient_clipping": max_grad_norm}
    for key, value in wanted.items():
        launched = os.environ.get(f"ACCELERATE_{key.upper()}", "auto")
        if _on("ACCELERATE_USE_DEEPSPEED") and launched != "auto" and float(launched) != value:
            raise UserError(f"the launch file sets {key} to {launched}, the recipe to {value}; drop it from the file")


def support_table() -> str:
    """The support matrix as Markdown, as it stands in docs/engines.md."""
    reasons = list(dict.fromkeys(reason.format(engine="the engine") for reason in REFUSED.values()))
    lines = [f"| | {' | '.join(ENGINES)} |", "|---|" + "---|" * len(ENGINES)]
    for work in WORK:
        cells = []
        for engine in ENGINES:
            reason = REFUSED.get((work, engine))
            cells.append(f"no ({reasons.index(reason.format(engine='the engine')) + 1})" if reason else "yes")
        lines.append(f"| {work} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{i}. {reason}." for i, reason in enumerate(reasons, 1))])


def _zero_engine() -> str:
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("the launch file asks for DeepSpeed, which is not installed; run `pip install deepspeed`")
    if (file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")) != "none":
        raise UserError(
            f"the launch file names deepspeed_config_file '{file}', whose optimizer and schedule would replace the "
            "recipe's; write its ZeRO keys under deepspeed_config, as accelerate_configs/zero3.yaml does"
        )
    stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    if stage == 3 and not _on("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"):
        raise UserError(
            "zero3_save_16bit_model is false in the launch file, so no adapter would be written; set it to true, as "
            "accelerate_configs/zero3.yaml does"
        )
    return "ZeRO-3" if stage == 3 else "ZeRO-2"


def _fsdp_engine(*, use_cpu: bool) -> str:
    import torch

    if use_cpu or not torch.cuda.is_available():
        raise UserError(
            "the launch file asks for FSDP, which accelerate has only on GPUs: on a CPU it would silently be DDP; use "
            "accelerate_configs/cpu_2_processes.yaml"
        )
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise UserError(
            f"fsdp_version is {version} in the launch file; write 2, as accelerate_configs/fsdp2.yaml does"
        )
    if (kind := os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")) != "FULL_STATE_DICT":
        raise UserError(
            f"fsdp_state_dict_type is {kind} in the launch file, so no adapter would be written; write "
            "FULL_STATE_DICT, as in accelerate_configs/fsdp2.yaml"
        )
    return "FSDP2"


def _on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")
