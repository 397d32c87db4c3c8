# SPDX-License-Identifier: Apache-2.0
"""Settings of a run: a frozen dataclass per component, a flag per field; defaults of 3B recipes (docs/scaling.md)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from .judge import JudgeConfig
from .lora import LoraConfig
from .reward import RewardConfig
from .sharding import ShardingConfig
from .stopping import StoppingConfig


@dataclass(frozen=True)
class ModelConfig:
    model_name_or_path: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Folder in published layout, or a hub id."""
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Dtype the weights are kept in; auto: bfloat16 on a GPU that has it, float32 on a CPU."""
    attn_implementation: Literal["auto", "flash_attention_2", "eager"] = "auto"
    """flash_attention_2 and auto: flash kernels on a GPU of compute capability 8.0 and newer in two-byte dtypes, plain
    operators elsewhere; eager: plain operators always."""
    freeze_vision: bool = False
    """Keep the vision tower and its merger as they are."""
    freeze_language: bool = False
    """Keep embedding, decoder and head as they are; only the vision tower and its merger learn."""
    recompute: bool = False
    """Recompute each block's activations in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True)
class DataConfig:
    task: str | None = None
    """rec, counting, geometry, math_boxed ...; None: read from each row's `task` field."""
    dataset_name: str = ""
    """A .yaml mixture, a .json/.jsonl/.parquet file, or a saved data-set folder."""
    eval_dataset_name: str | None = None
    """Held-out rows, as dataset_name; None: dataset_name's own test split where it has one, else no evaluation."""
    form: tuple[Literal["open", "judge", "choice"], ...] = ("open",)
    """What questions are turned into: open leaves them, judge asks whether an answer is right, choice lists options;
    of several forms each example gets one.  Rows that are a judge or a choice already stay so."""
    eval_form: tuple[Literal["open", "judge", "choice"], ...] | None = None
    """The same for the evaluation set; None: as form."""
    num_options: int = 4
    """Options of a question made a choice, 2 to 8."""
    dataset_train_split: str = "train"
    """Split of dataset_name to train on, where it has several."""
    dataset_test_split: str = "test"
    """Split to evaluate on, where eval_dataset_name or dataset_name has several."""
    image_root: str | None = None
    """Folder that the rows' picture paths start in; None: the one the data file lies in."""
    data_policy: Literal["strict", "quarantine"] = "strict"
    """What to do with missing images and bad rows: stop and list them, or set them aside and count them."""
    max_bad: str = "1%"
    """Most rows that data_policy quarantine may set aside: a share of the data set (P%) or a number."""
    allow_outside_image_root: bool = False
    """Take picture paths that lead out of image_root, by `..` or as absolute paths."""
    max_prompt_length: int = 1024
    """Tokens, visual ones included; longer prompts are dropped at load and counted."""
    min_pixels: int | None = None
    """Lower limit of a picture's area after resizing; None: the checkpoint's preprocessor_config."""
    max_pixels: int | None = None
    """Upper limit of a picture's area in pixels after resizing; None: the checkpoint's preprocessor_config."""
    prompt_template: str | None = None
    """YAML file that replaces the built-in prompts."""
    chat_template: str | None = None
    """None: the checkpoint's own, or generic when it has none.  generic (ChatML), dialogue (plain text), r1_zero (plain
    text that opens the thinking; for base models) or a .jinja file."""
    system_prompt: str | None = None
    """Text of the system turn; None: the row's own, else the chat template's."""
    data_seed: int = 42
    """The order of the rows, and every random draw from mixtures, follow from it."""
    dataloader_num_workers: int | None = None
    """Threads that make the next step's prompts while this one is sampled; None: 2 with a GPU, 0 on a CPU."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+|(\d{1,2}(\.\d+)?|100)%", self.max_bad):
            raise ValueError(f"max_bad {self.max_bad!r}: a share of the rows such as 1%, or a number of rows")


@dataclass(frozen=True)
class RolloutConfig:
    num_generations: int = 8
    """Completions per prompt (G), at least 2."""
    max_completion_length: int = 256
    """Tokens.  Longer completions are cut, marked `finished=False` and counted."""
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that make up this share of the probability; 1.0 switches it off."""
    top_k: int = 0
    """0 switches it off."""
    min_p: float = 0.0
    """Drop tokens less probable than this share of the likeliest one; 0 switches it off."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that the row holds already become less likely; 1.0 switches it off."""
    rollout_batch_rows: int = 256
    """Rows decoded together; waiting prompts join as rows finish."""
    rollout_cache_mb: int | None = None
    """Most memory for keys and values, MB of 2**20 bytes: prompts wait until theirs fit; None: no limit."""
    cache_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type keys and values are kept in; auto: the model's own."""
    prefill_tokens: int = 8192
    """Prompt tokens read in one pass; a longer prompt is read in pieces."""
    dynamic_sampling: bool = False
    """Sample further prompts in place of groups that teach nothing, until the step holds mixed groups only (DAPO)."""
    filter_metric: Literal["reward", "accuracy"] = "reward"
    """dynamic_sampling: a group is mixed when its rewards differ, or when some answers are right and some wrong."""
    max_num_gen_batches: int = 10
    """dynamic_sampling: sample at most so many times a step's prompts; what is missing then stays unmixed."""


