# SPDX-License-Identifier: Apache-2.0
"""Flags that people's scripts carry over from PaddleNLP, TRL and VLM-R1: each is accepted and says what happens, or is
refused when ignoring it would change the result.
"""

from __future__ import annotations

import json
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
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "checkpoint_dir": "checkpoints",
    "clip_ratio_c": "dual_clip",
    "clip_ratio_dual": "dual_clip",
    "clip_ratio_high": "epsilon_high",
    "clip_ratio_low": "epsilon",
    "data_file_paths": "dataset_name",
    "dtype": "torch_dtype",
    "epochs": "num_train_epochs",
    "freeze_vision_modules": "freeze_vision",
    "gradient_checkpointing": "recompute",
    "image_folders": "image_root",
    "lr": "learning_rate",
    "missing_images": "data_policy",
    "task_type": "task",
}
"""Another program's name -> ours, same values."""

VALUES = {
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
_ONE = frozenset({"1", "-1", "none"})
_ONE_DEVICE = "each device holds the whole model; devices share the prompts"
_FLOAT32 = "gradients and optimizer state are float32 always"
_NO_DEEPSPEED = "training runs through Paddle's own data parallelism"


def sharding_of(words: Sequence[str]) -> list[str]:
    """Read the ZeRO stage of a DeepSpeed file and write it as the flag `--sharding`; say so on stderr.

    Raises:
        Stop: a file that cannot be read.
    """
    path = " ".join(words)
    if path.lower() in _OFF:
        return []
    try:
        stage = json.loads(Path(path).read_text("utf-8")).get("zero_optimization", {}).get("stage", 0)
    except (OSError, ValueError, AttributeError) as error:
        raise Stop(f"--deepspeed {path}: cannot be read ({error}); leave the flag out or give another file") from None
    wanted = [f"stage{stage}"] if stage else []
    meaning = f"mapped to --sharding stage{stage}" if stage else "nothing is sharded"
    print(f"note: --deepspeed {path}: ZeRO stage {stage}, {meaning}; {_NO_DEEPSPEED}", file=sys.stderr)
    return wanted


LEGACY = {
    "amp_master_grad": Legacy(_FLOAT32),
    "amp_custom_black_list": Legacy("passed over: softmax, losses and log-probabilities are float32 always"),
    "amp_custom_white_list": Legacy("passed over: weights and activations keep the dtype they were loaded in"),
    "dataset_config": Legacy("data sets have no named parts here", _OFF | {"main", "default"}),
    "dataloader_drop_last": Legacy("passed over: batches are always full; an epoch's rest joins the next one"),
    "ddp_find_unused_parameters": Legacy("passed over: a missing gradient counts as zeros"),
    "ddp_timeout": Legacy("passed over: Paddle's launcher has its own time limit"),
    "deepspeed": Legacy("its ZeRO stage becomes --sharding"),
    "disable_tqdm": Legacy("the progress bar shows on interactive terminals only"),
    "do_eval": Legacy("evaluation runs whenever --eval_dataset_name is given"),
    "do_predict": Legacy("use `r1-mllm eval` for predictions", _OFF),
    "do_train": Legacy("training is what this command does"),
    "ds3_gather_for_generation": Legacy("passed over: weights are not sharded"),
    "eval_strategy": Legacy("--eval_steps decides when evaluation runs"),
    "evaluation_strategy": Legacy("--eval_steps decides when evaluation runs"),
    "flash_attention": Legacy("--attn_implementation decides"),
    "fp16_opt_level": Legacy("weights and activations are kept in the chosen dtype (O2); " + _FLOAT32),
    "fp16_full_eval": Legacy("evaluation uses the training dtype"),
    "fuse_attention_qkv": Legacy("passed over: layers keep the published layout"),
    "gradient_checkpointing_kwargs": Legacy("passed over: --recompute has no options"),
    "hybrid_parallel_topo_order": Legacy("passed over: there is one kind of parallelism, over prompts"),
    "ignore_bias_buffers": Legacy("passed over: the model has no bias buffers"),
    "local_rank": Legacy("passed over: Paddle's launcher tells each process its rank"),
    "log_level": Legacy("passed over"),
    "logging_first_step": Legacy("the first step is always logged"),
    "logging_strategy": Legacy("--logging_steps decides", frozenset({"steps"})),
    "lora_modules_to_save": Legacy("only adapters are trained with --use_peft", _OFF),
    "lora_task_type": Legacy("adapters are those of a causal language model", frozenset({"causal_lm"})),
    "model_init_kwargs": Legacy("passed over: config.json and --torch_dtype, --attn_implementation decide", _OFF),
    "optim": Legacy("the optimizer is AdamW", frozenset({"adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"})),
    "pipeline_parallel_degree": Legacy(_ONE_DEVICE, _ONE),
    "push_to_hub": Legacy("nothing is uploaded", _OFF),
    "ref_model_mixup_alpha": Legacy("passed over: the reference model stays as it was at the start"),
    "ref_model_sync_steps": Legacy("passed over: the reference model stays as it was at the start"),
    "remove_unused_columns": Legacy("passed over: columns that are not needed do no harm"),
    "reward_method": Legacy(
        "--task decides how answers are judged: gui for all_match, open_detection with --detection_reward "
        "map, ap50, map_length (odLength) or weighted_sum for the detection methods",
        frozenset({"default", "math", "numeric", "mcq", "all_match"}),
    ),
    "save_on_each_node": Legacy("passed over: rank 0 writes checkpoints"),
    "save_safetensors": Legacy("checkpoints are safetensors", frozenset({"true", "1", "yes"})),
    "save_strategy": Legacy("--save_steps decides", frozenset({"steps"})),
    "sep_parallel_degree": Legacy(_ONE_DEVICE, _ONE),
    "sharding_parallel_config": Legacy("passed over: exchanges are arranged by --sharding alone"),
    "skip_memory_metrics": Legacy("passed over"),
    "skip_profile_timer": Legacy("passed over"),
    "sync_ref_model": Legacy("the reference model stays as it was at the start", _OFF),
    "test": Legacy("--sample_num takes fewer rows for a trial", _OFF),
    "tf32": Legacy("passed over: Paddle's own setting stays"),
    "trust_remote_code": Legacy("no code of a checkpoint is ever run", _OFF),
    "use_flash_attention": Legacy("--attn_implementation decides"),
    "use_liger_kernel": Legacy("passed over: log-probabilities are computed in blocks always", _OFF),
    "use_dora": Legacy("adapters are plain LoRA", _OFF),
    "use_rslora": Legacy("adapters are scaled by lora_alpha / lora_r", _OFF),
    "use_vllm": Legacy("completions come from the built-in engine", _OFF),
}
"""Name -> what happens."""
