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
from .sharding import ShardingConfig
from .stopping import StoppingConfig


@dataclass(frozen=True)
class ModelConfig:
    model_name_or_path: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Folder in published layout, or a hub id."""
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Dtype the weights are kept in; auto: bfloat16 on a GPU that has it, float32 on a CPU."""
    attn_implementation: Literal["auto", "flash_attention_2", "eager"] = "auto"
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
    dataset_test_split: str = "test"
    image_root: str | None = None
    """Folder that the rows' picture paths start in; None: the one the data file lies in."""
    data_policy: Literal["strict", "quarantine"] = "strict"
    """What to do with missing images and bad rows: stop and list them, or set them aside and count them."""
    max_bad: str = "1%"
    """Most rows that data_policy quarantine may set aside: a share of the data set (P%) or a number."""
    allow_outside_image_root: bool = False
    max_prompt_length: int = 1024
    """Tokens, visual ones included; longer prompts are dropped at load and counted."""
    min_pixels: int | None = None
    """Lower limit of a picture's area after resizing; None: the checkpoint's preprocessor_config."""
    max_pixels: int | None = None
    prompt_template: str | None = None
    """YAML file that replaces the built-in prompts."""
    chat_template: str | None = None
    """None: the checkpoint's own, or generic when it has none.  generic (ChatML), dialogue (plain text), r1_zero (plain
    text that opens the thinking; for base models) or a .jinja file."""
    system_prompt: str | None = None
    data_seed: int = 42
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
    top_k: int = 0
    """0 switches it off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
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
    importance_sampling_level: Literal["token", "sequence"] = "token"
    beta: float = 0.04
    """Weight of the KL term; 0 loads no reference model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    """None: the same as epsilon."""
    delta: float | None = None
    """Upper bound of the ratio on the unclipped side (two-sided clipping)."""
    dual_clip: float | None = None
    """Dual-clip PPO's c > 1: the objective of a token with negative advantage A is at least c * A; 3.0 is usual."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    advantage_estimator: Literal["group", "leave_one_out"] = "group"
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    mask_truncated_completions: bool = False


@dataclass(frozen=True)
class RewardConfig:
    reward_funcs: tuple[str, ...] = ("accuracy", "format")
    """Names of rewards/__init__.py, judge (a chat model, see judge_url) or path.py:function (reward_files.py there)."""
    reward_weights: tuple[float, ...] | None = None
    """One per reward; None: all 1."""
    soft_iou: bool = True
    """rec: pay the IoU itself; False: 1 above iou_threshold, else 0."""
    iou_threshold: float = 0.5
    detection_reward: Literal["map", "ap50", "map_length", "weighted_sum"] | None = None
    """open_detection: COCO mAP or AP50 of the answer, mAP times right/written boxes (at most 1), or overlap and
    completeness; None: what the row's accu_reward_method says, else map_length."""
    jaccard: bool = False
    """choice with several right letters: pay the share of common letters; False: only for exactly the right ones."""
    verify_timeout: float = 2.0
    """Seconds one math comparison may take."""
    boxed_required: bool = True
    """math_boxed and its scorers: only a box is an answer; False also takes answer tags, or the last line."""
    format_weight: float = 0.1
    """geo3k: share of the score that the form earns, the rest is for the answer."""
    length_limit: int | None = None
    """Tokens at which the rewards `length` and `overlong` reach their end; None: max_completion_length."""
    overlong_buffer: int = 64
    """Tokens before length_limit over which `overlong` falls from 0 to -1."""
    token_bonus: float = 0.001
    """Paid by the reward `token_bonus` for each token of a finished completion, up to 0.5 in all."""
    reward_isolation: Literal["process", "none"] = "process"
    """Where functions from path.py:function run: in a process that can be killed, or in this one, which also gives them
    the prompt's arrays."""
    reward_timeout: float = 10.0
    """Seconds such a function may take for one group; its first call may take 120."""
    reward_memory_mb: int = 2048
    """Address space of its process, MB; 0: no limit."""
    reward_error: Literal["abstain", "zero"] = "abstain"
    """What a completion earns from such a function when it raises, hangs or dies: nothing either way, or 0."""
    repetition_ngram: int = 4
    """Words of the runs whose repetition the reward `repetition` counts."""


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
    """Everything the run writes; a run that is there already goes on."""
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
    """Passes over a rollout (mu in the GRPO paper); each is one optimizer step, unless mini_batch_size is given."""
    mini_batch_size: int | None = None
    """Prompts per device and optimizer step; None: all prompts of the rollout."""
    tokens_per_pack: int = 8192
    """Budget of one packed forward pass; a larger group is spread over several, its prompt repeated."""
    seed: int = 42
    logging_steps: int = 1
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
    stall_timeout: float = 600.0
    """Seconds without progress after which the stacks are written and the run ends (three times as many before the
    first step is done); 0: wait for ever."""
    report_to: tuple[str, ...] = ("visualdl",)
    log_completions: bool = True
    logging_dir: str | None = None
    """Folder of the VisualDL log; None: output_dir/logs."""
    run_name: str | None = None
    """A name of your own, kept in run.json."""
    bf16: bool = False
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


