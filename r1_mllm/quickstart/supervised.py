# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm quickstart sft`: supervised fine-tuning of a small model on rendered scenes, in minutes on a CPU.

Writes the conversations as `messages` JSONL first, so that the run is the one any other such file would get.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .. import config as settings
from ..config.sft import SftDataConfig, SftEvaluationConfig
from ..data.read import rows
from ..data.synthetic import write_splits
from ..models.weights import save_pretrained
from ..tasks import get_task
from ..tasks.templates import load_templates
from ..training import checkpoint, sft
from . import small_model
from .command import SupervisedConfig
from .run import SIDE, TOKENS_PER_PACK
from .warm_start import PROMPTS, Annotator, written_answer


def run(config: SupervisedConfig) -> Path:
    """Render data, write conversations, fine-tune a small model, measure loss and accuracy; give the run's folder."""
    folder = Path(config.output_dir or f"runs/quickstart-sft-{config.task}" + "-smoke" * config.smoke)
    if config.overwrite_output_dir and folder.exists():
        checkpoint.move_aside(folder)
    num_train, num_test = (48, 16) if config.smoke else (3000, 256)
    options = {"side": SIDE, "max_objects": 4 if config.task != "rec" else 1}
    if config.task == "geometry":
        options["figures"] = ("area",)
    if config.task == "spatial":
        options |= {"max_objects": 2, "relations": ("Relation", "Depth")}
    train, test = write_splits(config.task, num_train, folder / "data", num_test, seed=config.seed, **options)
    for path in (train, test):
        write_conversations(config.task, path)
    base = folder / "untrained"
    if not base.exists():
        num_objects = options.pop("max_objects")
        texts = list(Annotator(config.task, config.seed, **options).texts(400, num_objects))
        unfinished = folder / "untrained.unfinished"
        save_pretrained(small_model.build(unfinished, texts, config.seed), unfinished)
        unfinished.rename(base)
    sft.train(sft_config(config, folder, base, train, test))
    return folder


def conversations_file(rows_file: Path) -> Path:
    """Name the conversations of a file of rows."""
    return rows_file.with_name(f"{rows_file.stem}.messages.jsonl")


def write_conversations(task: str, rows_file: Path) -> None:
    """Write the rows of a data set as `messages` with their right answers."""
    with conversations_file(rows_file).open("w", encoding="utf-8") as file:
        for row in _conversations(task, rows_file):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _conversations(task: str, rows_file: Path) -> Iterator[dict]:
    templates = load_templates(PROMPTS)
    for row, where in rows(rows_file):
        example = get_task(task).example(row, where)
        asked = get_task(task).messages(example, templates=templates, view_units="seen_px")
        question = asked[-1]["content"][-1]["text"]
        answer = written_answer(task, row, example.answer)
        yield {
            "messages": [
                {"role": "user", "content": f"<image>{question}"},
                {"role": "assistant", "content": answer},
            ],
            "images": [row["image"]],
        }


def sft_config(config: SupervisedConfig, folder: Path, base: Path, train: Path, test: Path) -> settings.SftConfig:
    """The run of a quickstart."""
    return settings.SftConfig(
        model=settings.ModelConfig(model_name_or_path=str(base)),
        data=SftDataConfig(
            task=config.task,
            dataset_name=str(conversations_file(train)),
            eval_dataset_name=str(conversations_file(test)),
            accuracy_dataset_name=str(test),
            image_root=str(train.parent),
            data_seed=config.seed,
            prompt_template=str(PROMPTS),
        ),
        lora=settings.LoraConfig(use_peft=config.use_peft),
        optimizer=settings.OptimizerConfig(
            learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=20, adam_beta2=0.99
        ),
        training=settings.TrainingConfig(
            output_dir=str(folder),
            max_steps=3 if config.smoke else config.max_steps,
            per_device_train_batch_size=16,
            save_steps=200,
            save_total_limit=1,
            logging_steps=1 if config.smoke else 20,
            tokens_per_pack=TOKENS_PER_PACK,
            seed=config.seed,
        ),
        evaluation=SftEvaluationConfig(max_completion_length=40),
    )
