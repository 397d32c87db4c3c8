# SPDX-License-Identifier: Apache-2.0
"""CV-Bench: accuracy per category, per type and in total, for a model or for answers that are already there.

Answering is `r1-mllm eval`'s (batched, resumable); this module adds the categories and writes the results file with the
keys of VisualThinker-R1-Zero's evaluation.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import runtime
from ..config import EvalConfig
from ..data.read import rows
from ..records import Grade
from ..report.intervals import wilson
from ..tasks.spatial import CATEGORIES, Spatial
from . import command

PATTERNS = ("test*.parquet", "data/test*.parquet", "test*.json", "test*.jsonl")
TOTAL = "Total Accuracy:"
SOURCES_2D, SOURCE_3D = ("ADE20K", "COCO"), "Omni3D"


@dataclass(frozen=True)
class CvBenchConfig:
    """CV-Bench: which model, how it is asked, and where the results go."""

    model_path: str | None = None
    """Checkpoint folder or hub id; not needed with --precomputed_json."""
    bs: int = 8
    """Questions answered together."""
    output_dir: str = "results"
    """Folder of the results files."""
    precomputed_json: str | None = None
    """A results file (or list of its rows) whose `response`s are graded again; no model is loaded."""
    use_reasoning_prompt: bool = True
    """Ask for thinking and an answer in tags, and read the answer there; otherwise ask for the option alone."""
    data_root: str = "data/CV-Bench"
    """Folder with test_2d.parquet and test_3d.parquet (scripts/prepare_sat.sh), or one file."""
    model_name: str | None = None
    """Label in the name of the results file; None: the last part of model_path."""
    chat_template: str | None = None
    """None: the checkpoint's own; else generic, dialogue, r1_zero or a .jinja file."""
    prompt_template: str | None = None
    """YAML file that replaces the built-in prompts."""
    max_new_tokens: int = 1024
    """Tokens of an answer; longer ones are cut."""
    sample_num: int = 0
    """Rows per file, drawn with `seed`; 0 takes all."""
    seed: int = 42
    """Draws the rows that sample_num takes."""
    min_pixels: int | None = None
    """Lower limit of a picture's area in pixels after resizing; None: the checkpoint's preprocessor_config."""
    max_pixels: int | None = None
    """Upper limit of a picture's area in pixels after resizing; None: the checkpoint's preprocessor_config."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 on a GPU that has it; a CPU computes in float32."""
    attn_implementation: Literal["auto", "flash_attention_2", "eager"] = "auto"
    """As in training: auto and flash_attention_2 use flash kernels where GPU and dtype allow; eager never does."""
    overwrite: bool = False
    """Answer every row again even if results of the same arguments are there."""

    @property
    def method(self) -> str:
        """The prompt's name: r1 or baseline."""
        return "r1" if self.use_reasoning_prompt else "baseline"

    @property
    def label(self) -> str:
        """What the results file is named after."""
        return self.model_name or Path(self.model_path or self.precomputed_json).stem


def main(description: str, argv: Sequence[str] | None = None) -> None:
    """Run eval/test_cvbench.py; wrong input ends it with one message instead of a traceback."""
    path = command.call(run, CvBenchConfig, description, argv)
    if path is not None:
        print(f"Results saved to {path}")


def run(config: CvBenchConfig) -> Path | None:
    """Answer (or read) and grade, print the accuracies and write the results file; None on ranks that only helped."""
    if (config.model_path is None) == (config.precomputed_json is None):
        raise runtime.Stop("give either --model_path MODEL or --precomputed_json FILE")
    if config.chat_template == "r1_zero" and not config.use_reasoning_prompt:
        raise runtime.Stop("r1_zero opens the thinking; with --no-use_reasoning_prompt use --chat_template dialogue")
    try:
        graded = _regraded(config) if config.precomputed_json else _answered(config)
    except ValueError as error:
        raise runtime.Stop(str(error), runtime.DATA) from error
    if not graded:
        return None
    content = summary(graded)
    for name, value in content["accuracy"].items():
        if value is not None:
            low, high = content["interval"][name]
            print(f"{name.rstrip(':')}: {value:.2f}% ({content['num'][name]} rows, 95% {low:.2f} to {high:.2f})")
    kind = "reasoning" if config.use_reasoning_prompt else "no_reasoning"
    path = Path(config.output_dir) / f"CVBench_result_{config.label}_{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".tmp")
    text = json.dumps({**content, "args": dataclasses.asdict(config), "results": graded}, ensure_ascii=False, indent=2)
    staged.write_text(text + "\n", encoding="utf-8")
    os.replace(staged, path)
    return path


