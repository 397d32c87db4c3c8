# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm data check` and `--dry_run` of grpo, sft, curriculum and eval."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import rewards
from ..config import DataConfig, EvalConfig, GrpoConfig, RewardConfig, SftConfig
from ..config import curriculum as curricula
from ..config.flags import described, origins, parse
from ..data.mixture import quarantine
from ..evaluation.command import load_sets, results_path
from ..models.config import ModelArch
from ..processing.conversation import lesson, lesson_length
from ..processing.prompt import Processor
from ..records import Example
from ..runtime import DATA, Stop
from ..tasks import asked_as, conversation
from ..tasks.templates import load_templates
from ..training import sizing
from . import plan, scan, selftest

Settings = GrpoConfig | SftConfig
CONFIG_FILES = ("*.json", "merges.txt", "*.jinja")
"""What tokens, pictures and sizes need of a model; no weights."""


@dataclass(frozen=True)
class CheckConfig:
    """Check data sets: every row, every picture, the reward, what is twice there.  Needs no Paddle and no model."""

    files: tuple[str, ...]
    """What --dataset_name of `r1-mllm grpo` takes: files, folders or mixtures; rows that two of them share count."""
    task: str | None = None
    """None: what the rows or the mixture say."""
    image_root: str | None = None
    """Folder that the rows' picture paths start in; None: the one the data file lies in."""
    split: str = "train"
    """Split of a folder that has several."""
    model_name_or_path: str | None = None
    """Folder of a checkpoint (its weights are not read): counts prompt tokens."""
    max_prompt_length: int = DataConfig.max_prompt_length
    """Longer prompts count as dropped, when a model is given."""
    max_pixels: int | None = None
    """Upper limit of a picture's area after resizing; None: the model's own."""
    num_workers: int = 4
    """Threads that decode pictures."""
    report: str | None = None
    """JSONL file for every problem: dataset, where, field, message, sha256 of the row."""


def check(argv: Sequence[str]) -> None:
    """Run `r1-mllm data check`; the files may stand first without their flag."""
    words = ["--files", *argv] if argv and not argv[0].startswith("-") else argv
    config = parse(CheckConfig, words, "r1-mllm data check", CheckConfig.__doc__)
    model = _open(config.model_name_or_path, max_pixels=config.max_pixels) if config.model_name_or_path else None
    scans, ok = [], True
    for file in config.files:
        data = DataConfig(
            task=config.task,
            dataset_name=file,
            dataset_train_split=config.split,
            image_root=config.image_root,
            max_prompt_length=config.max_prompt_length,
        )
        questions = Questions(data, model[0] if model else None)
        found = scan.scan(
            data, "train", questions.length, config.max_prompt_length if model else None, None, config.num_workers
        )
        tested = questions.self_test(found.examples, RewardConfig()) if found.examples else None
        _print(scan.describe(found), selftest.describe(tested) if tested else [])
        ok = ok and not found.problems and bool(tested and tested.ok)
        scans.append(found)
    if config.report is not None:
        problems = [problem for found in scans for problem in found.problems]
        quarantine.write(problems, Path(config.report))
        print(f"{len(problems)} problems listed in {config.report}")
    for i, first in enumerate(scans):
        for second in scans[i + 1 :]:
            lines = scan.shared(first, second)
            ok = ok and len(lines) == 1
            _print(lines)
    _finish(ok)


def _print(*parts: Sequence[str]) -> None:
    for part in parts:
        print(*part, sep="\n")


def _finish(ok: bool) -> None:
    if not ok:
        raise Stop("the data is not in order; see the lines marked BAD", DATA)
    print("everything checked is in order")


