# SPDX-License-Identifier: Apache-2.0
"""Settings of supervised fine-tuning: the components it shares with GRPO and the few of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .lora import LoraConfig
from .reward import RewardConfig
from .settings import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RolloutConfig,
    TrainingConfig,
    flatten,
)
from .sharding import ShardingConfig
from .stopping import StoppingConfig


@dataclass(frozen=True)
class SftDataConfig(DataConfig):
    max_length: int = 4096
    """Tokens of a whole conversation, visual ones included; longer ones are left out at load and counted."""
    accuracy_dataset_name: str | None = None
    """Rows with gold answers (as for GRPO, see --task), answered greedily and graded before and after training;
    eval_dataset_name holds conversations, whose loss is measured."""


@dataclass(frozen=True)
class SftEvaluationConfig:
    max_completion_length: int = 256
    """Tokens an answer to accuracy_dataset_name may have."""
    rollout_batch_rows: int = 256
    """Answers decoded together."""


@dataclass(frozen=True)
class SftConfig:
    """Everything `r1-mllm sft` can be told."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: SftDataConfig = field(default_factory=SftDataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=2e-5))
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(output_dir="work_dirs/sft"))
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    evaluation: SftEvaluationConfig = field(default_factory=SftEvaluationConfig)

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def rollout(self) -> RolloutConfig:
        """How accuracy_dataset_name is answered."""
        asked = self.evaluation
        return RolloutConfig(
            max_completion_length=asked.max_completion_length, rollout_batch_rows=asked.rollout_batch_rows
        )

    @property
    def stopping(self) -> StoppingConfig:
        """There is no reward whose plateau could end the run."""
        return StoppingConfig()

    @property
    def objective(self) -> ObjectiveConfig:
        """No reference model is kept."""
        return ObjectiveConfig(beta=0.0)

    @property
    def reward(self) -> RewardConfig:
        """Nothing is rewarded; how answers are graded."""
        return RewardConfig(reward_funcs=())

    @property
    def settled_reward(self) -> RewardConfig:
        """As `reward`."""
        return self.reward


def _problems(config: SftConfig) -> Iterator[str]:
    """Say what cannot work, before anything is loaded."""
    training = config.training
    if training.bf16 and training.fp16:
        yield "bf16 and fp16: choose one"
    if training.num_iterations != 1:
        yield f"num_iterations {training.num_iterations}: supervised steps are taken once per batch"
    if training.mini_batch_size is not None:
        yield f"mini_batch_size {training.mini_batch_size}: a batch is one supervised step"
    if config.data.form != ("open",):
        yield f"form {' '.join(config.data.form)}: conversations are learnt as they are"
    if config.optimizer.learning_rate < 0:
        yield f"learning_rate {config.optimizer.learning_rate}: must not be negative"
    flat = flatten(config)
    for name in _AT_LEAST_ONE:
        if flat[name] < 1:
            yield f"{name} {flat[name]}: must be at least 1"
    if training.max_steps < 1 and training.num_train_epochs <= 0:
        yield "max_steps and num_train_epochs: one of them must be above 0"


_AT_LEAST_ONE = (
    "max_length",
    "max_completion_length",
    "rollout_batch_rows",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "tokens_per_pack",
    "logging_steps",
)
