# SPDX-License-Identifier: Apache-2.0
"""Settings of a run: one frozen dataclass per component; every field is a flag under the name the field types.

Defaults train a 3B model on one 80 GB card.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    model_name_or_path: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Folder in published layout, or a hub id."""
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Dtype the weights are kept in; auto: bfloat16 on a GPU that has it, float32 on a CPU."""
    attn_implementation: Literal["auto", "flash_attention_2", "eager"] = "auto"
    freeze_vision: bool = False
    """Keep the vision tower and its merger as they are."""
    recompute: bool = False
    """Recompute each block's activations in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class DataConfig:
    task: str | None = None
    """rec, counting, geometry, math_boxed ...; None: read from each row's `task` field."""
    dataset_name: str = ""
    """A .yaml mixture, a .json/.jsonl/.parquet file, or a saved data-set folder."""
    eval_dataset_name: str | None = None
    dataset_train_split: str = "train"
    dataset_test_split: str = "test"
    image_root: str | None = None
    data_policy: Literal["strict", "quarantine"] = "strict"
    """What to do with missing images and bad rows: stop and list them, or set them aside and count them."""
    allow_outside_image_root: bool = False
    max_prompt_length: int = 1024
    """Tokens, visual ones included; longer prompts are dropped at load and counted."""
    min_pixels: int | None = None
    """Lower limit of a picture's area after resizing; None: the checkpoint's preprocessor_config."""
    max_pixels: int | None = None
    prompt_template: str | None = None
    """YAML file that replaces the built-in prompts."""
    system_prompt: str | None = None
    data_seed: int = 42
    dataloader_num_workers: int = 0


@dataclass(frozen=True)
class RolloutConfig:
    num_generations: int = 8
    """Completions per prompt (G), at least 2."""
    max_completion_length: int = 256
    """Tokens.  Longer completions are cut, marked `finished=False` and counted."""
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 switches it off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    rollout_batch_rows: int = 256
    """Rows decoded together; waiting prompts join as rows finish."""


@dataclass(frozen=True)
class ObjectiveConfig:
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    beta: float = 0.04
    """Weight of the KL term; 0 loads no reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    """None: the same as epsilon."""
    delta: float | None = None
    """Upper bound of the ratio on the unclipped side (two-sided clipping)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    advantage_estimator: Literal["group", "leave_one_out"] = "group"
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    mask_truncated_completions: bool = False


@dataclass(frozen=True)
class RewardConfig:
    reward_funcs: tuple[str, ...] = ("accuracy", "format")
    """Names of rewards.py or path.py:function."""
    reward_weights: tuple[float, ...] | None = None
    """One per reward; None: all 1."""
    soft_iou: bool = True
    """rec: pay the IoU itself; False: 1 above iou_threshold, else 0."""
    iou_threshold: float = 0.5
    verify_timeout: float = 2.0
    """Seconds one math comparison may take."""


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 1e-6
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    """Wins over warmup_ratio when not 0."""


@dataclass(frozen=True)
class TrainingConfig:
    output_dir: str = "work_dirs/grpo"
    overwrite_output_dir: bool = False
    """Move an existing run aside and start anew."""
    resume_from_checkpoint: str = "auto"
    """auto, never, or a checkpoint folder."""
    max_steps: int = -1
    """Optimizer steps; -1: num_train_epochs decides."""
    num_train_epochs: float = 1.0
    per_device_train_batch_size: int = 2
    """Prompts per device and micro-step; each is expanded to num_generations completions on the same device."""
    gradient_accumulation_steps: int = 1
    num_iterations: int = 1
    """Optimizer steps per rollout (mu in the GRPO paper)."""
    tokens_per_pack: int = 8192
    """Budget of one packed forward pass; a group never splits, so one larger than this gets a pack of its own."""
    seed: int = 42
    logging_steps: int = 1
    save_steps: int = 100
    save_total_limit: int | None = 2
    eval_steps: int | None = None
    """Also evaluate every so many steps; before and after training it happens whenever there is an evaluation set."""
    eval_num: int | None = None
    """Use only the first so many evaluation rows; None: all."""
    nonfinite: Literal["stop", "skip"] = "stop"
    report_to: tuple[str, ...] = ("visualdl",)
    log_completions: bool = True
    bf16: bool = False
    fp16: bool = False
    """Loss scaling; for cards without bfloat16."""


@dataclass(frozen=True)
class GrpoConfig:
    """Everything `r1-mllm grpo` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