@dataclass(frozen=True)
class ObjectiveConfig:
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    """What tokens are averaged over: grpo each completion first, bnpo a micro-batch, dapo and cispo the step; dr_grpo
    divides by the possible length.  cispo clips a token's weight instead of its objective."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Ratio of policy to sampler: of each token, or one per completion (GSPO)."""
    beta: float = 0.04
    """Weight of the KL term; 0 loads no reference model."""
    sync_ref_model: bool = False
    """Let the reference model follow the policy, every ref_model_sync_steps optimizer steps (arXiv:2404.09656)."""
    ref_model_mixup_alpha: float = 0.6
    """sync_ref_model: the reference becomes alpha times the policy plus (1 - alpha) times itself; above 0 to 1."""
    ref_model_sync_steps: int = 512
    """sync_ref_model: optimizer steps from one such mixture to the next."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """From the log ratio to the reference: k1 its negative, k2 half its square, k3 unbiased and never negative."""
    epsilon: float = 0.2
    """The ratio of policy to sampler is clipped below 1 - epsilon (and above 1 + epsilon_high)."""
    epsilon_high: float | None = None
    """None: the same as epsilon."""
    delta: float | None = None
    """Upper bound of the ratio on the unclipped side (two-sided clipping)."""
    dual_clip: float | None = None
    """Dual-clip PPO's c > 1: the objective of a token with negative advantage A is at least c * A; 3.0 is usual."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What differences from the group's mean are divided by: the deviation of the group, of the step, or nothing."""
    advantage_estimator: Literal["group", "leave_one_out"] = "group"
    """Subtract the mean of the whole group, or that of the other completions (RLOO)."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Add the rewards up and compare the sums, or compare each reward within its group and add that up."""
    mask_truncated_completions: bool = False
    """Leave completions that were cut at max_completion_length out of the loss."""


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 1e-6
    """AdamW's rate after the warm-up."""
    weight_decay: float = 0.0
    """AdamW's, of matrices only: norms' weights and biases are not decayed."""
    adam_beta1: float = 0.9
    """Decay of the gradients' running mean."""
    adam_beta2: float = 0.999
    """Decay of the squared gradients' running mean."""
    adam_epsilon: float = 1e-8
    """Added to the root of the latter before dividing by it."""
    max_grad_norm: float = 1.0
    """Larger gradients, all parameters together, are scaled down to this norm."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    """After the warm-up the rate stays, falls on a line, or falls along half a cosine until the last step."""
    warmup_ratio: float = 0.0
    """Share of all steps during which the rate rises to its full value."""
    warmup_steps: int = 0
    """Wins over warmup_ratio when not 0."""


@dataclass(frozen=True)
class TrainingConfig:
    output_dir: str = "work_dirs/grpo"
    """Everything the run writes; a run that is there already goes on."""
    overwrite_output_dir: bool = False
    """Move an existing run aside and start anew."""
    resume_from_checkpoint: str = "auto"
    """auto, never, or a checkpoint folder."""
    max_steps: int = -1
    """Optimizer steps; -1: num_train_epochs decides."""
    num_train_epochs: float = 1.0
    """Passes over the training rows, where max_steps does not decide."""
    per_device_train_batch_size: int = 2
    """Prompts per device and micro-step; each is expanded to num_generations completions on the same device."""
    gradient_accumulation_steps: int = 1
    """Micro-steps of an optimizer step: the prompts of all of them are sampled together."""
    num_iterations: int = 1
    """Passes over a rollout (mu in the GRPO paper); each is one optimizer step, unless mini_batch_size is given."""
    mini_batch_size: int | None = None
    """Prompts per device and optimizer step; None: all prompts of the rollout."""
    tokens_per_pack: int = 8192
    """Budget of one packed forward pass; a larger group is spread over several, its prompt repeated."""
    seed: int = 42
    """Sampling, adapters' first values and their dropout follow from it."""
    peak_tflops: float | None = None
    """1e12 operations/s a device can do at best, for perf/mfu; None: NVIDIA GPUs by their name, others log no MFU."""
    logging_steps: int = 1
    """A line of metrics every so many steps, averaged over them."""
    save_steps: int = 100
    """A checkpoint every so many steps, and at the end; 0: at the end only."""
    save_minutes: float | None = None
    """Also a checkpoint whenever so many minutes have passed since the last one."""
    save_total_limit: int | None = 2
    """The newest so many checkpoints stay; None: all."""
    save_only_model: bool = False
    """Checkpoints without optimizer state: a third of the space, and the run can only be restarted, not resumed."""
    async_save: bool = False
    """Write checkpoints beside training, from copies in memory of weights and optimizer state; the last is awaited."""
    eval_steps: int | None = None
    """Also evaluate every so many steps; before and after training it happens whenever there is an evaluation set."""
    eval_num: int | None = None
    """Use only the first so many evaluation rows; None: all."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is no finite number: end the run naming the samples, or leave the step out (3 in 100)."""
    stall_timeout: float = 600.0
    """Seconds without progress after which the stacks are written and the run ends (three times as many before the
    first step is done); 0: wait for ever."""
    report_to: tuple[str, ...] = ("visualdl",)
    """Where metrics go besides metrics.jsonl: visualdl, tensorboard, swanlab, wandb, or none."""
    log_completions: bool = True
    """Write every completion with its rewards to completions.jsonl."""
    logging_dir: str | None = None
    """Folder of the VisualDL log; None: output_dir/logs."""
    run_name: str | None = None
    """A name of your own, kept in run.json."""
    bf16: bool = False
    """Keep weights in bfloat16 on a GPU, where torch_dtype is auto."""
    fp16: bool = False
    """Loss scaling; for cards without bfloat16."""

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that are taken on what one round of sampling gave."""
        prompts = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return prompts // (self.mini_batch_size or prompts) * self.num_iterations

    def num_steps(self, rollouts_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.num_train_epochs * rollouts_per_epoch) * self.steps_per_rollout


@dataclass(frozen=True)
class GrpoConfig:
    """Everything `r1-mllm grpo` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def settled_reward(self) -> RewardConfig:
        """`reward` with its length_limit filled in."""
        limit = self.reward.length_limit or self.rollout.max_completion_length
        return dataclasses.replace(self.reward, length_limit=limit)


