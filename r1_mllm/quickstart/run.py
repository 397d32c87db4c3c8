# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm quickstart`: data, a small model, a warm start, GRPO, evaluation and a report, in minutes on a CPU."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .. import config as settings
from ..data.synthetic import write_splits
from ..models.weights import save_pretrained
from ..processing.prompt import Processor
from ..report.page import write_report
from ..training import checkpoint, grpo, sft
from ..training.optimizer import AdamW
from . import small_model
from .command import QuickstartConfig
from .dapo import dapo
from .warm_start import PROMPTS, SCENES, Annotator, batches

SIDE = 84
BATCH = 16
TOKENS_PER_PACK = 16384


@dataclass(frozen=True)
class Stage:
    """Part of the supervised warm start."""

    steps: int
    max_objects: int
    careful: bool
    """Right answers; otherwise those of the weak annotator."""


@dataclass(frozen=True)
class Recipe:
    """How long and on what; chosen by the trials recorded in docs/log.md."""

    stages: tuple[Stage, ...]
    grpo_steps: int
    max_objects: int
    """Of the scenes GRPO trains on and of the held-out ones."""
    figures: tuple[str, ...] = ("area",)
    """Kinds of figure in geometry scenes."""
    relations: tuple[str, ...] = ("Relation", "Depth")
    """Kinds of question about spatial scenes."""
    warm_learning_rate: float = 1e-3
    learning_rate: float = 2e-4
    prompts_per_step: int = 12
    num_generations: int = 8
    max_completion_length: int = 40
    beta: float = 0.0
    num_train: int = 3000
    num_test: int = 512


RECIPES = {
    "rec": Recipe((Stage(800, 1, True), Stage(300, 2, False)), 280, 2),
    "counting": Recipe((Stage(700, 4, True), Stage(250, 4, False)), 200, 4, max_completion_length=20),
    "geometry": Recipe(
        (Stage(700, 4, True), Stage(250, 4, False)), 200, 4, figures=("area", "perimeter"), max_completion_length=20
    ),
    "math_boxed": Recipe(
        (Stage(700, 4, True), Stage(250, 4, False)), 120, 4, figures=("area", "perimeter"), max_completion_length=20
    ),
    "spatial": Recipe((Stage(700, 1, True), Stage(400, 2, True), Stage(150, 2, False)), 200, 2),
}
SMOKE = Recipe(
    (Stage(4, 2, True), Stage(2, 2, False)), 4, 2, prompts_per_step=4, num_generations=4, num_train=64, num_test=32
)


def run(config: QuickstartConfig) -> Path:
    """Render data, warm a small model up, train it with GRPO, evaluate, and write the report.

    Returns:
        The report's path.
    """
    name = "quickstart" + f"-{config.task}" * (config.task != "rec") + "-smoke" * config.smoke
    folder = Path(config.output_dir or Path("runs") / name)
    recipe = SMOKE if config.smoke else RECIPES[config.task]
    clock = Clock()
    if config.overwrite_output_dir and folder.exists():
        checkpoint.move_aside(folder)
    train, test = write_splits(
        SCENES.get(config.task, config.task),
        recipe.num_train,
        folder / "data",
        recipe.num_test,
        seed=config.seed,
        side=SIDE,
        max_objects=recipe.max_objects,
        figures=recipe.figures,
        relations=recipe.relations,
    )
    clock.tell(f"rendered {recipe.num_train} training and {recipe.num_test} held-out scenes in {folder / 'data'}")
    warm = folder / "warm_start"
    if not warm.exists():
        unfinished = folder / "warm_start.unfinished"
        warm_up(config, recipe, unfinished, clock)
        unfinished.rename(warm)
    made = grpo_config(config, recipe, folder, train, test)
    grpo.train(dapo(made) if config.task == "math_boxed" else made)
    clock.tell("GRPO and the evaluations before and after are done")
    report = folder / "report.html"
    if not report.is_file():  # training wrote it at its end, unless that failed
        write_report(folder)
    clock.tell(f"report: {report}")
    print(next_steps(folder, test), flush=True)
    return report


