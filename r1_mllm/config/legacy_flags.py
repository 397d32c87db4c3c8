# SPDX-License-Identifier: Apache-2.0
"""Flags that people's scripts carry over from PaddleNLP, TRL and VLM-R1: each is accepted and says what happens, or is
refused when ignoring it would change the result.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime import Stop


@dataclass(frozen=True)
class Legacy:
    """A flag of another program."""

    says: str
    """What happens here instead; one line."""
    harmless: frozenset[str] | None = None
    """Lower-case values that may be passed over; None: all of them.  Any other value is an error."""


RENAMED = {
    "BSZ": "batch_size",
    "adv_estimator": "advantage_estimator",
    "attn_impl": "attn_implementation",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "checkpoint_dir": "checkpoints",
    "clip_ratio_c": "dual_clip",
    "clip_ratio_dual": "dual_clip",
    "clip_ratio_high": "epsilon_high",
    "clip_ratio_low": "epsilon",
    "data_file_paths": "dataset_name",
    "dataset": "dataset_name",
    "dtype": "torch_dtype",
    "epochs": "num_train_epochs",
    "freeze_llm": "freeze_language",
    "freeze_vision_modules": "freeze_vision",
    "freeze_vision_tower": "freeze_vision",
    "freeze_vit": "freeze_vision",
    "gradient_checkpointing": "recompute",
    "image_folders": "image_root",
    "lora_rank": "lora_r",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "missing_images": "data_policy",
    "model": "model_name_or_path",
    "system": "system_prompt",
    "target_modules": "lora_target_modules",
    "task_type": "task",
    "val_dataset": "eval_dataset_name",
}
"""Another program's name -> ours, same values."""

VALUES = {
    ("advantage_estimator", "grpo"): "group",
    ("advantage_estimator", "rloo"): "leave_one_out",
    ("attn_implementation", "flash_attn"): "flash_attention_2",
    ("attn_implementation", "sdpa"): "auto",
    ("data_policy", "error"): "strict",
    ("data_policy", "skip"): "quarantine",
    ("resume_from_checkpoint", "true"): "auto",
    ("resume_from_checkpoint", "false"): "never",
    ("resume_from_checkpoint", "none"): "auto",
    ("scale_rewards", "true"): "group",
    ("scale_rewards", "false"): "none",
    ("sharding", ""): "none",
    ("sharding", "false"): "none",
    ("sharding", "0"): "none",
    ("sharding", "1"): "stage1",
    ("sharding", "2"): "stage2",
    ("sharding", "3"): "stage3",
}
"""(our name, another program's value in lower case) -> our value."""

_OFF = frozenset({"false", "0", "no", "none", ""})
_ON = frozenset({"true", "1", "yes"})
_ONE = frozenset({"1", "-1", "none"})
_ONE_DEVICE = "each device holds the whole model; devices share the prompts"
_FLOAT32 = "gradients and optimizer state are float32 always"
_ENGINE = "passed over: completions come from the built-in engine"
_HARDWARE = "passed over: it changes no result"
_ALL_LOGGED = "passed over: completions.jsonl has every completion"
_NO_DEEPSPEED = "training runs through Paddle's own data parallelism"


def sharding_of(words: Sequence[str]) -> list[str]:
    """Read the ZeRO stage of a DeepSpeed file, or of ms-swift's `zero2`; write it as `--sharding` and say so on stderr.

    Raises:
        Stop: a file that cannot be read.
    """
    path = " ".join(words)
    if path.lower() in _OFF:
        return []
    by_name = re.fullmatch(r"zero([0-3])(_offload)?", path)
    try:
        content = {} if by_name else json.loads(Path(path).read_text("utf-8"))
        stage = int(by_name[1]) if by_name else content.get("zero_optimization", {}).get("stage", 0)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise Stop(f"--deepspeed {path}: cannot be read ({error}); leave the flag out or give another file") from None
    wanted = [f"stage{stage}"] if stage else []
    meaning = f"mapped to --sharding stage{stage}" if stage else "nothing is sharded"
    print(f"note: --deepspeed {path}: ZeRO stage {stage}, {meaning}; {_NO_DEEPSPEED}", file=sys.stderr)
    return wanted


