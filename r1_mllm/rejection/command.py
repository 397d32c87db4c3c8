# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm reject`: sample answers with the engine, score them, keep good ones, write conversations for `r1-mllm sft`.

    OUTPUT_DIR/messages.jsonl    the kept answers as conversations, each with where it is from (`provenance`)
    OUTPUT_DIR/messages_images/  their pictures, where those are not below OUTPUT_DIR already
    OUTPUT_DIR/samples.json      every answer with its verdicts; `r1-mllm passk --input_file` reads it
    OUTPUT_DIR/judged.jsonl      the judge's verdicts
    OUTPUT_DIR/summary.json      how many were kept at each stage
    OUTPUT_DIR/args.yaml         the settings

Samples and verdicts are on disk as they come: the same command goes on where a killed one stopped, and another
threshold, quota or judge samples nothing again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import runtime
from ..config import DataConfig, EvalConfig, ModelConfig, RewardConfig, RolloutConfig, flatten, save_args
from ..config.flags import parse
from ..data.lessons import placed
from ..data.mixture import load_examples
from ..evaluation import shards
from ..evaluation.command import find_model
from ..evaluation.evaluate import EvalSettings
from ..evaluation.partial import fingerprint
from ..evaluation.sampling import Sampling, collect
from ..records import Example
from ..rewards import load_reward
from ..rewards.judge import Item, Judge, JudgeConfig
from ..tasks.templates import load_templates
from .choose import Candidate, above, balanced, distinct, read_quotas

log = logging.getLogger(__name__)

Row = dict[str, Any]
_PICTURE_MARK = re.compile(r"<image\d{0,3}>")


@dataclass(frozen=True)
class RejectSettings:
    output_dir: str = "work_dirs/reject"
    """Folder for the conversations, the answers and their scores."""
    threshold: float = 85.0
    """Points of 100 an answer must exceed."""
    score_by: Literal["auto", "reward", "judge", "both"] = "auto"
    """reward: 100 times the weighted mean of the rewards; judge: its points; both: the lower of the two; auto: both
    when there is a judge_url, else reward."""
    max_per_prompt: int = 1
    """Most answers kept per question, the best ones; 0: all different ones."""
    domain: Literal["data_source", "task", "file"] = "data_source"
    """What is balanced: the rows' data_source (their task where there is none), the task, or the file they are from."""
    domain_quota: tuple[str, ...] = ()
    """NAME=COUNT: how many answers a domain may have."""
    max_domain_ratio: float = 3.0
    """Most answers of a domain without a quota, as a multiple of the smallest such domain's; 0: no limit."""
    method: Literal["r1", "baseline"] = "r1"
    """r1 asks for thinking and an answer in tags; baseline asks a model that was not trained for that."""
    batch_size: int = 32
    """Questions sampled together; with the seed it fixes the answers."""
    seed: int = 42
    """Sampled answers follow from it."""
    num_processes: int = 1
    """Processes that share the questions, each with a model of its own."""


