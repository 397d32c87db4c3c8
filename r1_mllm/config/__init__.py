# SPDX-License-Identifier: Apache-2.0
"""Settings of a run (settings.py) and the command lines and YAML files they come from (flags.py)."""

from .lora import LoraConfig
from .settings import (
    DataConfig,
    EvalConfig,
    GrpoConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
    flatten,
    save_args,
)
from .sft import SftConfig
from .sharding import ShardingConfig

__all__ = [
    "DataConfig",
    "EvalConfig",
    "GrpoConfig",
    "LoraConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "RewardConfig",
    "RolloutConfig",
    "SftConfig",
    "ShardingConfig",
    "TrainingConfig",
    "flatten",
    "save_args",
]
