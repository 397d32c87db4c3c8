# SPDX-License-Identifier: Apache-2.0
"""A model card (README.md with the front matter hubs read) from what a run left in its folder; no path of the machine
gets in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from .intervals import paired_difference
from .run_files import RunFiles, read_run

TOLD = (
    *("task", "dataset_name", "loss_type", "beta", "reward_funcs", "reward_weights", "num_generations"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "max_steps"),
    *("num_train_epochs", "max_completion_length", "temperature", "use_peft", "lora_r", "lora_alpha", "seed"),
)
"""Settings that say how a model came about."""
MEASURED = ("reward", "kl", "entropy", "completions/mean_length", "grad_norm", "loss")


def write_card(out: Path, base: str, dtype: str, run: Path | None) -> Path:
    """Write OUT/README.md.

    Args:
        base: folder or hub id the run or the merge started from.
        dtype: of the weights.
        run: folder of the run; None, or a folder without its files: the card says that nothing was measured.
    """
    found = _read(run)
    settings = _settings(found, run)
    about = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["r1_mllm", "grpo" if "loss_type" in settings else "sft"],
    }
    if hub := _hub_id(settings.get("model_name_or_path")) or _hub_id(base):
        about["base_model"] = hub
    lines = ["---", yaml.safe_dump(about, sort_keys=False).rstrip(), "---", "", f"# {out.resolve().name}", ""]
    started = _shown(settings.get("model_name_or_path") or base)
    lines += [f"Started from {started}; weights in {dtype}, in the layout transformers and vLLM read.", ""]
    lines += [*_results(found), *_training(found), *_chosen(settings)]
    path = out / "README.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def run_of(folder: Path) -> Path | None:
    """Find the run that a checkpoint belongs to: the folder itself or the one above; None when neither is one."""
    for candidate in (folder, folder.resolve().parent):
        if (candidate / "args.yaml").is_file() or (candidate / "metrics.jsonl").is_file():
            return candidate
    return None


def _read(run: Path | None) -> RunFiles | None:
    try:
        return None if run is None else read_run(run)
    except ValueError:  # a run that measured nothing has a card without numbers
        return None


def _settings(found: RunFiles | None, run: Path | None) -> Mapping[str, Any]:
    text = found.settings if found else ""
    if not text and run is not None and (run / "args.yaml").is_file():
        text = (run / "args.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def _results(found: RunFiles | None) -> Iterator[str]:
    results = [] if found is None else [("before", found.before), ("after", found.after)]
    results = [(name, result) for name, result in results if result is not None]
    if not results:
        yield from ("No evaluation was recorded.", "")
        return
    yield from ("## Evaluation", "", "| | accuracy | 95 % interval | rows |", "|---|---|---|---|")
    for name, result in results:
        low, high = result["interval"]
        step = f" (step {result['step']})" if "step" in result else ""
        yield f"| {name}{step} | {result['accuracy']:.2f} % | {low:.2f} to {high:.2f} | {result['num']} |"
    yield ""
    if len(results) == 2 and (pairs := _pairs(found)):
        mean, low, high = (100 * value for value in paired_difference(*pairs))
        interval = f"95 % interval {low:+.2f} to {high:+.2f}"
        found_out = f"{mean:+.2f} points, {interval}" if pairs[0] != pairs[1] else "none, no verdict changed"
        yield f"Difference on the same {len(pairs[0])} rows: {found_out}."
        yield ""


def _pairs(found: RunFiles) -> tuple[list[float], list[float]] | None:
    before = {row["id"]: row["correct"] for row in found.before["results"]}
    after = {row["id"]: row["correct"] for row in found.after["results"]}
    common = [key for key in before if key in after]
    return ([before[key] for key in common], [after[key] for key in common]) if common else None


def _training(found: RunFiles | None) -> Iterator[str]:
    if found is None or not found.metrics:
        return
    yield from ("## Training", "", "| metric | first logged | last logged |", "|---|---|---|")
    names = [*MEASURED, *found.names("rewards/", "/mean")]
    for name in names:
        points = found.series(name)
        if points:
            shown = name if "/" not in name.removeprefix("rewards/").removesuffix("/mean") else _bare(name)
            (first, start), (last, end) = points[0], points[-1]
            yield f"| {shown} | {start:.4g} (step {first:.0f}) | {end:.4g} (step {last:.0f}) |"
    yield ""


def _bare(name: str) -> str:
    """A metric's name without the folders of a reward's file."""
    head, _, rest = name.partition("/")
    middle, _, tail = rest.rpartition("/")
    return f"{head}/{PurePath(middle).name}/{tail}" if middle.startswith(("/", ".")) else name


def _chosen(settings: Mapping[str, Any]) -> Iterator[str]:
    told = {name: _plain(settings[name]) for name in TOLD if settings.get(name) not in (None, [], "")}
    if told:
        yield from ("## Settings", "", "```yaml", yaml.safe_dump(told, sort_keys=False).rstrip(), "```", "")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _shown(value) if isinstance(value, str) and "/" in value else value


def _shown(name: str) -> str:
    """A hub id as it is, the last part of a path."""
    return _hub_id(name) or PurePath(name).name


def _hub_id(name: Any) -> str | None:
    if not isinstance(name, str) or name.count("/") != 1 or name.startswith((".", "/", "~")) or Path(name).exists():
        return None
    return name