def _problems(config: GrpoConfig) -> Iterator[str]:
    """Say what cannot work, before anything is loaded."""
    rollout, rewards, objective, training = config.rollout, config.reward, config.objective, config.training
    if rollout.num_generations < 2:
        yield f"num_generations {rollout.num_generations}: an answer is compared with its group, so at least 2"
    if not rewards.reward_funcs:
        yield "reward_funcs: at least one reward is needed"
    if "judge" in rewards.reward_funcs and config.judge.judge_url is None:
        yield "reward_funcs judge: needs judge_url and judge_model"
    if rewards.reward_weights is not None and len(rewards.reward_weights) != len(rewards.reward_funcs):
        yield f"reward_weights: {len(rewards.reward_weights)} weights for {len(rewards.reward_funcs)} reward_funcs"
    if (config.data.dataloader_num_workers or 0) < 0:
        yield f"dataloader_num_workers {config.data.dataloader_num_workers}: threads, 0 for none"
    if not 2 <= config.data.num_options <= 8:
        yield f"num_options {config.data.num_options}: choose 2 to 8"
    if rollout.rollout_cache_mb is not None and rollout.rollout_cache_mb < 1:
        yield f"rollout_cache_mb {rollout.rollout_cache_mb}: must be at least 1"
    if config.stopping.max_generated_tokens is not None and config.stopping.max_generated_tokens < 1:
        yield f"max_generated_tokens {config.stopping.max_generated_tokens}: must be at least 1"
    if training.bf16 and training.fp16:
        yield "bf16 and fp16: choose one"
    if rollout.temperature <= 0:
        yield f"temperature {rollout.temperature}: equal answers teach nothing, it must be above 0 for training"
    for name, value in (("epsilon", objective.epsilon), ("learning_rate", config.optimizer.learning_rate)):
        if value < 0:
            yield f"{name} {value}: must not be negative"
    for name in _AT_LEAST_ONE:
        value = flatten(config)[name]
        if value < 1:
            yield f"{name} {value}: must be at least 1"
    yield from _sync_problems(config)
    if training.peak_tflops is not None and training.peak_tflops <= 0:
        yield f"peak_tflops {training.peak_tflops}: must be above 0"
    if objective.dual_clip is not None and objective.dual_clip <= 1:
        yield f"dual_clip {objective.dual_clip}: must be above 1 (3.0 is usual)"
    prompts = training.per_device_train_batch_size * training.gradient_accumulation_steps
    if training.mini_batch_size is not None and (training.mini_batch_size < 1 or prompts % training.mini_batch_size):
        yield f"mini_batch_size {training.mini_batch_size}: must divide the {prompts} prompts of a device's rollout"
    if training.max_steps < 1 and training.num_train_epochs <= 0:
        yield "max_steps and num_train_epochs: one of them must be above 0"