@dataclass(frozen=True)
class EvalConfig:
    """Everything `r1-mllm eval`, eval/test_rec.py and eval/test_r1-v.py can be told."""

    model_path: str | None = None
    """Checkpoint folder or hub id; weights, tokenizer and picture limits all come from here."""
    checkpoints: str | None = None
    """A run's folder: each of its checkpoints is evaluated, and model_path, if it is given too, as step 0."""
    model_name: str | None = None
    """Label in the name of the results file; None: the last part of model_path."""
    data_root: str = "."
    """Folder of the data sets."""
    image_root: str | None = None
    """Folder the rows' picture paths start from, or one per data set, `:` between them; None: the set's own folder."""
    allow_outside_image_root: bool = False
    test_datasets: tuple[str, ...] = ("refgta_subsample",)
    """Names under data_root without their suffix (.json, .jsonl, .parquet), or paths of files."""
    ood_datasets: tuple[str, ...] = ()
    """Further sets, told apart as out-of-domain."""
    eval_sets: str | None = None
    """YAML file of in-domain and out-of-domain sets (evaluation/choosing.py); takes the place of test_datasets."""
    num_processes: int = 1
    """Processes that share the rows, each with a model of its own."""
    task_list: tuple[str, ...] = ()
    """detection, classify, math: their held-out sets take the place of test_datasets."""
    domain: Literal["in", "out", "both"] = "both"
    """task_list: sets from the domain trained on, from another one, or both."""
    resized_images: bool = False
    """RefGTA: read the pictures of `final_resize` instead of `final`, with the box that belongs to them."""
    task: str | None = None
    """None: rec for rows with a box, counting for whole-number answers, geometry for other ones."""
    results_name: str | None = None
    """First part of the results file's name; None: TASK_results."""
    logs_dir: str = "logs"
    batch_size: int = 32
    sample_num: int = 500
    """Rows to take, drawn with `seed` when the data set has more; 0 takes all."""
    steps: int = 100
    """Label in the name of the results file."""
    method: Literal["r1", "baseline"] = "r1"
    """r1 asks for thinking and an answer in tags; baseline asks a model that was not trained for that."""
    seed: int = 42
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 on a GPU; float16 for cards without bfloat16 (V100).  A CPU always computes in float32."""
    attn_implementation: Literal["auto", "flash_attention_2", "eager"] = "auto"
    max_new_tokens: int = 256
    min_pixels: int | None = None
    max_pixels: int | None = None
    iou_threshold: float = 0.5
    prompt_template: str | None = None
    """YAML file that replaces the built-in prompts."""
    chat_template: str | None = None
    """None: the checkpoint's own; else generic, dialogue, r1_zero or a .jinja file, as in training."""
    system_prompt: str | None = None
    overwrite: bool = False
    """Answer every row again even if a results file of the same arguments is there."""


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
    if objective.dual_clip is not None and objective.dual_clip <= 1:
        yield f"dual_clip {objective.dual_clip}: must be above 1 (3.0 is usual)"
    prompts = training.per_device_train_batch_size * training.gradient_accumulation_steps
    if training.mini_batch_size is not None and (training.mini_batch_size < 1 or prompts % training.mini_batch_size):
        yield f"mini_batch_size {training.mini_batch_size}: must divide the {prompts} prompts of a device's rollout"
    if training.max_steps < 1 and training.num_train_epochs <= 0:
        yield "max_steps and num_train_epochs: one of them must be above 0"


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