def summary(graded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy, Wilson interval (95 %) and number of rows by category, type and source, in percent.

    A category, type or source without rows has accuracy None.  `cv_bench` is the mean the data set's card defines: half
    Omni3D, a quarter ADE20K, a quarter COCO; None when one of them is absent.
    """
    verdicts: dict[str, list[int]] = defaultdict(list)
    sources: dict[str, list[int]] = defaultdict(list)
    for row in graded:
        verdicts[TOTAL].append(row["correct"])
        verdicts[f"{row['task']}_acc"].append(row["correct"])
        verdicts[f"{row['type']}_acc"].append(row["correct"])
        if row.get("source"):
            sources[row["source"]].append(row["correct"])
    names = [TOTAL, *(f"{name}_acc" for name in (*CATEGORIES, "2D", "3D"))]
    by_source = {name: _percent(found) for name, found in sorted(sources.items())}
    parts = [by_source.get(name) for name in (*SOURCES_2D, SOURCE_3D)]
    mean = None if None in parts else (parts[0] + parts[1]) / 4 + parts[2] / 2
    return {
        "accuracy": {name: _percent(verdicts[name]) for name in names},
        "interval": {name: [100 * edge for edge in wilson(sum(verdicts[name]), len(verdicts[name]))] for name in names},
        "num": {name: len(verdicts[name]) for name in names},
        "by_source": by_source,
        "cv_bench": mean,
    }


def _percent(verdicts: Sequence[int]) -> float | None:
    return 100 * sum(verdicts) / len(verdicts) if verdicts else None


def files(data_root: str) -> list[Path]:
    """The files of the benchmark under a folder, or the file itself."""
    root = Path(data_root)
    if root.is_file():
        return [root]
    found = next((paths for pattern in PATTERNS if (paths := sorted(root.glob(pattern)))), [])
    if not found:
        raise ValueError(
            f"{root}: no {PATTERNS[0]} there; get CV-Bench with scripts/prepare_sat.sh, or see --data_root"
        )
    return found


def _answered(config: CvBenchConfig) -> list[dict[str, Any]]:
    """Let the model answer; the rows of every file in its order."""
    paths = files(config.data_root)
    evaluated = command.run(_eval_config(config, paths))
    if not evaluated:
        return []
    graded = []
    for path, result in zip(paths, evaluated, strict=True):
        asked = {row.get("id", where): row for row, where in rows(path)}
        graded += [_result(asked[answer["id"]], answer) for answer in result.rows]
    return graded


def _eval_config(config: CvBenchConfig, paths: Sequence[Path]) -> EvalConfig:
    shared = ("model_path", "seed", "sample_num", "max_new_tokens", "chat_template", "prompt_template", "overwrite")
    shared += ("min_pixels", "max_pixels", "dtype", "attn_implementation", "method")
    return EvalConfig(
        **{name: getattr(config, name) for name in shared},
        model_name=config.label,
        test_datasets=tuple(str(path) for path in paths),
        task=Spatial.name,
        results_name="CVBench_answers",
        logs_dir=str(Path(config.output_dir) / "answers"),
        batch_size=config.bs,
    )


def _result(row: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the results file, from the benchmark's row and the evaluation's."""
    task = _category(row, answer["id"])
    return {
        "question": row["question"],
        "options": list(row["choices"]),
        "task": task,
        "ground_truth": row["answer"],
        "response": answer["model_output"],
        "model_answer": answer["extracted_answer"],
        "correct": answer["correct"],
        "id": answer["id"],
        "type": CATEGORIES[task],
        "source": row.get("source"),
        "decided_by": answer["decided_by"],
        "finished": answer["finished"],
    }


def _regraded(config: CvBenchConfig) -> list[dict[str, Any]]:
    """Grade the responses of an earlier results file again, every one of them."""
    path = Path(config.precomputed_json)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error})") from error
    listed = content.get("results") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{path}: no rows; expected a list, or an object with `results`")
    return [_graded_again(row, f"{path}: result {number}", config.method) for number, row in enumerate(listed, start=1)]


def _graded_again(row: Mapping[str, Any], where: str, method: str) -> dict[str, Any]:
    missing = [name for name in ("question", "options", "task", "ground_truth", "response") if row.get(name) is None]
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)}")
    task, spatial = _category(row, where), Spatial()
    columns = {"question": row["question"], "choices": row["options"], "answer": row["ground_truth"]}
    grade: Grade = spatial.grade(str(row["response"]), spatial.example(columns, where), method=method)
    found = {"model_answer": grade.extracted, "correct": int(grade.correct), "decided_by": grade.decided_by}
    return {**row, **found, "task": task, "type": CATEGORIES[task]}


def _category(row: Mapping[str, Any], where: str) -> str:
    task = str(row.get("task")).strip().capitalize()
    if task not in CATEGORIES:
        raise ValueError(f"{where}: task {row.get('task')!r} is none of {', '.join(CATEGORIES)}")
    return task
