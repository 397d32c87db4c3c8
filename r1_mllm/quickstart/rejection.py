# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm quickstart reject`: rejection fine-tuning of a small model on rendered scenes, in minutes on a CPU.

The model learns from a careless annotator first, as in `r1-mllm quickstart`; then it answers the training questions
several times, its good answers become conversations, and it is fine-tuned on those.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .. import config as settings
from ..config.sft import SftDataConfig, SftEvaluationConfig
from ..data.synthetic import write_splits
from ..rejection import command as rejection
from ..training import checkpoint, sft
from .command import QuickstartConfig, RejectionConfig
from .run import RECIPES, SIDE, TOKENS_PER_PACK, Clock, Recipe, Stage, warm_up
from .warm_start import PROMPTS


def run(config: RejectionConfig) -> Path:
    """Warm a small model up, keep its good answers, fine-tune on them; give the fine-tuning's folder."""
    folder = Path(config.output_dir or f"runs/quickstart-reject-{config.task}" + "-smoke" * config.smoke)
    if config.overwrite_output_dir and folder.exists():
        checkpoint.move_aside(folder)
    recipe = _recipe(config)
    clock = Clock()
    options = {"side": SIDE, "max_objects": recipe.max_objects, "figures": recipe.figures}
    train, test = write_splits(
        config.task, recipe.num_train, folder / "data", recipe.num_test, seed=config.seed, **options
    )
    warm = folder / "warm_start"
    if not warm.exists():
        unfinished = folder / "warm_start.unfinished"
        warm_up(QuickstartConfig(config.task, seed=config.seed), recipe, unfinished, clock)
        unfinished.rename(warm)
    messages = rejection.run(reject_config(config, recipe, folder, train))
    clock.tell("good answers are chosen")
    sft.train(sft_config(config, folder, messages, train, test))
    clock.tell(f"fine-tuned on them; accuracies: {folder / 'sft' / 'eval_before.json'} and eval_after.json")
    return folder / "sft"


def _recipe(config: RejectionConfig) -> Recipe:
    recipe = RECIPES[config.task]
    if config.smoke:  # with one figure the number is always 1, which a few steps teach
        return replace(recipe, stages=(Stage(40, 1, True),), max_objects=1, num_train=12, num_test=8)
    return replace(recipe, num_train=768, num_test=512)


def reject_config(config: RejectionConfig, recipe: Recipe, folder: Path, train: Path) -> rejection.RejectConfig:
    """How answers are sampled and chosen."""
    return rejection.RejectConfig(
        reject=rejection.RejectSettings(
            output_dir=str(folder / "reject"), seed=config.seed, threshold=50.0 if config.smoke else 85.0
        ),
        model=settings.ModelConfig(model_name_or_path=str(folder / "warm_start")),
        data=settings.DataConfig(
            task=config.task, dataset_name=str(train), data_seed=config.seed, prompt_template=str(PROMPTS)
        ),
        rollout=settings.RolloutConfig(num_generations=8, max_completion_length=recipe.max_completion_length),
    )


def sft_config(config: RejectionConfig, folder: Path, messages: Path, train: Path, test: Path) -> settings.SftConfig:
    """The fine-tuning on what was kept."""
    return settings.SftConfig(
        model=settings.ModelConfig(model_name_or_path=str(folder / "warm_start")),
        data=SftDataConfig(
            task=config.task,
            dataset_name=str(messages),
            accuracy_dataset_name=str(test),
            data_seed=config.seed,
            prompt_template=str(PROMPTS),
        ),
        optimizer=settings.OptimizerConfig(learning_rate=2e-4, lr_scheduler_type="cosine", warmup_steps=10),
        training=settings.TrainingConfig(
            output_dir=str(folder / "sft"),
            num_train_epochs=3.0,
            per_device_train_batch_size=16,
            save_total_limit=1,
            logging_steps=10,
            tokens_per_pack=TOKENS_PER_PACK,
            seed=config.seed,
        ),
        evaluation=SftEvaluationConfig(max_completion_length=40),
    )
