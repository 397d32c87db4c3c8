# SPDX-License-Identifier: Apache-2.0
"""Examples of a run, and what becomes of rows and pictures that are not in order."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ... import curriculum
from ...config import DataConfig
from ...records import Example
from ...tasks import TASKS, get_task, named_task
from .. import read
from . import quarantine, recipe
from .embedded import EmbeddedPictures
from .pictures import PictureRoot
from .recipe import Entry

log = logging.getLogger(__name__)

Check = Callable[[Example], None] | None
"""Raises ValueError for an example that cannot be used."""
ReadRow = Callable[[read.Row, str], Example] | None


@dataclass
class DatasetCount:
    """What happened to the rows of one entry."""

    name: str
    num_rows: int = 0
    """Rows in the file or split."""
    num_taken: int = 0
    """Rows the sampling strategy chose."""
    num_kept: int = 0
    num_broken: int = 0
    """Rows that could not even be read, so that no strategy chose among them."""


@dataclass
class LoadReport:
    """What was read, what was set aside and why."""

    datasets: list[DatasetCount] = field(default_factory=list)
    problems: list[quarantine.Problem] = field(default_factory=list)
    """Bad rows and missing pictures; with data_policy strict there are none, because loading stopped."""
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Keep a warning and log it."""
        self.warnings.append(message)
        log.warning("%s", message)

    @property
    def bad_rows(self) -> set[str]:
        """Places of the rows set aside."""
        return {problem.where for problem in self.problems}

    @property
    def num_rows(self) -> int:
        """Rows that were wanted, bad ones included."""
        return sum(count.num_taken + count.num_broken for count in self.datasets)

    def tolerated(self, config: DataConfig) -> bool:
        """Say whether data_policy and max_bad let a run go on without the rows set aside."""
        most = quarantine.allowed_bad(config.max_bad, self.num_rows)
        return not self.problems or (config.data_policy == "quarantine" and len(self.bad_rows) <= most)

    def write_quarantine(self, path: Path) -> None:
        """Write the rows set aside to a file; not touched when there are none."""
        if self.problems:
            quarantine.write(self.problems, path)
            self.warn(f"{len(self.bad_rows)} rows set aside; they are listed in {path}")

    def summary(self) -> str:
        """One line per data set."""
        return "\n".join(
            f"{count.name}: {count.num_kept} examples of {count.num_taken} chosen from {count.num_rows} rows"
            for count in self.datasets
        )


def load_examples(
    data_config: DataConfig,
    split: str = "train",
    quarantine_file: str | Path | None = "quarantine.jsonl",
    check: Check = None,
    read_row: ReadRow = None,
) -> tuple[list[Example], LoadReport]:
    """Read, choose and check the examples of a split.

    Args:
        split: "train" reads dataset_name; anything else reads eval_dataset_name, or the held-out part of dataset_name
            (val_datasets, dataset_test_split), and returns no example when neither is there.
        quarantine_file: where data_policy quarantine writes the rows it removed; None leaves that to the caller.
        check: called for each example that is in order so far; its ValueError makes the row a bad one.
        read_row: makes an example of (row, its place); None: the row's task does.
    """
    report = LoadReport()
    forms = data_config.form if split == "train" else data_config.eval_form or data_config.form
    examples: list[Example] = []
    for entry in _entries(data_config, split, report):
        examples.extend(_load_entry(entry, data_config, forms, report, check, read_row))
    if not report.tolerated(data_config):
        told = quarantine.explain(report.problems)
        if data_config.data_policy == "quarantine":
            told = f"{quarantine.too_many(len(report.bad_rows), report.num_rows, data_config.max_bad)}\n{told}"
        raise ValueError(told)
    if quarantine_file is not None:
        report.write_quarantine(Path(quarantine_file))
    if not examples and split == "train":
        raise ValueError(f"{data_config.dataset_name}: no example left to train on")
    return examples, report


def num_shared(train: Iterable[Example], held_out: Iterable[Example]) -> int:
    """Count the held-out examples that training also sees (same pictures and same question), and warn of them."""
    seen = {_identity(example) for example in train}
    num = sum(_identity(example) in seen for example in held_out)
    if num:
        log.warning("%d held-out examples are also in the training data", num)
    return num


def _identity(example: Example) -> int:
    return hash((example.question, example.images))


def _entries(config: DataConfig, split: str, report: LoadReport) -> list[Entry]:
    training = split == "train"
    name = config.dataset_name if training else config.eval_dataset_name or config.dataset_name
    if not name:
        raise ValueError("no data set given: pass --dataset_name FILE, FOLDER or MIXTURE.yaml")
    wanted = config.dataset_train_split if training else config.dataset_test_split
    if ":" in name and not os.path.exists(name):
        return _listed(name, config.image_root, wanted)
    path = recipe.located(name, [Path()])
    if path.suffix in (".yaml", ".yml"):
        entries = recipe.read_mixture(path, training, own_file=training or bool(config.eval_dataset_name))
    elif training or config.eval_dataset_name or _has_split(path, config.dataset_test_split):
        entries = [Entry(path, name, split=wanted)]
    else:
        entries = []
    if not entries and not training:
        report.warn(f"{name}: no evaluation data; pass --eval_dataset_name to evaluate")
    for twice in _repeated([str(entry.path.resolve()) for entry in entries]):
        report.warn(f"{name}: {twice} is listed more than once, so its rows weigh more")
    return entries