LEGACY = {
    "amp_custom_black_list": Legacy("passed over: softmax, losses and log-probabilities are float32 always"),
    "amp_custom_white_list": Legacy("passed over: weights and activations keep the dtype they were loaded in"),
    "amp_master_grad": Legacy(_FLOAT32),
    "arrow_cache_dir": Legacy(_HARDWARE),
    "assistant_only_loss": Legacy("only the assistant's words are learnt", _ON),
    "auto_find_batch_size": Legacy("--tokens_per_pack and --rollout_batch_rows bound the memory", _OFF),
    "cache_implementation": Legacy(_ENGINE),
    "completion_only_loss": Legacy("only the assistant's words are learnt", _ON),
    "dataloader_drop_last": Legacy("passed over: batches are always full; an epoch's rest joins the next one"),
    "dataloader_persistent_workers": Legacy(_HARDWARE),
    "dataloader_pin_memory": Legacy(_HARDWARE),
    "dataloader_prefetch_factor": Legacy(_HARDWARE),
    "dataset_config": Legacy("data sets have no named parts here", _OFF | {"main", "default"}),
    "dataset_num_proc": Legacy(_HARDWARE),
    "ddp_find_unused_parameters": Legacy("passed over: a missing gradient counts as zeros"),
    "ddp_timeout": Legacy("passed over: Paddle's launcher has its own time limit"),
    "deepspeed": Legacy("its ZeRO stage becomes --sharding"),
    "disable_dropout": Legacy("passed over: the network has no dropout; that of adapters is --lora_dropout"),
    "disable_tqdm": Legacy("the progress bar shows on interactive terminals only"),
    "do_eval": Legacy("evaluation runs whenever --eval_dataset_name is given"),
    "do_predict": Legacy("use `r1-mllm eval` for predictions", _OFF),
    "do_train": Legacy("training is what this command does"),
    "ds3_gather_for_generation": Legacy("passed over: weights are not sharded"),
    "eval_on_start": Legacy("an evaluation set is always evaluated before training too"),
    "eval_strategy": Legacy("--eval_steps decides when evaluation runs"),
    "evaluation_strategy": Legacy("--eval_steps decides when evaluation runs"),
    "flash_attention": Legacy("--attn_implementation decides"),
    "fp16_full_eval": Legacy("evaluation uses the training dtype"),
    "fp16_opt_level": Legacy("weights and activations are kept in the chosen dtype (O2); " + _FLOAT32),
    "freeze_aligner": Legacy("the merger stays with the vision tower: --freeze_vision", frozenset()),
    "fsdp": Legacy("use --sharding stage1 or stage2", _OFF),
    "fsdp_config": Legacy("use --sharding stage1 or stage2", _OFF),
    "fuse_attention_qkv": Legacy("passed over: layers keep the published layout"),
    "generation_batch_size": Legacy(
        "per_device_train_batch_size x gradient_accumulation_steps prompts are sampled together", _OFF
    ),
    "generation_kwargs": Legacy("use --temperature, --top_p, --top_k, --min_p, --repetition_penalty", _OFF | {"{}"}),
    "gradient_checkpointing_kwargs": Legacy("passed over: --recompute has no options"),
    "hub_model_id": Legacy("nothing is uploaded"),
    "hybrid_parallel_topo_order": Legacy("passed over: there is one kind of parallelism, over prompts"),
    "ignore_bias_buffers": Legacy("passed over: the model has no bias buffers"),
    "ignore_data_skip": Legacy("a resumed run goes on where the data stood", _OFF),
    "is_reward_customized_from_vlm_module": Legacy("passed over: --task decides what an answer earns"),
    "label_names": Legacy(_HARDWARE),
    "load_best_model_at_end": Legacy("`r1-mllm eval --checkpoints RUN` compares all checkpoints of a run", _OFF),
    "load_in_4bit": Legacy("weights are kept in --torch_dtype; --use_peft trains adapters on them", _OFF),
    "load_in_8bit": Legacy("weights are kept in --torch_dtype; --use_peft trains adapters on them", _OFF),
    "local_rank": Legacy("passed over: Paddle's launcher tells each process its rank"),
    "log_level": Legacy("passed over"),
    "log_unique_prompts": Legacy(_ALL_LOGGED),
    "logging_first_step": Legacy("the first step is always logged"),
    "logging_strategy": Legacy("--logging_steps decides", frozenset({"steps"})),
    "lora_modules_to_save": Legacy("only adapters are trained with --use_peft", _OFF),
    "lora_task_type": Legacy("adapters are those of a causal language model", frozenset({"causal_lm"})),
    "low_cpu_mem_usage": Legacy(_HARDWARE),
    "max_anyres_num": Legacy("passed over: it is InternVL's; --max_pixels bounds pictures here"),
    "model_init_kwargs": Legacy("passed over: config.json and --torch_dtype, --attn_implementation decide", _OFF),
    "neftune_noise_alpha": Legacy("embeddings get no noise", _OFF),
    "num_completions_to_print": Legacy(_ALL_LOGGED),
    "num_generations_eval": Legacy(
        "evaluation is greedy, one answer each; `r1-mllm passk` samples several", _OFF | {"1"}
    ),
    "off_policy_mask_threshold": Legacy("every token counts; --delta and --epsilon bound its ratio", _OFF),
    "optim": Legacy("the optimizer is AdamW", frozenset({"adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"})),
    "packing": Legacy("passed over: conversations always share packs, and do not see each other"),
    "per_device_eval_batch_size": Legacy("passed over: --rollout_batch_rows bounds what is answered together"),
    "pipeline_parallel_degree": Legacy(_ONE_DEVICE, _ONE),
    "push_to_hub": Legacy("nothing is uploaded", _OFF),
    "remove_unused_columns": Legacy("passed over: columns that are not needed do no harm"),
    "reward_method": Legacy(
        "--task decides how answers are judged: gui for all_match, open_detection with --detection_reward "
        "map, ap50, map_length (odLength) or weighted_sum for the detection methods",
        frozenset({"default", "math", "numeric", "mcq", "all_match"}),
    ),
    "reward_model_name_or_path": Legacy("--reward_funcs judge asks a model behind an OpenAI-compatible address", _OFF),
    "save_on_each_node": Legacy("passed over: rank 0 writes checkpoints"),
    "save_safetensors": Legacy("checkpoints are safetensors", frozenset({"true", "1", "yes"})),
    "save_strategy": Legacy("--save_steps decides", frozenset({"steps"})),
    "sep_parallel_degree": Legacy(_ONE_DEVICE, _ONE),
    "sharding_parallel_config": Legacy("passed over: exchanges are arranged by --sharding alone"),
    "shuffle_dataset": Legacy("the order follows from --data_seed", _ON),
    "skip_memory_metrics": Legacy("passed over"),
    "skip_profile_timer": Legacy("passed over"),
    "steps_per_generation": Legacy("--num_iterations and --mini_batch_size decide how often a rollout is used", _OFF),
    "test": Legacy("--sample_num takes fewer rows for a trial", _OFF),
    "tf32": Legacy("passed over: Paddle's own setting stays"),
    "top_entropy_quantile": Legacy("every token counts", _OFF | {"1", "1.0"}),
    "torch_compile": Legacy(_HARDWARE),
    "train_type": Legacy("all weights are trained; adapters with --use_peft", frozenset({"full"})),
    "truncation_side": Legacy("passed over: nothing is cut; longer prompts are left out and counted"),
    "trust_remote_code": Legacy("no code of a checkpoint is ever run", _OFF),
    "tuner_type": Legacy("all weights are trained; adapters with --use_peft", frozenset({"full"})),
    "unified_checkpoint": Legacy("passed over: checkpoints have the published layout"),
    "use_bias_correction_kl": Legacy("--kl_estimator chooses among k1, k2, k3", _OFF),
    "use_dora": Legacy("adapters are plain LoRA", _OFF),
    "use_flash_attention": Legacy("--attn_implementation decides"),
    "use_liger_kernel": Legacy("passed over: log-probabilities are computed in blocks always"),
    "use_liger_loss": Legacy("passed over: log-probabilities are computed in blocks always"),
    "use_rslora": Legacy("adapters are scaled by lora_alpha / lora_r", _OFF),
    "use_vllm": Legacy("completions come from the built-in engine", _OFF),
    "val_split_ratio": Legacy("--eval_dataset_name names held-out rows", _OFF | {"0.0"}),
    "vllm_device": Legacy(_ENGINE),
    "vllm_gpu_memory_utilization": Legacy(_ENGINE),
    "vllm_max_model_len": Legacy(_ENGINE),
    "vllm_mode": Legacy(_ENGINE),
    "vllm_server_host": Legacy(_ENGINE),
    "vllm_server_port": Legacy(_ENGINE),
    "vllm_tensor_parallel_size": Legacy(_ENGINE),
    "wandb_log_unique_prompts": Legacy(_ALL_LOGGED),
}
"""Name -> what happens."""
