# SPDX-License-Identifier: Apache-2.0
"""What a GRPO run holds from its first step to its last: model, data, optimizer, output folder, position."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..config import DataConfig, GrpoConfig, RolloutConfig, SftConfig
from ..config.stopping import StoppingConfig
from ..data.mixture import LoadReport, load_examples, num_shared
from ..data.mixture.loading import ReadRow
from ..data.stream import Stream
from ..distributed import mesh
from ..models.qwen_vl import QwenVL
from ..models.weights import resolve
from ..processing.ahead import Ahead
from ..processing.prompt import Processor
from ..processing.template import template_source
from ..records import Example, Prompt
from ..rewards import RewardFunction
from ..rewards.judge_reward import load_rewards
from ..rollout.engine import Engine
from ..runtime import DATA, MODEL, Stop
from ..tasks import asked_as
from ..tasks.templates import Templates, load_templates
from . import checkpoint, durable, reference
from .dropped import DroppedRows, LostExample, identity, restored
from .phases import PhaseWatch, SpreadWatch
from .policy_model import copied_policy, manifest_facts, open_policy, write_policy
from .scaling import LossScale
from .sharded import Optimizer, open_optimizer
from .stopping import Stopper
from .tracking import Tracker

log = logging.getLogger(__name__)

Load = Callable[[str, Any, Processor, Templates], tuple[list[Example], LoadReport]]


@dataclass
class Session:
    """A run in this process; every rank has its own."""

    config: GrpoConfig | SftConfig
    place: mesh.Mesh
    source: Path
    """Model folder the run started from."""
    processor: Processor
    templates: Templates
    examples: Sequence[Example]
    eval_examples: Sequence[Example]
    rewards: dict[str, RewardFunction]
    run: checkpoint.Run
    model: QwenVL
    reference: QwenVL | None
    engine: Engine
    optimizer: Optimizer
    scale: LossScale
    stream: Stream
    num_steps: int
    tracker: Tracker
    dropped: DroppedRows
    """Rows that went bad since the start."""
    step: int = 0
    """Optimizer steps taken."""
    num_tokens: int = 0
    """Tokens of all completions and prompts so far, all ranks."""
    skipped: list[int] = field(default_factory=list)
    """Steps left out because of non-finite numbers."""
    window: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the steps since the last logged line."""
    saved_at: float = field(default_factory=time.monotonic)
    """time.monotonic() seconds of the last save, or of the start."""
    failed_saves: int = 0
    """Saves in a row that the disk did not take."""
    stopper: Stopper = field(default_factory=lambda: Stopper(StoppingConfig()))
    lengths: dict[int, float] = field(default_factory=dict)
    """Example number -> mean tokens of its latest completions, any rank; kept where prompts may have to wait."""
    phases: PhaseWatch = field(default_factory=PhaseWatch)
    spread: SpreadWatch = field(default_factory=SpreadWatch)
    ahead: Ahead[Prompt] = field(init=False)
    """Prompts of examples by number, made while the model samples."""

    def __post_init__(self) -> None:
        make = self.dropped.tried(lambda number: self.encode(self.examples[number]))
        self.ahead = Ahead(make, num_workers(self.config.data))

    @property
    def ended(self) -> bool:
        """True when no step is left to take."""
        return self.step >= self.num_steps or self.stopper.reason is not None

    @property
    def visual_ids(self) -> set[int]:
        """Placeholder ids of pictures and videos."""
        return {self.model.arch.image_token_id, self.model.arch.video_token_id}

    @property
    def weights(self) -> np.ndarray:
        """[K] float64 weight of each reward."""
        given = self.config.reward.reward_weights
        return np.ones(len(self.rewards)) if given is None else np.array(given, np.float64)

    def encode(self, example: Example) -> Prompt:
        """Turn an example into what the model reads."""
        if isinstance(example, LostExample):
            raise Stop(example.message, DATA)
        try:
            return self.processor.encode(chat(example, self.processor, self.templates, self.config), example.images)
        except ValueError as error:
            raise Stop(f"{example.meta['where']}: {error}", DATA) from error

    def save(self, beside: bool = False) -> bool:
        """Write checkpoint-STEP; called on every rank.

        Args:
            beside: with async_save, let it be written while training goes on, until `settle`.  Adapters never are: they
                are small.

        Returns:
            Whether it is written.
        """
        beside = beside and self.config.training.async_save and not self.config.lora.use_peft
        copied = beside and self.place.rank == 0
        write = self._writer(copied_policy(self.model)) if copied else self._write_weights
        write = reference.added_to(write, self.reference, self.config, copied)
        state = {
            "stream": self.stream.state(),
            "scale": self.scale.state(),
            "num_tokens": self.num_tokens,
            "skipped": self.skipped,
            "window": self.window,
            "stopper": self.stopper.state(),
            "lengths": self.lengths,
            "dropped": self.dropped.state(),
        }
        optimizer = None if self.config.training.save_only_model else self.optimizer.write_state
        self.run.save(self.step, write, optimizer, state, self.source, beside)
        return not beside

    def settle(self) -> bool:
        """Wait for a save that goes on, if there is one, and say so; called on every rank, `Stop` when it failed."""
        return self.run.settle()

    def export(self) -> None:
        """Write the finished model: OUTPUT_DIR/final, and the same files in OUTPUT_DIR itself."""
        final = self.run.export(self.step, self._write_weights, self.source)
        if self.place.rank == 0:
            _expose(final, self.run.output_dir)

    def _write_weights(self, folder: Path) -> None:
        self._writer(lambda into: write_policy(self.model, self.config, into))(folder)

    def _writer(self, write: Callable[[Path], None]) -> Callable[[Path], None]:
        """Add what a model folder needs to what writes the weights."""

        def both(folder: Path) -> None:
            write(folder)
            template = self.processor.tokenizer.template.source
            if template != template_source(self.source):  # chosen, or supplied to a base model: others must ask alike
                (folder / "chat_template.jinja").write_text(template, encoding="utf-8")

        return both

    def close(self) -> None:
        """Stop the threads, close logs and give the folder back."""
        self.ahead.close()
        self.tracker.close()
        self.run.close()


