"""Keys that recipes of TRL before 1.0 and of transformers 4 used: each is known, or its message says what to write."""

import dataclasses

import pytest

from rbft_trl import configs, rationale_config, training_config
from rbft_trl.errors import UserError
from rbft_trl.options import options_of
from rbft_trl.recipe import parse_recipe
from rbft_trl.renamed import GONE, RENAMED

GROUPS = [
    cls
    for module in (configs, rationale_config, training_config)
    for cls in vars(module).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module.__name__
]
KNOWN = options_of(GROUPS)
# TrainingArguments of transformers 4.57, and names that 4.x dropped on its way.
TRANSFORMERS_4 = """
    output_dir overwrite_output_dir do_train do_eval do_predict eval_strategy evaluation_strategy
    evaluate_during_training prediction_loss_only per_device_train_batch_size per_device_eval_batch_size
    per_gpu_train_batch_size per_gpu_eval_batch_size gradient_accumulation_steps eval_accumulation_steps eval_delay
    torch_empty_cache_steps learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm
    num_train_epochs max_steps lr_scheduler_type lr_scheduler_kwargs warmup_ratio warmup_steps log_level
    log_level_replica log_on_each_node logging_dir logging_strategy logging_first_step logging_steps
    logging_nan_inf_filter save_strategy save_steps save_total_limit save_safetensors save_on_each_node
    save_only_model restore_callback_states_from_checkpoint no_cuda use_cpu use_mps_device seed data_seed
    jit_mode_eval use_ipex bf16 fp16 fp16_opt_level half_precision_backend fp16_backend bf16_full_eval
    fp16_full_eval tf32 local_rank ddp_backend xpu_backend tpu_num_cores tpu_metrics_debug debug
    dataloader_drop_last eval_steps dataloader_num_workers dataloader_prefetch_factor past_index run_name
    disable_tqdm remove_unused_columns label_names load_best_model_at_end metric_for_best_model greater_is_better
    ignore_data_skip fsdp fsdp_min_num_params fsdp_config fsdp_transformer_layer_cls_to_wrap sharded_ddp
    accelerator_config parallelism_config dispatch_batches split_batches deepspeed label_smoothing_factor optim
    optim_args adafactor group_by_length length_column_name report_to project trackio_space_id
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers dataloader_pin_memory
    dataloader_persistent_workers skip_memory_metrics use_legacy_prediction_loop push_to_hub resume_from_checkpoint
    hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision push_to_hub_model_id
    push_to_hub_organization push_to_hub_token gradient_checkpointing gradient_checkpointing_kwargs
    include_inputs_for_metrics include_for_metrics eval_do_concat_batches mp_parameters auto_find_batch_size
    full_determinism torchdynamo ray_scope ddp_timeout torch_compile torch_compile_backend torch_compile_mode
    include_tokens_per_second include_num_input_tokens_seen neftune_noise_alpha optim_target_modules
    batch_eval_metrics eval_on_start use_liger_kernel liger_kernel_config eval_use_gather_object
    average_tokens_across_devices
"""
# SFTConfig, ModelConfig and ScriptArguments of TRL 0.7 to 0.29, arguments of its trainers, and what recipes of
# alignment-handbook and open-r1 hold beside them.
TRL_0 = """
    max_seq_length max_length max_prompt_length max_completion_length packing packing_strategy eval_packing
    padding_free pad_to_multiple_of dataset_text_field dataset_num_proc dataset_batch_size dataset_kwargs
    num_of_sequences chars_per_token model_init_kwargs use_liger chat_template_path eos_token pad_token
    completion_only_loss assistant_only_loss loss_type activation_offloading truncation_mode shuffle_dataset
    tokenizer processing_class instruction_template response_template model_name_or_path model_name
    model_revision model_code_revision torch_dtype dtype trust_remote_code attn_implementation
    use_flash_attention_2 use_peft use_lora lora_r lora_alpha lora_dropout lora_target_modules
    lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora load_in_8bit load_in_4bit
    bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage bnb_4bit_compute_dtype
    bnb_4bit_use_double_quant dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming
    dataset_mixture gradient_checkpointing_use_reentrant ignore_bias_buffers dataset_mixer dataset_splits
    dataset_configs preprocessing_num_workers tokenizer_name_or_path tokenizer_revision truncation_side
    auto_insert_empty_system_msg chat_template system_prompt
"""


@pytest.mark.parametrize("key", sorted({*TRANSFORMERS_4.split(), *TRL_0.split()} - KNOWN.keys()))
def test_a_key_of_older_recipes_is_renamed_or_gone(key: str) -> None:
    assert (key in RENAMED) != (key in GONE)


@pytest.mark.parametrize("old", RENAMED)
def test_renamed_keys_lead_to_a_key_that_exists(old: str) -> None:
    new = RENAMED[old].split()[0]
    assert new in KNOWN and new not in RENAMED and new not in GONE
    with pytest.raises(UserError, match=f"^the command line: the key '{old}' is now called {new}"):
        parse_recipe([f"--{old}=1"], *GROUPS)


@pytest.mark.parametrize("old", GONE)
def test_keys_that_are_gone_say_why(old: str) -> None:
    assert old not in KNOWN and old not in RENAMED
    with pytest.raises(UserError, match=f"^the command line: the key '{old}' is gone: .*; leave it out$"):
        parse_recipe([f"--{old}=1"], *GROUPS)
