"""Keys of TRL, transformers, LLaMA-Factory and OpenRLHF, and the settings that they are here."""

_KEYS: dict[str, str] = {
    "train.learning_rate": "lr learning-rate actor_learning_rate peak_lr",
    (
        "train.pairs_per_step, the pairs of an optimizer step, all processes together; "
        "train.micro_batch_tokens says how many tokens are computed at a time"
    ): (
        "batch_size per_device_train_batch_size train_batch_size micro_batch_size "
        "micro_train_batch_size per_device_batch_size global_batch_size "
        "gradient_accumulation_steps grad_accum_steps accumulation_steps"
    ),
    "train.epochs": "num_train_epochs num_epochs max_epochs n_epochs",
    "train.max_steps": "max_train_steps num_steps total_steps num_train_steps",
    "train.max_prompt_tokens and train.max_completion_tokens": (
        "max_length max_len cutoff_len max_seq_length max_seq_len block_size"
    ),
    "train.max_prompt_tokens": "max_prompt_length prompt_max_len",
    "train.max_completion_tokens": "max_completion_length max_target_length",
    "sample.max_new_tokens": "max_tokens generate_max_len max_gen_len",
    "an option of train.loss, such as {name: dpo, beta: 0.1}": (
        "beta pref_beta gamma simpo_gamma label_smoothing loss_type pref_loss dpo_beta "
        "dpo_label_smoothing ld_alpha simpo_beta"
    ),
    "train.regularizer, nll, with train.regularizer_weight": (
        "rpo_alpha pref_ftx sft_weight nll_loss_coef cpo_alpha"
    ),
    "train.adapter, such as {name: lora, rank: 16, alpha: 32}": (
        "lora use_lora use_peft peft_config finetuning_type lora_r lora_rank lora_alpha "
        "lora_target lora_target_modules lora_dropout"
    ),
    "train.adapter.rank": "r",
    "train.warmup_fraction, a share of all steps": "warmup_ratio lr_warmup_ratio warmup_steps",
    "train.schedule": "lr_scheduler_type lr_scheduler scheduler",
    "train.adam_betas and train.weight_decay of AdamW": (
        "optim optimizer adam_beta1 adam_beta2 adam_epsilon"
    ),
    "train.dtype": "bf16 fp16 torch_dtype precision param_dtype",
    "train.max_grad_norm": "max_norm grad_clip gradient_clipping clip_grad_norm",
    "train.checkpoint_every": "save_steps save_interval checkpointing_steps save_strategy",
    "train.keep_checkpoints": "save_total_limit max_ckpt_num",
    "train.evaluate_every": "eval_steps eval_strategy evaluation_strategy",
    "no setting: train_log.jsonl has a row for every step": "logging_steps log_every",
    "train.tracking, such as {trackers: [wandb], project: mine}": (
        "report_to use_wandb wandb_project use_tensorboard"
    ),
    "train.reference": "ref_model ref_model_name_or_path ref_pretrain reference_model",
    "no setting: they are kept in any case; train.reference_cache says where": (
        "precompute_ref_log_probs"
    ),
    "no setting: rows are packed in any case": "packing padding_free",
    "no setting: start `prefine train` with `accelerate launch`": (
        "deepspeed ds_config fsdp fsdp_config num_gpus"
    ),
    "policy, a hub id or a folder": (
        "model model_name_or_path model_name pretrain base_model model_id"
    ),
    "pairs (or prompts, completions, lists, labels), a file or hub:org/name": (
        "dataset dataset_name train_file data data_path dataset_path datasets"
    ),
    "run_dir": "output_dir save_path out_dir output_path",
    "sample.completions_per_prompt": (
        "num_generations num_return_sequences n_samples_per_prompt num_samples"
    ),
    "rank.judge": "judge_model judge reward_model reward_pretrain",
    "pair.held_out_prompts": "eval_dataset eval_dataset_name val_size test_size",
}
HERE: dict[str, str] = {key: ours for ours, keys in _KEYS.items() for key in keys.split()}
"""A key of theirs → the setting that it is here."""