def _expose(final: Path, output_dir: Path) -> None:
    """Make OUTPUT_DIR itself loadable as people expect, without a second copy where the file system has links."""
    for path in final.iterdir():
        target = output_dir / path.name
        if path.name == durable.MANIFEST:
            continue
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def open_session(config: GrpoConfig | SftConfig, load: Load | None = None) -> Session:
    """Load everything a run needs and, when its folder holds a checkpoint, continue from there.

    Args:
        load: gives the examples of a split ("train", "eval") and what became of its rows; None: GRPO's questions.
    """
    place = mesh.init()
    _check(config)
    source, processor = _open_model_folder(config)
    templates, rewards = _load_words(config)
    load = load or load_questions
    examples, report = load("train", config, processor, templates)
    examples = restored(examples, config)
    eval_examples, eval_report = load("eval", config, processor, templates)
    eval_examples = eval_examples[: config.training.eval_num]
    num_shared(examples, eval_examples)
    facts = {"num_examples": len(examples), "examples": fingerprint(examples)}
    run = checkpoint.open_run(config, facts, place.rank)
    if place.rank == 0:
        if config.training.save_only_model:
            log.warning("--save_only_model True: a run that is interrupted can only be restarted, not resumed")
        report.write_quarantine(run.output_dir / "quarantine.jsonl")
        eval_report.write_quarantine(run.output_dir / "quarantine_eval.jsonl")
    point = run.resume_point
    model = open_policy(source, config, point.path if point else None)
    run.facts |= manifest_facts(model, config)
    prompts_per_step = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    stream = Stream(len(examples), prompts_per_step, config.data.data_seed, place.rank, place.world)
    num_steps = count_steps(config, stream)
    session = Session(
        config=config,
        place=place,
        source=source,
        processor=processor,
        templates=templates,
        examples=examples,
        eval_examples=eval_examples,
        rewards=rewards,
        run=run,
        model=model,
        reference=reference.open_reference(source, config, model, point.path if point else None),
        engine=Engine(model, processor.tokenizer, config.rollout),
        optimizer=open_optimizer(model, config, place),
        scale=LossScale(active=model.dtype == "float16"),
        stream=stream,
        num_steps=num_steps,
        stopper=Stopper(config.stopping),
        dropped=DroppedRows(config.data, report, run.output_dir if place.rank == 0 else None),
        tracker=_open_tracker(config, num_steps, point.step if point else 0, place.rank),
    )
    if point:
        _restore(session, point)
    run.expect(_checkpoint_bytes(session))
    return session


def _checkpoint_bytes(session: Session) -> int:
    """Estimate the size of a checkpoint: the weights that are written, and the optimizer's arrays in float32."""
    written = session.optimizer.weights if session.config.lora.use_peft else dict(session.model.named_parameters())
    size = sum(weight.size * weight.element_size() for weight in written.values())
    if not session.config.training.save_only_model:
        size += 4 * sum(math.prod(shape) for shape in session.optimizer.state_dict_shapes().values())
    return size + reference.num_bytes(session.reference, session.config)


def num_workers(data: DataConfig) -> int:
    """Threads that prepare what comes next; on a CPU they would take its cores from the model."""
    if data.dataloader_num_workers is None:
        return 2 if paddle.device.get_device().startswith("gpu") else 0
    return data.dataloader_num_workers


