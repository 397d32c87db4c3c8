# SPDX-License-Identifier: Apache-2.0
"""Settings of a run (settings.py) and the command lines and YAML files they come from (flags.py)."""

from .evaluation import EvalConfig
from .lora import LoraConfig
from .reward import RewardConfig
from .settings import (
    DataConfig,
    GrpoConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
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