@dataclass(frozen=True)
class RejectConfig:
    """Everything `r1-mllm reject` can be told."""

    reject: RejectSettings = field(default_factory=RejectSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        if self.rollout.temperature <= 0 and self.rollout.num_generations > 1:
            raise ValueError("temperature 0 gives the same answer every time; set it above 0 or num_generations 1")
        if self.reject.score_by in ("judge", "both") and not self.judge.judge_url:
            raise ValueError(f"score_by {self.reject.score_by} needs a judge_url")
        if not 0 <= self.reject.threshold < 100:
            raise ValueError(f"threshold {self.reject.threshold}: answers have 0 to 100 points and must exceed it")
        for name in ("batch_size", "num_processes"):
            if getattr(self.reject, name) < 1:
                raise ValueError(f"{name} {getattr(self.reject, name)}: must be at least 1")
        if self.rollout.num_generations < 1 or self.reject.max_per_prompt < 0 or self.reject.max_domain_ratio < 0:
            raise ValueError("num_generations must be at least 1, max_per_prompt and max_domain_ratio not negative")
        read_quotas(self.reject.domain_quota)

    @property
    def score_by(self) -> str:
        """What decides, auto resolved."""
        chosen = self.reject.score_by
        return chosen if chosen != "auto" else "both" if self.judge.judge_url else "reward"


def main(argv: Sequence[str]) -> None:
    """Run the command as the command line says."""
    run(parse(RejectConfig, argv, "r1-mllm reject", "Sample answers, keep the good ones, write them for r1-mllm sft."))


def run(config: RejectConfig) -> Path | None:
    """Sample, score, choose and write; give the file of conversations (None in processes other than the first)."""
    folder = Path(config.reject.output_dir)
    try:
        examples, _ = load_examples(config.data, "train", folder / "quarantine.jsonl")
        rows = _sampled(config, examples, folder)
        if rows is None:
            return None
        save_args(config, folder / "args.yaml")
        return write(config, examples, rows, folder)
    except ValueError as error:
        raise runtime.Stop(str(error), runtime.DATA) from error


def _sampled(config: RejectConfig, examples: Sequence[Example], folder: Path) -> list[Row] | None:
    folder.mkdir(parents=True, exist_ok=True)
    funcs = {name: load_reward(name, config.reward) for name in config.reward.reward_funcs}
    limit = config.reward.length_limit or config.rollout.max_completion_length
    asked = EvalSettings(
        method=config.reject.method,
        batch_size=config.reject.batch_size,
        max_new_tokens=config.rollout.max_completion_length,
        seed=config.reject.seed,
        templates=load_templates(config.data.prompt_template),
        system_prompt=config.data.system_prompt,
    )
    sampling = Sampling(
        asked,
        config.rollout.num_generations,
        config.data.max_prompt_length,
        funcs,
        dataclasses.replace(config.reward, length_limit=limit),
    )
    evaluation = _as_evaluation(config)
    told = dataclasses.replace(config, reject=dataclasses.replace(config.reject, num_processes=1))
    with shards.start(config.reject.num_processes, "reject", told, folder) as team:
        try:
            model_dir = find_model(evaluation)
        except (ValueError, OSError) as error:
            raise runtime.Stop(str(error), runtime.MODEL) from error

        def load() -> Any:
            from ..evaluation.load import load as load_model  # find_model has prepared Paddle's environment

            return load_model(model_dir, evaluation, config.rollout)

        print(f"{config.rollout.num_generations} answers to each of {len(examples)} questions")
        return collect(
            folder / "samples.json", _key(config, asked, examples, model_dir), examples, team, sampling, load
        )


def _as_evaluation(config: RejectConfig) -> EvalConfig:
    """What loading a model for answers asks for."""
    return EvalConfig(
        model_path=config.model.model_name_or_path,
        dtype=config.model.torch_dtype,
        attn_implementation=config.model.attn_implementation,
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        chat_template=config.data.chat_template,
    )


def _key(config: RejectConfig, asked: EvalSettings, examples: Sequence[Example], model_dir: Path) -> str:
    """Name everything that sampled answers and their rewards depend on."""
    parts = [(one.task, one.form, one.question, str(one.answer), _pictures(one)) for one in examples]
    settings = {
        "examples": hashlib.sha256(repr(parts).encode()).hexdigest(),
        "asked": dataclasses.asdict(asked),
        **{name: flatten(part) for name, part in (("rollout", config.rollout), ("reward", config.reward))},
        "data": [
            config.data.max_prompt_length,
            config.data.min_pixels,
            config.data.max_pixels,
            config.data.chat_template,
        ],
        "dtype": config.model.torch_dtype,
    }
    files = [entry for entry in model_dir.iterdir() if entry.suffix in (".json", ".jinja", ".safetensors")]
    return fingerprint(settings, [], sorted(files))


def _pictures(example: Example) -> list[str]:
    return [hashlib.sha256(one).hexdigest() if isinstance(one, bytes) else one for one in example.images]


# from samples to conversations ---------------------------------------------------------------------------------------


def write(config: RejectConfig, examples: Sequence[Example], rows: Sequence[Row], folder: Path) -> Path:
    """Score, choose and write; ValueError when nothing is good enough."""
    chosen = config.reject
    candidates = score(config, examples, rows, folder)
    good = above(candidates, chosen.threshold)
    different = distinct(good, chosen.max_per_prompt)
    if not different:
        best = max((one.score for one in candidates if one.score is not None), default=None)
        raise ValueError(
            f"none of {len(candidates)} answers scores above {chosen.threshold:g} (best: {best}); lower --threshold, "
            "sample more (--num_generations), or begin with a better model"
        )
    kept, warnings = balanced(different, read_quotas(chosen.domain_quota), chosen.max_domain_ratio, chosen.seed)
    for warning in warnings:
        log.warning("%s", warning)
    path = folder / "messages.jsonl"
    staged = path.with_name(path.name + ".tmp")
    with staged.open("w", encoding="utf-8") as file:
        for one in kept:
            line = conversation(config, examples[one.place[0]], rows[one.place[0]], one, path)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    os.replace(staged, path)
    summary = {
        "questions": len(rows),
        "questions_skipped": sum("skipped" in row for row in rows),
        "answers": len(candidates),
        "not_judged": sum(one.score is None for one in candidates),
        "above_threshold": len(good),
        "distinct": len(different),
        "kept": len(kept),
        "domains": {"before": _by_domain(different), "after": _by_domain(kept)},
        "score_by": config.score_by,
        "threshold": chosen.threshold,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _tell(summary, path)
    return path


def _by_domain(candidates: Sequence[Candidate]) -> dict[str, int]:
    return dict(Counter(one.domain for one in candidates).most_common())


def _tell(summary: dict[str, Any], path: Path) -> None:
    print(
        f"{summary['answers']} answers to {summary['questions'] - summary['questions_skipped']} questions "
        f"({summary['questions_skipped']} had too long a prompt), {summary['above_threshold']} above "
        f"{summary['threshold']:g} points, {summary['distinct']} after leaving out repetitions, {summary['kept']} kept:"
    )
    for name, num in summary["domains"]["after"].items():
        print(f"  {name}: {num} of {summary['domains']['before'][name]}")
    print(f"{path}: one epoch of `r1-mllm sft` is {summary['kept']} conversations")


def score(config: RejectConfig, examples: Sequence[Example], rows: Sequence[Row], folder: Path) -> list[Candidate]:
    """Every finished answer with its points; those a judge cannot save are not shown to it."""
    candidates = []
    weight = _sum_of_weights(config.reward)
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        question = repr((row["task"], row["form"], row["question"], _pictures(example)))
        for place, sample in enumerate(row["samples"]):
            usable = sample["finished"] and sample["model_output"].strip()
            if not usable or _PICTURE_MARK.search(sample["model_output"]):
                continue
            points = None if sample["reward"] is None else 100.0 * sample["reward"] / weight(sample["parts"])
            about = {"reward_score": points, "sample": place, "parts": sample["parts"], "correct": sample["correct"]}
            text, domain = sample["model_output"], _domain(config, example)
            candidates.append(Candidate(question, domain, text, points, sample["num_tokens"], (number, place), about))
    return candidates if config.score_by == "reward" else _judge(config, examples, candidates, folder)


def _sum_of_weights(reward: RewardConfig):
    """Largest total the rewards that apply can reach when each reaches 1."""
    weights = dict(zip(reward.reward_funcs, reward.reward_weights or (1.0,) * len(reward.reward_funcs), strict=True))
    return lambda parts: sum(weights[name] for name, value in parts.items() if value is not None) or 1.0


def _judge(
    config: RejectConfig, examples: Sequence[Example], candidates: Sequence[Candidate], folder: Path
) -> list[Candidate]:
    both = config.score_by == "both"
    hopeful = [one for one in candidates if not both or (one.score or 0.0) > config.reject.threshold]
    items = []
    for one in hopeful:
        example = examples[one.place[0]]
        items.append(Item(example.question, str(example.answer), one.text, example.images))
    verdicts = Judge(config.judge, folder / "judged.jsonl").scores(items, progress=True)
    found = {one.place: verdict.score for one, verdict in zip(hopeful, verdicts, strict=True)}
    judged = []
    for one in candidates:
        points = found.get(one.place)
        total = one.score if one.place not in found else points
        if both and points is not None:
            total = min(points, one.score)
        judged.append(dataclasses.replace(one, score=total, about={**one.about, "judge_score": points}))
    return judged


def _domain(config: RejectConfig, example: Example) -> str:
    if config.reject.domain == "file":
        return Path(str(example.meta.get("where", "")).rpartition(":")[0]).stem
    named = example.meta.get("data_source") if config.reject.domain == "data_source" else None
    return str(named or example.task)


def conversation(config: RejectConfig, example: Example, row: Row, one: Candidate, path: Path) -> Row:
    """One line of the file of conversations; its pictures are in place afterwards."""
    messages = [{"role": turn["role"], "content": _text(turn["content"])} for turn in row["messages"]]
    name = f"{one.place[0]:06d}"
    images = [placed(picture, f"{name}_{i}", path) for i, picture in enumerate(example.images)]
    judge = {"judge_model": config.judge.judge_model} if "judge_score" in one.about else {}
    provenance = {
        "score": one.score,
        "score_by": config.score_by,
        **one.about,
        **judge,
        "model": config.model.model_name_or_path,
        "seed": config.reject.seed,
        "temperature": config.rollout.temperature,
        "prompt_template": config.data.prompt_template or "built-in",
        "method": config.reject.method,
        "task": example.task,
        "form": example.form,
        "domain": one.domain,
        "source": row["where"],
        "ground_truth": row["ground_truth"],
        "input_size": row.get("input_size"),
    }
    return {
        "id": f"{row['id']}#{one.place[1]}",
        "messages": [*messages, {"role": "assistant", "content": one.text}],
        "images": images,
        "provenance": provenance,
    }


def _text(content: Any) -> str:
    """A turn as text, with a mark for each picture."""
    if isinstance(content, str):
        return content
    return "".join("<image>" if part["type"] == "image" else part["text"] for part in content)