def _sync_problems(config: GrpoConfig) -> Iterator[str]:
    """Say why the reference model cannot follow the policy."""
    objective = config.objective
    if not objective.sync_ref_model:
        return
    if not objective.beta:
        yield "sync_ref_model: with beta 0 there is no reference model; set beta above 0 or leave sync_ref_model out"
    if config.lora.use_peft:
        yield (
            "sync_ref_model and use_peft: the reference is the model without adapters and has no weights that could "
            "move; train all weights, or leave sync_ref_model out"
        )
    if not 0 < objective.ref_model_mixup_alpha <= 1:
        yield f"ref_model_mixup_alpha {objective.ref_model_mixup_alpha}: must be above 0 and at most 1"


_AT_LEAST_ONE = (
    "max_prompt_length",
    "max_completion_length",
    "rollout_batch_rows",
    "prefill_tokens",
    "max_num_gen_batches",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_iterations",
    "tokens_per_pack",
    "logging_steps",
    "ref_model_sync_steps",
)


def flatten(config: Any) -> dict[str, Any]:
    """Return every field of a dataclass and its components under its flag's name; tuples become lists."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value))
        else:
            flat[entry.name] = list(value) if isinstance(value, tuple) else value
    return flat


def save_args(config: Any, path: Path) -> None:
    """Write the resolved settings as YAML that `--config` reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(flatten(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