class Questions:
    """How a run asks its examples."""

    def __init__(self, data: DataConfig, processor: Processor | None) -> None:
        self.data, self.processor, self.templates = data, processor, load_templates(data.prompt_template)

    def messages(self, example: Example) -> list:
        """Lay an example out as a run does."""
        units = self.processor.box_units if self.processor else None
        views = self.processor.views(example.images) if self.processor and "boxes_px" in example.meta else ()
        return asked_as(example).messages(
            example, templates=self.templates, system_prompt=self.data.system_prompt, view_units=units, views=views
        )

    @property
    def length(self) -> scan.Length | None:
        """Count prompt tokens; None without a tokenizer."""
        if self.processor is None:
            return None
        sizes = self.processor.image_size
        return lambda one: self.processor.prompt_length(self.messages(one), [sizes(image) for image in one.images])

    def self_test(self, examples: Sequence[Example], config: RewardConfig) -> selftest.SelfTest:
        """Score gold and foreign answers."""
        config = selftest.with_limit(config, 256)
        funcs = {name: rewards.load_reward(name, config) for name in config.reward_funcs if name != "judge"}
        views = None if self.processor is None else lambda example: plan.views_of(self.processor, example)
        return selftest.run(examples, config, funcs, views)


def dry_run(command: str, argv: Sequence[str]) -> None:
    """Say what `r1-mllm COMMAND` would do with these flags, and whether its data is in order."""
    if command == "curriculum":
        _dry_curriculum(argv)
        return
    kind = {"grpo": GrpoConfig, "sft": SftConfig, "eval": EvalConfig}[command]
    config = parse(kind, argv, f"r1-mllm {command}")
    _print(described(config, origins(kind, argv)))
    if isinstance(config, EvalConfig):
        _dry_evaluation(config)
    else:
        _finish(_dry(config, _open_run(config)))


def _dry_evaluation(config: EvalConfig) -> None:
    """Read every data set, find its pictures, and say where results would go."""
    if config.model_path is None and config.checkpoints is None:
        raise Stop("--model_path MODEL is missing (or --checkpoints RUN for every checkpoint of a run)")
    try:
        found = load_sets(config)
        load_templates(config.prompt_template)
    except ValueError as error:
        raise Stop(str(error), DATA) from error
    print("\ndata")
    for one in found:
        pictures = len({picture for example in one.examples for picture in example.images})
        print(f"  {one.name}: {len(one.examples)} of {one.num_rows} rows, {pictures} pictures, task {one.task}")
        if config.model_path is not None:
            print(f"    results: {results_path(config, one)}")
    if config.model_path is not None:
        _open(config.model_path, config.min_pixels, config.max_pixels, config.chat_template)
    _finish(True)


def _dry_curriculum(argv: Sequence[str]) -> None:
    path, rest = _curriculum_file(argv)
    config = curricula.read(path, rest)
    if config.embedded is not None:
        print(f"{path}: stages on rendered scenes and a small model, which the run makes first; nothing to check")
        return
    ok = True
    model = _open_run(config.stages[0].grpo)
    for number, stage in enumerate(config.stages, start=1):
        print(f"\nstage {number} of {len(config.stages)}, {stage.name}; starts from {stage.start_from}")
        ok = _dry(stage.grpo, model) and ok
    _finish(ok)


def _curriculum_file(argv: Sequence[str]) -> tuple[Path, list[str]]:
    for i, word in enumerate(argv):
        name, has_value, value = word.partition("=")
        if name == "--config" and has_value:
            return Path(value), [*argv[:i], *argv[i + 1 :]]
        if name == "--config" and i + 1 < len(argv):
            return Path(argv[i + 1]), [*argv[:i], *argv[i + 2 :]]
    return Path(__file__).resolve().parents[2] / "configs" / "curriculum.yaml", list(argv)


def _open_run(config: Settings) -> tuple[Processor | None, ModelArch | None]:
    data = config.data
    return _open(config.model.model_name_or_path, data.min_pixels, data.max_pixels, data.chat_template)


