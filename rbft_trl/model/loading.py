"""Model and processor from a folder or the Hub: precision, LoRA by part, frozen parts without a graph.

Input: a recipe's options and a folder or Hub id. Output: what trainers and scorers work on; families.py has names.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from rbft_trl.configs import PARTS, AdapterArguments, ModelArguments
from rbft_trl.data.jsonl import read_json
from rbft_trl.data.video import file_hash
from rbft_trl.errors import UserError, nearest, searched
from rbft_trl.model.families import NOT_IN_4BIT, against_4bit, part_of, refuse_tree_masks, vision_tower
from rbft_trl.model.fetch import how_to_make
from rbft_trl.model.shards import size_of

ATTENTIONS = ("eager", "sdpa", "flash_attention_2")
NOT_OF_THE_BASE = ("made.json", "measured.json")
# PEFT asks under a name that transformers 5.23 is about to drop; nothing that a user could change.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def check_base(args: ModelArguments) -> None:
    """What can be known of a base before its weights are opened, on any machine.

    Raises:
        UserError: if the folder is no model, has a revision, or holds fp16 weights that would be taken as they are.
    """
    name, folder = args.model_name_or_path, Path(args.model_name_or_path)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists()
    if looks_local and not (folder / "config.json").is_file():
        way_out = how_to_make(name) or "; name a model folder or a Hub id (org/name)"
        raise UserError(f"model_name_or_path '{name}' holds no config.json{way_out}")
    if folder.is_dir() and args.model_revision is not None:
        raise UserError(f"model_revision is '{args.model_revision}' but '{name}' is a folder; leave it out")
    if unknown := [name for name in _attentions(args) if name not in (None, *ATTENTIONS)]:
        raise UserError(
            f"attn_implementation '{unknown[0]}' is none of {', '.join(ATTENTIONS)}{nearest(unknown[0], ATTENTIONS)}; "
            "choose one of them"
        )
    if dtype_in_file(args) == "float16":
        raise UserError(f"dtype is auto and '{name}' holds float16, which gives NaN on this family; use bfloat16")


def _attentions(args: ModelArguments) -> list[str | None]:
    """The attention implementations that are asked for."""
    parts = args.attn_implementation
    return list(parts.values()) if isinstance(parts, dict) else [parts]


def dtype_in_file(args: ModelArguments) -> str | None:
    """For dtype auto and a folder, what its config.json says of the weights; else None."""
    file = Path(args.model_name_or_path) / "config.json"
    if args.dtype != "auto" or not file.is_file():
        return None
    config = read_json(file)
    return config.get("dtype") or config.get("torch_dtype")


def check_model_arguments(args: ModelArguments, *, use_cpu: bool) -> None:
    """`check_base`, and whether this machine has the attention implementation that is asked for.

    Raises:
        UserError: naming the value and the way out.
    """
    check_base(args)
    asked = _attentions(args)
    if "flash_attention_2" in asked and importlib.util.find_spec("flash_attn") is None:
        raise UserError(
            "attn_implementation 'flash_attention_2' needs the package flash-attn, which is not installed; "
            "write attn_implementation: sdpa, or run `pip install -r requirements-gpu.txt --no-build-isolation`"
        )
    if "flash_attention_2" in asked and (use_cpu or not torch.cuda.is_available()):
        raise UserError("attn_implementation 'flash_attention_2' needs a GPU; write attn_implementation: sdpa")


def check_scoring_attention(args: ModelArguments) -> None:
    """Label scoring reads the label trie under a boolean 4-D mask: flash attention cannot take it, and eager attention
    would add it to the logits instead of masking."""
    asked = args.attn_implementation
    text = asked.get("text_config", asked.get("")) if isinstance(asked, dict) else asked
    if text not in (None, "sdpa"):
        raise UserError(
            f"attn_implementation '{text}' cannot take the 4-D mask of label scoring; write attn_implementation: "
            "sdpa, or {text_config: sdpa, vision_config: flash_attention_2}"
        )


def load_processor(name: str, revision: str | None = None) -> ProcessorMixin:
    """The processor of a base; its tokenizer, template and pixel normalisation are used as they are."""
    try:
        processor = AutoProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        said, way_out = f"no processor could be loaded from '{name}'{searched(name)}: ", how_to_make(name)
        raise UserError(f"{said}{_first_line(error).rstrip('.')}{way_out}") from error
    if getattr(processor, "video_processor", None) is None:
        raise UserError(f"the processor of '{name}' takes no video; use a Qwen2-VL-class model")
    if not processor.chat_template or processor.tokenizer.eos_token_id is None:
        raise UserError(f"the processor of '{name}' has no chat template or end token; use an instruction-tuned model")
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        processor.video_processor.cap_pixels_per_frame = False  # our sampler has applied the pixel budget already
    return processor


def frame_factor(processor: ProcessorMixin) -> int:
    """Height and width of a frame are multiples of this: patch_size · merge_size (28 for Qwen2-VL)."""
    return processor.video_processor.patch_size * processor.video_processor.merge_size


def base_fingerprint(name: str, revision: str | None = None) -> str:
    """Twelve hex digits that change when the base changes: configuration, tokenizer, template and weights (see
    `file_hash`: of a large file 64 blocks).

    For a Hub id it is the id with its revision, since the weights may not be on this machine yet.
    """
    folder = Path(name)
    if not folder.is_dir():
        return f"{name}@{revision or 'main'}"
    if not (folder / "config.json").is_file():
        raise UserError(f"the folder '{name}' holds no config.json, so it is no base model; correct the path")
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):  # configuration, processor, tokenizer and template, but for our toy's notes
        if file.suffix in (".json", ".jinja", ".txt", ".model") and file.name not in NOT_OF_THE_BASE:
            digest.update(file.name.encode() + file.read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name}:{file_hash(file)}".encode())
    return digest.hexdigest()[:12]


def load_base(args: ModelArguments, *, device: torch.device | str) -> PreTrainedModel:
    """Loads the base in the precision of the recipe; 4-bit leaves tower, merger and head as they are.

    Raises:
        UserError: if the folder or id holds no image-text-to-text model.
    """
    quantisation = None
    if args.load_in_4bit:
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=NOT_IN_4BIT,
        )
    try:
        config = AutoConfig.from_pretrained(args.model_name_or_path, revision=args.model_revision)
        if args.load_in_4bit and (why_not := against_4bit(config)):
            warnings.warn(f"load_in_4bit with '{args.model_name_or_path}': {why_not}", stacklevel=2)
        model, found = AutoModelForImageTextToText.from_pretrained(
            args.model_name_or_path,
            revision=args.model_revision,
            config=config,
            dtype=args.dtype,
            attn_implementation=args.attn_implementation,
            quantization_config=quantisation,
            device_map=None if is_deepspeed_zero3_enabled() else {"": device},  # ZeRO-3 deals the weights out itself
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"no model could be loaded from '{args.model_name_or_path}': {_first_line(error)}") from error
    if lacking := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise UserError(
            f"'{args.model_name_or_path}' lacks {len(lacking)} weights or has them in another shape, e.g. "
            f"{sorted(map(str, lacking))[0]}; they would be random, so fetch the model again"
        )
    if model.dtype == torch.float16:
        raise UserError(
            f"'{args.model_name_or_path}' was loaded as float16, which gives NaN here; use dtype: bfloat16"
        )
    quantised = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert not any(part_of(name) != "llm" for name in quantised), "the tower must stay out of 4 bit (unsloth#1347)"
    refuse_tree_masks(model)
    model.generation_config.do_sample = False
    return model


def prepare_for_training(model: PreTrainedModel, args: AdapterArguments, *, adapter: str | None = None) -> nn.Module:
    """Marks what is trained: a new LoRA, the LoRA of `adapter` continued, or whole parts.

    Args:
        model (`PreTrainedModel`): The base.
        args (`AdapterArguments`): LoRA settings and parts.
        adapter (`str`, *optional*): Folder of a stage-1 adapter to continue (PEFT refuses a second configuration);
            its parts that are not in `args.train_parts` stay as they are.
    """
    if adapter is not None:
        one_type = is_deepspeed_zero3_enabled()  # whose buffers hold one dtype (huggingface/trl#6089)
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True, autocast_adapter_dtype=not one_type)
        for name, parameter in model.named_parameters():
            if part_of(name) not in args.train_parts:
                parameter.requires_grad_(False)
    else:
        model = mark_trained(model, args)
    print(trained_parts_table(model))
    cut_graph_of_frozen_parts(model)
    return model


def mark_trained(model: PreTrainedModel, args: AdapterArguments) -> nn.Module:
    """A new LoRA on the parts that are trained, or these parts themselves; works on the meta device too."""
    if args.use_peft:
        return get_peft_model(
            model, _lora_config(model, args), autocast_adapter_dtype=not is_deepspeed_zero3_enabled()
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in args.train_parts)
    return model


def _lora_config(model: PreTrainedModel, args: AdapterArguments) -> LoraConfig:
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    targets = [name for name in linear if part_of(name) in args.train_parts]
    for part in args.train_parts:
        if not any(part_of(name) == part for name in targets):
            raise UserError(f"train_parts holds '{part}', but the model has no linear layer there; remove it")
    return LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def trained_parts_table(model: nn.Module) -> str:
    """One line per part: parameters, trained parameters, matched layers. Raises if nothing is trained."""
    lines = [f"{'part':8} {'parameters':>14} {'trained':>12} {'LoRA layers':>12}"]
    trained_in_all = 0
    for part in PARTS:
        own = [(n, p) for n, p in model.named_parameters() if part_of(n) == part]
        trained = sum(size_of(p) for _, p in own if p.requires_grad)
        in_all = sum(size_of(p) for _, p in own)
        layers = sum(n.endswith("lora_A.default.weight") for n, _ in own)
        lines.append(f"{part:8} {in_all:>14,} {trained:>12,} {layers:>12}")
        trained_in_all += trained
    if not trained_in_all:
        raise UserError("no parameter is trained; check train_parts and the adapter of stage 1")
    return "\n".join(lines)


def cut_graph_of_frozen_parts(model: nn.Module) -> None:
    """Runs frozen parts of the tower under `no_grad`: same loss and gradients, 1.5-1.75x fewer FLOPs at 2B.

    Without it PEFT and activation checkpointing make the patch embedding's output require a gradient, and the whole
    frozen tower is recomputed and back-propagated.
    """
    trained = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    tower = vision_tower(model)
    if "vision" in trained:
        return
    frozen = [tower] if "merger" not in trained else [tower.patch_embed, *tower.blocks]
    for module in frozen:
        module.forward = torch.no_grad()(module.forward)


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """`(part, name, parameter)` of every parameter that is trained."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield part_of(name), name, parameter


def load_for_inference(args: ModelArguments, checkpoint: str | None, *, device: torch.device | str) -> nn.Module:
    """The base, or a trained stage: its adapter on the base, or its own full weights."""
    if checkpoint is None:
        return load_base(args, device=device).eval()
    if (Path(checkpoint) / "adapter_config.json").is_file():
        return PeftModel.from_pretrained(load_base(args, device=device), checkpoint).eval()
    full = ModelArguments(**{**vars(args), "model_name_or_path": checkpoint, "model_revision": None})
    return load_base(full, device=device).eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