def chat(example: Example, processor: Processor, templates: Templates, config: GrpoConfig) -> list[dict[str, Any]]:
    """Lay an example out as messages."""
    return asked_as(example).messages(
        example,
        templates=templates,
        system_prompt=config.data.system_prompt,
        view_units=processor.box_units,
        views=processor.views(example.images) if "boxes_px" in example.meta else (),
    )


def count_steps(config: GrpoConfig, stream: Stream) -> int:
    """Optimizer steps of the whole run."""
    return config.training.num_steps(stream.steps_per_epoch)


def fingerprint(examples: Sequence[Example]) -> str:
    """Hash what is asked and what counts as right, so that a run never continues on other data."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(identity(example).encode())
    return digest.hexdigest()


def _open_model_folder(config: GrpoConfig) -> tuple[Path, Processor]:
    try:
        source = resolve(config.model.model_name_or_path)
        data = config.data
        return source, Processor.from_pretrained(source, data.min_pixels, data.max_pixels, data.chat_template)
    except (ValueError, OSError) as error:
        raise Stop(str(error), MODEL) from error


def _load_words(config: GrpoConfig) -> tuple[Templates, dict[str, RewardFunction]]:
    """Read the prompts and find the rewards by name."""
    try:
        templates = load_templates(config.data.prompt_template)
        return templates, load_rewards(config)
    except ValueError as error:
        raise Stop(str(error)) from error


def load_questions(
    split: str, config: GrpoConfig | SftConfig, processor: Processor, templates: Templates
) -> tuple[list[Example], LoadReport]:
    """Load a split's examples and drop those whose prompt is too long, in the same way on every rank."""

    def length(example: Example) -> int:
        sizes = [processor.image_size(picture) for picture in example.images]
        return processor.prompt_length(chat(example, processor, templates, config), sizes)

    return load_within(split, config.data, length, ("max_prompt_length", config.data.max_prompt_length))


def load_within(
    split: str, data: DataConfig, length: Callable[[Example], int], limit: tuple[str, int], read_row: ReadRow = None
) -> tuple[list[Example], LoadReport]:
    """Load a split's examples and drop the ones that are too long.

    Args:
        length: counts an example's tokens, visual ones included; ValueError for a picture or text that cannot be used.
        limit: a setting's name and how many tokens it allows.
        read_row: as in data.mixture.load_examples.
    """
    lengths: list[int] = []
    try:
        found, report = load_examples(data, split, None, lambda example: lengths.append(length(example)), read_row)
    except ValueError as error:
        raise Stop(str(error), DATA) from error
    if report.datasets:
        log.info("%s", report.summary())
    name, most = limit
    kept = [example for example, tokens in zip(found, lengths, strict=True) if tokens <= most]
    if len(kept) < len(found):
        log.warning("%s: %d of %d prompts above %d tokens dropped", split, len(found) - len(kept), len(found), most)
    if found and not kept:
        raise Stop(f"every prompt of {data.dataset_name} is above {name} {most}", DATA)
    return kept, report


def _check(config: GrpoConfig) -> None:
    objective = config.objective
    if objective.loss_type == "cispo" and objective.epsilon_high is None:
        raise Stop("cispo caps the ratio at epsilon_high itself: set --epsilon_high, for example 5.0")


def _open_tracker(config: GrpoConfig, num_steps: int, first_step: int, rank: int) -> Tracker:
    training = config.training
    return Tracker(training.output_dir, training.report_to, training.logging_dir, num_steps, first_step, rank)


def _restore(session: Session, point: checkpoint.ResumePoint) -> None:
    """Take over a checkpoint's optimizer, data position, counters and generators."""
    if point.has_optimizer:
        try:
            session.optimizer.load_state_dict(point.optimizer_state(session.optimizer.state_dict_shapes()))
        except ValueError as error:
            raise Stop(f"{point.path}: {error}", MODEL) from error
    state = point.trainer
    session.stream.restore(state["stream"])
    session.scale.restore(state["scale"])
    session.step, session.num_tokens = point.step, int(state["num_tokens"])
    session.skipped, session.window = list(state["skipped"]), list(state["window"])
    session.lengths = {int(number): length for number, length in state.get("lengths", {}).items()}
    session.dropped.restore(state.get("dropped", {}))
    if "stopper" in state:
        session.stopper.restore(state["stopper"])
    point.restore_rng(session.place.rank)


def greedy_engine(session: Session) -> Engine:
    """Give an engine for evaluation: the same model, without the sampler's cuts and penalties."""
    rollout = RolloutConfig(
        max_completion_length=session.config.rollout.max_completion_length,
        rollout_batch_rows=session.config.rollout.rollout_batch_rows,
        rollout_cache_mb=session.config.rollout.rollout_cache_mb,
        cache_dtype=session.config.rollout.cache_dtype,
        prefill_tokens=session.config.rollout.prefill_tokens,
    )
    return Engine(session.model, session.processor.tokenizer, rollout)