def _open(
    name: str, min_pixels: int | None = None, max_pixels: int | None = None, chat_template: str | None = None
) -> tuple[Processor | None, ModelArch | None]:
    """Read tokenizer, picture settings and sizes; of a published model that cannot be had, its sizes alone."""
    try:
        folder = _model_folder(name)
        return Processor.from_pretrained(folder, min_pixels, max_pixels, chat_template), ModelArch.from_pretrained(
            folder
        )
    except (ValueError, OSError) as error:
        known = next((sizes for model, sizes in sizing.PUBLISHED.items() if model in name), None)
        print(f"note: {name}: no tokenizer, so no prompt is rendered or counted ({str(error).splitlines()[0]})")
        return None, None if known is None else ModelArch.from_dict(known)


def _model_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download  # slow to import, and a folder does not need it

    return Path(snapshot_download(name, allow_patterns=list(CONFIG_FILES)))


def _dry(config: Settings, model: tuple[Processor | None, ModelArch | None]) -> bool:
    """Check one run; say whether it could start."""
    processor, arch = model
    train, held_out = _scans(config, processor)
    print("\ndata")
    _print(*(scan.describe(found) for found in (train, held_out) if found))
    ok = bool(train.examples) and train.report.tolerated(config.data)
    if held_out:
        lines = scan.shared(train, held_out)
        _print(lines)
        ok = ok and len(lines) == 1
    world = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))
    if train.examples and isinstance(config, GrpoConfig):
        tested = Questions(config.data, processor).self_test(train.examples, config.settled_reward)
        print("\nreward")
        _print(selftest.describe(tested))
        ok = ok and tested.ok
    if train.examples:
        print("\nbatches")
        _print(plan.arithmetic(config, len(train.examples), world))
    if arch is not None:
        print("\nmemory of each device")
        _print(plan.memory(config, arch, world))
    if arch is not None and isinstance(config, GrpoConfig) and train.lengths:
        middle = sorted(train.lengths)[len(train.lengths) // 2]
        print("\ntime of a step, on paper (docs/scaling.md)")
        _print(plan.seconds(config, arch, world, middle, _visual_tokens(train.examples, processor)))
    if train.examples and processor is not None:
        print("\nthe first example")
        _print(_sample(config, processor, train.examples[0]))
    print()
    return ok


def _visual_tokens(examples: Sequence[Example], processor: Processor) -> int:
    """Visual tokens of the example that stands in the middle."""
    images = examples[len(examples) // 2].images if examples else ()
    return sum(processor.pixels.num_tokens(processor.image_size(image)) for image in images)


def _scans(config: Settings, processor: Processor | None) -> tuple[scan.Scan, scan.Scan | None]:
    data = config.data
    if isinstance(config, SftConfig):
        length = None if processor is None else lambda one: _lesson_length(processor, config, one)
        options = (length, data.max_length, conversation.example)
    else:
        options = (Questions(data, processor).length, data.max_prompt_length, None)
    try:
        train = scan.scan(data, "train", *options)
        held_out = scan.scan(data, "eval", *options)
    except ValueError as error:
        raise Stop(str(error), DATA) from error
    return train, held_out if held_out.examples or held_out.problems else None


def _turns(config: SftConfig, example: Example) -> Sequence[conversation.Turn]:
    return conversation.with_system(example.answer, config.data.system_prompt)


def _lesson_length(processor: Processor, config: SftConfig, example: Example) -> int:
    return lesson_length(processor, _turns(config, example), [processor.image_size(image) for image in example.images])


def _sample(config: Settings, processor: Processor, example: Example) -> list[str]:
    if isinstance(config, GrpoConfig):
        return plan.sample(example, processor, Questions(config.data, processor).messages(example))
    prompt, ids = lesson(processor, _turns(config, example), example.images)
    return [
        f"  {example.meta['where']}",
        f"  {len(prompt.ids)} tokens before the last answer, {len(ids)} tokens of it are learnt:",
        *(f"  | {line}" for line in processor.tokenizer.decode(prompt.ids).split("\n")),
        f"  learnt: {processor.tokenizer.decode(ids)!r}",
    ]
