# SPDX-License-Identifier: Apache-2.0
"""The embedded default of a curriculum: rendered scenes, and a small model that has seen all three forms.

The warm start is the quickstart's: right answers first, then a careless annotator's.  The annotator thinks of an
answer, writes it down, and judges or chooses by it; so what a stage corrects is the answer that the others share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .. import config as settings
from .. import curriculum
from ..answers import boxes
from ..config.curriculum import CurriculumConfig, EmbeddedConfig, Stage
from ..data.pack import supervised_pair
from ..data.synthetic import scene, weak_answer, write_splits
from ..models.weights import save_pretrained
from ..processing.prompt import Processor
from ..records import Example, Group
from ..tasks import asked_as
from ..training import sft
from ..training.optimizer import AdamW
from . import small_model
from .run import BATCH, SIDE, TOKENS_PER_PACK, Clock
from .warm_start import PROMPTS, STOP, Annotator, written_answer

FORMS = ("judge", "choice", "open")


class FormAnnotator(Annotator):
    """Draws scenes and answers questions about them in any form."""

    def pair_in(self, form: str, max_objects: int, careful: bool):
        """A picture, the messages that ask about it in a form, and an answer: the right one, or a careless one."""
        image, row = scene(self.name, self.rng, max_objects=max_objects, **self.options)
        example = self.task.example({**row, "image": "scene.png"}, "scene")
        value = example.answer if careful else weak_answer(self.name, row, self.rng)
        value = tuple(value) if isinstance(value, list) else value
        if form == "open":
            text = written_answer(self.name, row, value)
        else:
            known = {self.name: tuple(range(1, max_objects + 1)) if self.name == "counting" else ()}
            seed = int(self.rng.integers(2**31))
            thought = curriculum.shown(example, value)
            example = curriculum.with_form(example, (form,), seed, siblings=known)
            text = f"<think>{thought}</think><answer>{self._reply(example, value)}</answer>"
        asked = asked_as(example)
        return image, asked.messages(example, templates=self.templates, view_units="seen_px"), text

    def _reply(self, example: Example, value) -> str:
        """Judge or choose by an answer one believes in."""
        texts = [example.meta["proposed"]] if example.form == "judge" else example.meta["options"]
        agrees = [self._same(example, text, value) for text in texts]
        if example.form == "judge":
            return "yes" if agrees[0] else "no"
        place = agrees.index(True) if any(agrees) else int(self.rng.integers(len(texts)))
        return curriculum.LETTERS[place]

    def _same(self, example: Example, text: str, value) -> bool:
        box_px = example.meta.get("boxes_px", {}).get(text)
        return boxes.iou(box_px, value) > 0.5 if box_px else text == curriculum.shown(example, value)

    def texts(self, num: int, max_objects: int) -> Iterator[str]:
        """Prompts and answers of all forms, for training a vocabulary."""
        for number in range(num):
            _, messages, answer = self.pair_in(FORMS[number % len(FORMS)], max_objects, careful=False)
            yield messages[-1]["content"][-1]["text"]
            yield answer


def prepare(config: CurriculumConfig, folder: Path, clock: Clock | None = None) -> CurriculumConfig:
    """Render the data, warm the small model up (both once), and put them into the stages.

    Args:
        folder: gets data/ and warm_start/.
    """
    embedded, clock = config.embedded, clock or Clock()
    assert embedded is not None
    train, test = write_splits(
        embedded.task,
        embedded.num_train,
        folder / "data",
        embedded.num_test,
        seed=embedded.seed,
        side=SIDE,
        max_objects=embedded.max_objects,
        **_scene_options(embedded),
    )
    clock.tell(f"rendered {embedded.num_train} training and {embedded.num_test} held-out scenes in {folder / 'data'}")
    warm = folder / "warm_start"
    if not warm.exists():
        unfinished = folder / "warm_start.unfinished"
        _warm_up(embedded, unfinished, clock)
        unfinished.rename(warm)
    stages = tuple(_placed(stage, i, embedded, (warm, train, test)) for i, stage in enumerate(config.stages))
    return dataclasses.replace(config, stages=stages)


def _scene_options(embedded: EmbeddedConfig) -> dict:
    return {"figures": ("area", "perimeter")} if embedded.task == "geometry" else {}


def _placed(stage: Stage, number: int, embedded: EmbeddedConfig, paths: tuple[Path, Path, Path]) -> Stage:
    """Point a stage at the embedded model and data; every stage walks the scenes in an order of its own."""
    warm, train, test = (str(path) for path in paths)
    grpo = stage.grpo
    data = dataclasses.replace(
        grpo.data,
        task=embedded.task,
        dataset_name=train,
        eval_dataset_name=test,
        image_root=str(Path(train).parent),
        prompt_template=str(PROMPTS),
        data_seed=1000 * embedded.seed + number,
    )
    model = dataclasses.replace(grpo.model, model_name_or_path=warm)
    training = dataclasses.replace(grpo.training, seed=embedded.seed)
    return dataclasses.replace(stage, grpo=dataclasses.replace(grpo, data=data, model=model, training=training))


def _warm_up(embedded: EmbeddedConfig, folder: Path, clock: Clock) -> None:
    """Build the small model and imitate the annotator; leaves a published folder."""
    annotator = FormAnnotator(embedded.task, embedded.seed, side=SIDE, **_scene_options(embedded))
    model = small_model.build(folder, list(annotator.texts(600, embedded.max_objects)), embedded.seed)
    processor = Processor.from_pretrained(folder)
    phases = ((embedded.warm_up_open, ("open",), True), (embedded.warm_up_forms, FORMS, True))
    phases = (*phases, (embedded.warm_up_weak, FORMS, False))
    num_steps = sum(steps for steps, _, _ in phases)
    optimizer = AdamW(
        model.named_parameters(),
        settings.OptimizerConfig(
            learning_rate=embedded.warm_up_learning_rate,
            lr_scheduler_type="constant",
            warmup_steps=20,
            adam_beta2=0.99,
        ),
    )

    def on_step(taken: int, loss: float, rate: float) -> None:
        if taken % 100 == 0 or taken == num_steps:
            clock.tell(f"warm start: supervised step {taken} of {num_steps}, loss {loss:.3f}")

    def drawn() -> Iterator[list[Group]]:
        for steps, forms, careful in phases:
            for _ in range(steps):
                yield _batch(annotator, processor, forms, embedded.max_objects, careful)

    sft.supervised_steps(model, drawn(), optimizer, num_steps, tokens_per_pack=TOKENS_PER_PACK, on_step=on_step)
    save_pretrained(model, folder)


def _batch(
    annotator: FormAnnotator, processor: Processor, forms: tuple[str, ...], max_objects: int, careful: bool
) -> list[Group]:
    batch = []
    for number in range(BATCH):
        image, messages, answer = annotator.pair_in(forms[number % len(forms)], max_objects, careful)
        ids = processor.tokenizer.encode(answer + STOP)
        batch.append(supervised_pair(processor.encode(messages, [image]), ids, answer))
    return batch