def next_steps(folder: Path, test: Path) -> str:
    """Commands that go on from here, as they work in this shell."""
    found = shutil.which("r1-mllm")
    ours = found is not None and Path(found).parent == Path(sys.executable).parent
    program = "r1-mllm" if ours else f"{shlex.quote(_short(Path(sys.executable)))} -m r1_mllm"
    row = json.loads(test.read_text(encoding="utf-8"))[0]
    names = {"model": folder / "final", "picture": test.parent / row["image"], "args": folder / "args.yaml"}
    model, picture, args = (shlex.quote(str(path)) for path in names.values())
    question = shlex.quote(row.get("problem") or row["question"])
    return "\n".join(
        [
            "Ask it:            " + f"{program} chat --model_path {model} --image {picture} {question}",
            "Serve it:          " + f"{program} serve --model_path {model} --web",
            "Train it further:  " + f"{program} grpo --config {args} --model_name_or_path {model} "
            "--dataset_name YOURS.jsonl --image_root FOLDER --eval_dataset_name HELD_OUT.jsonl --output_dir runs/mine",
            f"It has seen pictures of {SIDE} x {SIDE} px with such shapes only; for others take a published model.",
        ]
    )


def _short(path: Path) -> str:
    """The path from here where it lies below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


class Clock:
    """Prints what was done with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def tell(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.start:5.0f} s] {text}", flush=True)


def warm_up(config: QuickstartConfig, recipe: Recipe, folder: Path, clock: Clock) -> None:
    """Build the small model and imitate the weak annotator; leaves a published folder."""
    annotator = Annotator(config.task, config.seed, side=SIDE, figures=recipe.figures, relations=recipe.relations)
    model = small_model.build(folder, list(annotator.texts(400, recipe.max_objects)), config.seed)
    processor = Processor.from_pretrained(folder)
    num_steps = sum(stage.steps for stage in recipe.stages)
    optimizer = AdamW(
        model.named_parameters(),
        settings.OptimizerConfig(
            learning_rate=recipe.warm_learning_rate, lr_scheduler_type="constant", warmup_steps=20, adam_beta2=0.99
        ),
    )
    clock.tell(f"built a Qwen2.5-VL of {sum(weight.size for weight in model.parameters()) / 1e6:.1f} M parameters")

    def on_step(taken: int, loss: float, rate: float) -> None:
        if taken % 100 == 0 or taken == num_steps:
            clock.tell(f"warm start: supervised step {taken} of {num_steps}, loss {loss:.3f}")

    def drawn():
        for stage in recipe.stages:
            source = batches(annotator, processor, BATCH, stage.max_objects, stage.careful)
            yield from itertools.islice(source, stage.steps)

    sft.supervised_steps(model, drawn(), optimizer, num_steps, tokens_per_pack=TOKENS_PER_PACK, on_step=on_step)
    save_pretrained(model, folder)


def grpo_config(config: QuickstartConfig, recipe: Recipe, folder: Path, train: Path, test: Path) -> settings.GrpoConfig:
    """The GRPO run of a quickstart."""
    return settings.GrpoConfig(
        model=settings.ModelConfig(model_name_or_path=str(folder / "warm_start")),
        data=settings.DataConfig(
            task=config.task,
            dataset_name=str(train),
            eval_dataset_name=str(test),
            image_root=str(train.parent),
            data_seed=config.seed,
            prompt_template=str(PROMPTS),
        ),
        rollout=settings.RolloutConfig(
            num_generations=recipe.num_generations, max_completion_length=recipe.max_completion_length
        ),
        objective=settings.ObjectiveConfig(beta=recipe.beta),
        reward=settings.RewardConfig(),
        optimizer=settings.OptimizerConfig(
            learning_rate=recipe.learning_rate, lr_scheduler_type="constant", warmup_steps=10, adam_beta2=0.99
        ),
        training=settings.TrainingConfig(
            output_dir=str(folder),
            max_steps=recipe.grpo_steps,
            per_device_train_batch_size=recipe.prompts_per_step,
            save_steps=100,
            save_total_limit=1,
            logging_steps=5,
            tokens_per_pack=TOKENS_PER_PACK,
            seed=config.seed,
        ),
    )
