# SPDX-License-Identifier: Apache-2.0
"""A run's folder: who may write it, where it continues, and checkpoints that are whole or absent.

    OUTPUT_DIR/args.yaml            the resolved settings; `--config` reads them back
    OUTPUT_DIR/run.json             the same and facts about the data; decides whether the same run continues
    OUTPUT_DIR/metrics.jsonl        cut back to the resumed step
    OUTPUT_DIR/checkpoint-N/        weights, config and tokenizer in published layout (transformers loads it as it is)
        state/optimizer.safetensors     under structured names
        state/trainer.json  state/rng-rankNNN.json
        state/reference/                with --sync_ref_model: the reference model, in published layout
        MANIFEST.json                   sizes and hashes, written last

With several ranks, rank 0 decides and writes; every method here must be called by all of them.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError

from ..config import flatten, save_args
from ..config.commands import record_command
from ..distributed import collectives
from ..runtime import DISK, MODEL, OUTPUT, USAGE, VERSION, Stop
from . import durable, rng, state_file, status
from .beside import Scratch, Writer
from .companions import copy_companions
from .folder import move_aside, take_lock

WriteWeights = Callable[[Path], None]

FREE_KEYS = frozenset(
    "output_dir overwrite_output_dir max_bad resume_from_checkpoint logging_dir run_name logging_steps save_steps "
    "async_save save_minutes save_total_limit eval_steps eval_num report_to log_completions stall_timeout "
    "peak_tflops reward_timeout dataloader_num_workers sharding sharding_parallel_degree tensor_parallel_degree".split()
)
"""Settings that may change between the parts of one run: they do not touch what is learnt."""

_STEP = re.compile(r"checkpoint-(\d+)$")


@dataclass(frozen=True)
class ResumePoint:
    """A verified checkpoint to continue from; tensors are read when asked for."""

    path: Path
    step: int
    trainer: Mapping[str, Any]
    """What `Run.save` was given as trainer_state."""
    world: int = 1
    """Processes that saved it."""

    def optimizer_state(self, expected: Collection[str] | None = None) -> state_file.StateFile:
        """Open the optimizer's arrays under the names they were saved with (shapes and dtypes as saved).

        Args:
            expected: the names the optimizer has now; any difference is an error that lists it.
        """
        path = self.path / "state" / "optimizer.safetensors"
        state = state_file.StateFile(path)
        names = set(state)
        if expected is not None and names != set(expected):
            missing, surplus = sorted(set(expected) - names), sorted(names - set(expected))
            raise Stop(f"{path}: optimizer state does not fit; missing {missing}, surplus {surplus}", MODEL)
        return state

    @property
    def has_optimizer(self) -> bool:
        """False for checkpoints of --save_only_model; only a run that has ended is opened with one."""
        return _optimizer_path(self.path).is_file()

    def restore_rng(self, rank: int = 0) -> None:
        """Set Python's, NumPy's and Paddle's generators as they were; a rank that did not exist then keeps its own."""
        path = self.path / "state" / f"rng-rank{rank:03d}.json"
        if not path.is_file():
            return
        try:
            rng.restore(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise Stop(f"{path} is not a random state: {error}; resume from an earlier checkpoint", MODEL) from error


@dataclass
class Run:
    """An output folder this process holds the lock of."""

    output_dir: Path
    resume_point: ResumePoint | None
    save_total_limit: int | None = None
    rank: int = 0
    lock: TextIO | None = field(default=None, repr=False)
    needed_bytes: int = 0
    """About as much as a checkpoint takes; 0: not known yet."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What every manifest states besides its files: {"base_model": ...} of a run that trains adapters."""
    writer: Writer = field(default_factory=Writer, repr=False)
    saving: bool = False
    """A save goes on beside training; the same on every rank."""

    def save(
        self,
        step: int,
        write_weights: WriteWeights,
        optimizer_state: Mapping[str, np.ndarray] | state_file.Write | None,
        trainer_state: Mapping[str, Any],
        source: Path | None = None,
        beside: bool = False,
    ) -> Path:
        """Write checkpoint-<step>, whole or not at all, then drop the oldest valid ones over the limit.

        The save before must have been settled.

        Args:
            write_weights: writes weights and config in published layout into the folder it is given.
            optimizer_state: structured name -> array or tensor, float32 or integer, any shape; or a function all ranks
                call that writes them to the path rank 0 gives; None: a checkpoint that nothing can be resumed from.
            trainer_state: JSON values (stream position, scheduler, counters).
            source: model folder whose tokenizer and processor files are copied beside the weights.
            beside: let another thread write, until `settle`; what write_weights writes must not change meanwhile.
        """
        final = self.output_dir / f"checkpoint-{step}"
        generators = collectives.gather_objects(rng.state())
        scratch = Scratch(self.output_dir, in_memory=beside and self.rank == 0)
        failure = state_file.gather(optimizer_state, scratch.path if self.rank == 0 else None)
        trainer = json.dumps({"step": step, "world": len(generators), "trainer": dict(trainer_state)}, indent=1)

        def fill(folder: Path) -> None:
            if failure is not None:
                raise failure
            write_weights(folder)
            copy_companions(source, folder)
            state = folder / "state"
            state.mkdir(exist_ok=True)
            if optimizer_state is not None:
                scratch.move_to(_optimizer_path(folder))
            (state / "trainer.json").write_text(trainer, encoding="utf-8")
            for i_rank, generator in enumerate(generators):
                (state / f"rng-rank{i_rank:03d}.json").write_text(json.dumps(generator), encoding="utf-8")

        def write() -> str | None:
            problem = self._attempt(lambda: durable.publish(final, step, fill, self.facts), final.name)
            scratch.close()
            if problem is None:
                self._drop_old(step)
            return problem

        self.saving = beside
        if beside and self.rank == 0:
            self.writer.start(write)
        elif not beside:
            self._tell(write() if self.rank == 0 else None)
        return final

    def settle(self) -> bool:
        """Wait for the save that was begun last and say whether there was one; on every rank, `Stop` when it failed."""
        saving, self.saving = self.saving, False
        if saving:
            self._tell(self.writer.wait())
        return saving

    def export(self, step: int, write_weights: WriteWeights, source: Path | None = None) -> Path:
        """Write OUTPUT_DIR/final: weights, config, tokenizer in published layout, without training state."""
        final = self.output_dir / "final"

        def fill(folder: Path) -> None:
            write_weights(folder)
            copy_companions(source, folder)

        self._on_first_rank(lambda: durable.publish(final, step, fill, self.facts), "final")
        return final

    def expect(self, num_bytes: int) -> None:
        """Refuse to start where two checkpoints of so many bytes do not fit; called on every rank."""
        self.needed_bytes = num_bytes

        def measure() -> None:
            if shutil.disk_usage(self.output_dir).free < 2 * num_bytes:
                raise OSError("there is no room for two")

        self._on_first_rank(measure, "a checkpoint")

    def close(self) -> None:
        """Wait for a save that goes on, and give the folder back."""
        if problem := self.writer.wait():
            print(f"warning: {problem}", file=sys.stderr)
        self.writer.close()
        if self.lock is not None:
            self.lock.close()
            self.lock = None

    def _on_first_rank(self, write: Callable[[], None], what: str) -> None:
        """Let rank 0 write; when that fails every rank stops, with the older checkpoints untouched."""
        self._tell(self._attempt(write, what) if self.rank == 0 else None)

    def _attempt(self, write: Callable[[], None], what: str) -> str | None:
        """Write; what went wrong, when the disk did not take it."""
        try:
            write()
        except (OSError, SafetensorError) as error:
            free = shutil.disk_usage(self.output_dir).free
            room = f"about {self.needed_bytes} bytes needed, {free} free" if self.needed_bytes else f"{free} free"
            return f"could not write {self.output_dir / what}: {error} ({room}); older checkpoints are untouched"
        return None

    def _tell(self, problem: str | None) -> None:
        """Stop on every rank when rank 0 has a problem."""
        problem = collectives.broadcast_object(problem)
        if problem:
            raise Stop(problem, DISK)

    def _drop_old(self, step: int) -> None:
        """Keep the newest save_total_limit valid checkpoints up to this step."""
        if not self.save_total_limit:
            return
        older = [path for number, path in checkpoints(self.output_dir) if number <= step]
        valid = [path for path in older if durable.damage(path, hashes=False) is None]
        for path in valid[self.save_total_limit :]:
            durable.remove(path)


def open_run(config: Any, facts: Mapping[str, Any] | None = None, rank: int = 0) -> Run:
    """Take the output folder, decide where the run continues, and prepare the folder for it.

    auto: continue from the newest valid checkpoint when the folder holds a run with the same settings; refuse, naming
    what differs, when it holds another.  A checkpoint folder: continue from it, whatever the settings.
    never: start anew, in a folder without a run.  overwrite_output_dir moves an earlier run aside first.

    Args:
        config: GrpoConfig or a dataclass with a `training: TrainingConfig` component.
        facts: further JSON values that must not change (number of examples, a hash of the rows).
    """
    training = config.training
    folder = Path(training.output_dir)
    lock, found = None, (None, None)
    if rank == 0:
        try:
            lock = take_lock(folder)
            found = (_prepare(config, dict(facts or {})), None)
        except Stop as stop:
            found = (None, (str(stop), stop.code))
    path, refusal = collectives.broadcast_object(found)
    if refusal:
        if lock is not None:
            lock.close()
        raise Stop(*refusal)
    status.begin(folder, rank, training.stall_timeout)
    point = load_point(Path(path)) if path else None
    now = collectives.world()
    if point and rank == 0 and point.world != now:
        told = f"saved by {point.world} processes, going on with {now}: the same rows in the same order, other samples"
        print(f"warning: {point.path}: {told}", file=sys.stderr)
    return Run(folder, point, training.save_total_limit, rank, lock)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """List (step, path) of the folder's checkpoints, newest first, valid or not."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _STEP.search(path.name))]
    return sorted(found, reverse=True)


def latest_valid(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files are as written; each damaged one passed over is named on stderr.

    None when there is no checkpoint at all; when there are only damaged ones that is an error, never a fresh start.
    """
    found = checkpoints(folder)
    for _, path in found:
        problem = durable.damage(path)
        if problem is None:
            return path
        print(f"warning: {path} is passed over: {problem}", file=sys.stderr)
    if found:
        raise Stop(f"every checkpoint in {folder} is damaged; start elsewhere or with --overwrite_output_dir", MODEL)
    return None


def load_point(path: Path) -> ResumePoint:
    """Open a checkpoint (already verified) for resuming."""
    file = path / "state" / "trainer.json"
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return ResumePoint(path, int(saved["step"]), dict(saved["trainer"]), int(saved["world"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Stop(f"{file} is not what a run saves ({error!r}); resume from an earlier checkpoint", MODEL) from error


def _prepare(config: Any, facts: dict[str, Any]) -> str | None:
    """Rank 0: sweep leftovers, move aside or compare with the earlier run, choose the checkpoint, cut the logs."""
    training = config.training
    folder = Path(training.output_dir)
    durable.sweep(folder)
    if training.overwrite_output_dir:
        move_aside(folder)
    record = {"config": flatten(config), "facts": facts, "version": VERSION}
    earlier = _earlier_run(folder)
    if earlier is not None:  # a setting that did not exist yet had what is its default now
        earlier["config"] = json.loads(json.dumps(flatten(type(config)()))) | earlier.get("config", {})
    choice = training.resume_from_checkpoint
    if choice not in ("auto", "never"):
        path = _explicit(Path(choice))
        _warn_about(_differences(earlier, record))
    elif earlier is None:
        if checkpoints(folder):
            raise Stop(f"{folder} has checkpoints but no run.json; name one with --resume_from_checkpoint", USAGE)
        path = None
    elif choice == "never":
        raise Stop(f"{folder} holds a run; --overwrite_output_dir moves it aside, or choose another folder", USAGE)
    else:
        _refuse(folder, _differences(earlier, record))
        path = _resumable(folder, latest_valid(folder))
    durable.write_json(folder / "run.json", record)
    save_args(config, folder / "args.yaml")
    record_command(folder)
    step = int(_STEP.search(path.name)[1]) if path else 0
    inside = path is None or path.resolve().parent == folder.resolve()
    for name in ("metrics.jsonl", "completions.jsonl", "eval.jsonl"):
        durable.cut_after(folder / name, step if inside and path else -1)
    if path:
        print(f"resuming from step {step}: {path}", file=sys.stderr)
    return str(path) if path else None


def _resumable(folder: Path, path: Path | None) -> Path | None:
    """Rank 0: the checkpoint, unless it was saved without optimizer state and the run has not ended: start again."""
    if path is None or _optimizer_path(path).is_file() or (folder / "final").is_dir():
        return path
    print(f"warning: {path} was written with --save_only_model True: the run starts again", file=sys.stderr)
    move_aside(folder)
    return None


def _explicit(path: Path) -> Path:
    path = path.resolve()
    if not _STEP.search(path.name):
        raise Stop(f"--resume_from_checkpoint {path}: expected auto, never or a folder named checkpoint-N", USAGE)
    if not _optimizer_path(path).is_file():
        raise Stop(f"{path} has no optimizer state; start from it with --model_name_or_path", MODEL)
    if problem := durable.damage(path):
        raise Stop(f"cannot resume from {path}: {problem}", MODEL)
    return path


def _earlier_run(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Stop(f"{path} is damaged ({error}); --overwrite_output_dir moves the run aside", OUTPUT) from error


def _differences(earlier: dict[str, Any] | None, record: dict[str, Any]) -> list[str]:
    """List "name: then -> now" for every setting and fact that matters."""
    if earlier is None:
        return []
    lines = []
    for part in ("config", "facts"):
        then, now = earlier.get(part, {}), json.loads(json.dumps(record[part]))
        for key in sorted((set(then) | set(now)) - FREE_KEYS):
            if then.get(key) != now.get(key):
                lines.append(f"{key}: {then.get(key)!r} -> {now.get(key)!r}")
    return lines


def _refuse(folder: Path, differences: list[str]) -> None:
    if differences:
        listed = "\n  ".join(differences)
        raise Stop(
            f"{folder} holds a run with other settings:\n  {listed}\n"
            "Give the same settings to continue it, another --output_dir, or --overwrite_output_dir.",
            USAGE,
        )


def _warn_about(differences: list[str]) -> None:
    for line in differences:
        print(f"warning: resuming with another setting: {line}", file=sys.stderr)


def _optimizer_path(folder: Path) -> Path:
    return folder / "state" / "optimizer.safetensors"