def _listed(names: str, roots: str | None, split: str) -> list[Entry]:
    """Entries of VLM-R1's lists `a.jsonl:b.jsonl`, with one picture folder for all or `x:y`, one for each."""
    files = names.split(":")
    folders = (roots or "").split(":")
    if len(folders) not in (1, len(files)):
        raise ValueError(f"--image_root {roots}: {len(folders)} folders for {len(files)} files; give one for each")
    folders = folders * len(files) if len(folders) == 1 else folders
    return [
        Entry(recipe.located(file, [Path()]), file, image_root=folder or None, split=split)
        for file, folder in zip(files, folders, strict=True)
    ]


def _has_split(path: Path, split: str) -> bool:
    return split in read.splits(path)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _load_entry(
    entry: Entry,
    config: DataConfig,
    default_forms: Sequence[str],
    report: LoadReport,
    check: Check,
    read_row: ReadRow,
) -> list[Example]:
    problems: list[quarantine.Problem] = []
    forms = entry.form or default_forms
    if entry.task or config.task:
        get_task(entry.task or config.task)  # a misspelt task is no fault of the rows
    pictures = EmbeddedPictures(entry.path)
    folder = entry.image_root or config.image_root or pictures.folder.parent
    root = PictureRoot(folder, config.allow_outside_image_root, own_folder=pictures.folder)
    chosen, size, asked = _chosen_rows(entry, config.data_seed, pictures, problems)
    num_broken = len(problems)
    if asked > size:
        report.warn(f"{entry.name}: {entry.strategy} asks for {asked} rows, there are only {size}")
    settings = (config.task, root, forms, read_row)
    found = [(_read_example(row, where, entry, settings, problems), row) for row, where in chosen]
    found = [(example, row) for example, row in found if example is not None]
    kept = _formed(found, entry, config, forms, check, problems)
    report.datasets.append(DatasetCount(entry.name, size + num_broken, len(chosen), len(kept), num_broken))
    report.problems.extend(problems)
    return kept


def _chosen_rows(
    entry: Entry, data_seed: int, pictures: EmbeddedPictures, problems: list[quarantine.Problem]
) -> tuple[list[tuple[read.Row, str]], int, int]:
    """Rows that the sampling strategy takes, how many it could choose from, and how many it asked for."""

    def set_aside(where: str, message: str) -> None:
        problems.append(quarantine.Problem(entry.name, where, "row", message))

    seed = np.random.SeedSequence([data_seed, zlib.crc32(entry.name.encode())])
    rng, choose = np.random.Generator(np.random.Philox(seed)), recipe.parse_strategy(entry.strategy)
    split = _usable_split(entry)
    found = read.rows(entry.path, split, on_bad=set_aside)
    if not read.is_table(entry.path, split):
        rows = list(found)
        numbers, asked = choose(len(rows), rng)
        return [rows[number] for number in numbers], len(rows), asked
    size = read.num_rows(entry.path, split)  # known beforehand, so that only chosen pictures are kept
    numbers, asked = choose(size, rng)
    wanted = set(numbers.tolist())
    kept = {n: (pictures.stored(row), where) for n, (row, where) in enumerate(found) if n in wanted}
    return [kept[number] for number in numbers.tolist()], size, asked


def _usable_split(entry: Entry) -> str | None:
    """The split to read: the wanted one of a folder, or none for files and folders that hold just one."""
    names = read.splits(entry.path)
    return entry.split if entry.split in names or len(names) > 1 else None


def _read_example(
    row: read.Row,
    where: str,
    entry: Entry,
    settings: tuple[str | None, PictureRoot, Sequence[str], ReadRow],
    problems: list,
) -> Example | None:
    """The row's example with pictures found, or None and a problem more."""
    default_task, root, forms, read_row = settings
    task = entry.task or default_task or named_task(row)
    if not read_row and not isinstance(task, str):
        raise ValueError(
            f"{where}: no task: pass --task, or add `task` to the mixture's entry or the row; "
            f"known: {', '.join(TASKS)} (docs/data.md#columns)"
        )
    try:
        example = read_row(row, where) if read_row else curriculum.example_of(row, where, task, forms)
    except ValueError as error:
        problems.append(quarantine.Problem(entry.name, where, "row", str(error), row))
        return None
    images, complaints = root.find(example.images)
    for message in complaints:
        problems.append(quarantine.Problem(entry.name, where, "image", message, row))
    if complaints:
        return None
    return replace(example, images=images)


def _formed(
    found: Sequence[tuple[Example, read.Row]],
    entry: Entry,
    config: DataConfig,
    forms: Sequence[str],
    check: Check,
    problems: list[quarantine.Problem],
) -> list[Example]:
    """Examples in the form wanted that pass the check; a problem more for each of the others."""
    siblings = curriculum.answers_by_task(example for example, _ in found)
    kept = []
    for example, row in found:
        try:
            example = curriculum.with_form(example, forms, config.data_seed, config.num_options, siblings)
            if check:
                check(example)
        except ValueError as error:
            problems.append(quarantine.Problem(entry.name, example.meta["where"], "row", str(error), row))
        else:
            kept.append(example)
    return kept
