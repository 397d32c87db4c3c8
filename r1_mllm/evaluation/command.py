# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm eval` and the scripts in eval/: data sets in, one results file per data set out."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .. import runtime
from ..answers import boxes, tags
from ..config import EvalConfig, RewardConfig
from ..config.flags import parse
from ..data.mixture.pictures import PictureRoot
from ..data.read import rows, splits
from ..records import Example
from ..tasks import ALIASES, TASKS, get_task, named_task
from ..tasks.templates import Templates, load_templates
from . import checkpoints, choosing, domains, metrics, shards
from .evaluate import EvalResult, EvalSettings, answer_blocks, summarise
from .partial import fingerprint, finished_with
from .shards import SharedRows, Team

SUFFIXES = (".json", ".jsonl", ".parquet")
MAX_LISTED = 10
"""Complaints of a kind that an error spells out."""
LABELS = (
    *("model_name", "steps", "results_name", "logs_dir", "batch_size", "overwrite"),
    *("test_datasets", "data_root", "task_list", "domain"),
    *("checkpoints", "ood_datasets", "eval_sets", "num_processes"),
)
"""Settings that change no row."""
Config, Result = TypeVar("Config"), TypeVar("Result")


@dataclass(frozen=True)
class DataSet:
    """One data set, ready to be asked."""

    name: str
    path: Path
    task: str
    examples: Sequence[Example]
    num_rows: int
    """Rows of the file, of which `examples` are a draw."""
    domain: str | None = None
    """in or out, where that is known."""
    settings: EvalConfig | None = None
    """Its own settings; None: the evaluation's."""


def main(
    description: str, argv: Sequence[str] | None = None, words: Sequence[str] = (), prog: str | None = None
) -> None:
    """Run a script of eval/ or `r1-mllm eval`; wrong input ends it with one message instead of a traceback.

    Args:
        argv: what was typed; None reads it from the process.
        words: flags that stand before those typed, which win.
        prog: what the help calls the program; None: the name of the script.
    """
    call(run, EvalConfig, description, argv, words, prog)


def call(
    job: Callable[[Config], Result],
    kind: type[Config],
    description: str,
    argv: Sequence[str] | None = None,
    words: Sequence[str] = (),
    prog: str | None = None,
) -> Result:
    """Read a command line into settings of a kind and do the job with them; the other arguments as those of `main`."""
    typed = list(sys.argv[1:] if argv is None else argv)
    try:
        return job(parse(kind, [*words, *typed], prog=prog or Path(sys.argv[0]).name, description=description))
    except runtime.Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
        sys.exit(stop.code)


def run(config: EvalConfig) -> list[EvalResult]:
    """Evaluate every data set of the configuration, in order; the results are also on disk."""
    if config.model_path is None and config.checkpoints is None:
        raise runtime.Stop("--model_path MODEL is missing (or --checkpoints RUN for every checkpoint of a run)")
    try:
        found, templates = load_sets(config), load_templates(config.prompt_template)
        choosing.check_names([data_set.name for data_set in found])
    except ValueError as error:
        raise runtime.Stop(str(error), runtime.DATA) from error
    runs = [config] if config.checkpoints is None else checkpoints.runs(config)
    if config.overwrite:
        shards.forget([results_path(settings, data_set) for settings in runs for data_set in found])
        runs = [dataclasses.replace(settings, overwrite=False) for settings in runs]
    told = dataclasses.replace(config, num_processes=1, overwrite=False)
    with shards.start(config.num_processes, "eval", told, Path(config.logs_dir)) as team:
        return _evaluate_runs(config, runs, found, templates, team)


def _evaluate_runs(
    config: EvalConfig, runs: Sequence[EvalConfig], sets: Sequence[DataSet], templates: Templates, team: Team
) -> list[EvalResult]:
    """Evaluate one model or each checkpoint of a run; the table of checkpoints grows with every one of them."""
    results: list[EvalResult] = []
    reached: list[checkpoints.Reached] = []
    for settings in runs:
        try:
            model_dir = find_model(settings)
        except (ValueError, OSError) as error:
            raise runtime.Stop(str(error), runtime.MODEL) from error
        found = evaluate_sets(settings, sets, templates, model_dir, team)
        results += found
        if config.checkpoints is not None and found:
            reached += [
                checkpoints.Reached(settings, data_set.name, data_set.domain, data_set.task, result)
                for data_set, result in zip(sets, found, strict=True)
            ]
            table, picture = checkpoints.write(config, reached)
            print(f"{table} and {picture} go up to step {settings.steps}")
    return results


def load_sets(config: EvalConfig) -> list[DataSet]:
    """Every data set of the configuration, in-domain ones first where that is told."""
    if not (config.eval_sets or config.ood_datasets):
        return _load_named_sets(config)
    found = []
    for choice in choosing.chosen_sets(config):
        settings = choice.settings(config)
        loaded = load_set(choice.path, settings)
        name = choice.name or loaded.name
        found.append(dataclasses.replace(loaded, name=name, domain=choice.domain, settings=settings))
    return found


def _load_named_sets(config: EvalConfig) -> list[DataSet]:
    """The sets of test_datasets or task_list, each with its own picture folder where several are given."""
    names = domains.names(config.task_list, config.domain) or config.test_datasets
    roots = config.image_root.split(":") if config.image_root else [None]
    if len(roots) == 1:
        roots *= len(names)
    if len(roots) != len(names):
        raise ValueError(f"--image_root names {len(roots)} folders for {len(names)} data sets: {', '.join(names)}")
    pairs = zip(names, roots, strict=True)
    return [load_set(name, dataclasses.replace(config, image_root=root)) for name, root in pairs]


def load_set(name: str, config: EvalConfig) -> DataSet:
    """Draw the rows of one data set and turn them into examples whose pictures exist."""
    path = find_data(name, config.data_root)
    table = list(rows(path, held_out_split(path)))
    if not table:
        raise ValueError(f"{path} has no rows")
    known = domains.SETS.get(name) if config.task_list else None
    task = known.task if known else config.task or guess_task([row for row, _ in table])
    drawn = draw(table, config.sample_num, config.seed)
    root = PictureRoot(config.image_root or path.parent, config.allow_outside_image_root)
    examples, complaints = [], []
    for row, where in drawn:
        example = get_task(task).example(domains.resized(row, where) if config.resized_images else row, where)
        images, wrong = root.find(example.images)
        examples.append(dataclasses.replace(example, images=images))
        complaints.extend(f"{where}: {complaint}" for complaint in wrong)
    if complaints:
        listed = "".join(f"\n  {complaint}" for complaint in complaints[:MAX_LISTED])
        more = f"\n  ... and {len(complaints) - MAX_LISTED} more" if len(complaints) > MAX_LISTED else ""
        raise ValueError(
            f"{path}: {len(complaints)} pictures cannot be used; check --image_root {root.root}, "
            f"or get them with `r1-mllm data prepare`:{listed}{more}"
        )
    name = Path(name).stem if Path(name).suffix in SUFFIXES else name
    return DataSet(name, path, task, examples, len(table), domains.DOMAINS.get(name))


def find_data(name: str, data_root: str) -> Path:
    """The file or folder of a data set: a path as given, or NAME, NAME.json, .jsonl or .parquet under `data_root`."""
    if Path(name).suffix in SUFFIXES and Path(name).exists():
        return Path(name)
    candidates = [Path(data_root) / f"{name}{suffix}" for suffix in ("", *SUFFIXES)]
    if name in domains.SETS:
        candidates += [Path(data_root) / domains.SETS[name].folder / f"{name}{suffix}" for suffix in SUFFIXES]
    for path in candidates:
        if path.exists():
            return path
    raise ValueError(
        f"data set {name!r} is not there: none of {', '.join(str(path) for path in candidates[1:])} exists; check "
        "--data_root and --test_datasets, or get it with `r1-mllm data prepare`"
    )


def held_out_split(path: Path) -> str | None:
    """The split of a folder that is meant for evaluation; None where there is nothing to choose."""
    names = splits(path)
    found = [name for name in ("test", "validation", "val", "dev") if name in names]
    if len(names) > 1 and not found:
        raise ValueError(f"{path}: none of its splits ({', '.join(names)}) is called test, validation, val or dev")
    return found[0] if found else None


def guess_task(table: Sequence[dict[str, Any]]) -> str:
    """Tell what the rows ask for: what they name, an option, a box, a whole number, or anything that can be written."""
    answers = [row.get("solution", row.get("ground_truth")) for row in table]
    named = {named_task(row) for row in table}
    if any(isinstance(row.get("accu_reward_method"), str) for row in table) and len(named) > 1:
        raise ValueError(f"the rows name several tasks ({', '.join(map(str, sorted(named, key=str)))}); give --task")
    if len(named) == 1 and named <= {*TASKS, *ALIASES}:
        return get_task(named.pop()).name
    if all("correct_answer" in row or "choices" in row for row in table):
        return "spatial"
    if all(boxes.gold_box(answer) is not None for answer in answers):
        return "rec"
    whole = all(isinstance(a, int) or (isinstance(a, str) and tags.unwrap(a).isdecimal()) for a in answers)
    return "counting" if whole else "geometry"


def draw(table: Sequence[Any], num: int, seed: int) -> list[Any]:
    """The first `num` after a seeded shuffle; all in file order when there are no more than that, or `num` is 0."""
    if num < 0:
        raise ValueError(f"--sample_num {num} is negative; 0 takes all rows")
    if num == 0 or num >= len(table):
        return list(table)
    shuffled = list(table)
    random.Random(seed).shuffle(shuffled)
    return shuffled[:num]


def find_model(config: EvalConfig) -> Path:
    """The checkpoint's folder, downloaded if `model_path` is a hub id."""
    runtime.require_paddle()
    from ..models.weights import resolve  # after require_paddle(): Paddle reads its environment when it loads

    return Path(resolve(config.model_path))


def evaluate_sets(
    config: EvalConfig, sets: Sequence[DataSet], templates: Templates, model_dir: Path, team: Team
) -> list[EvalResult]:
    """Answer what is not answered yet, write one results file per data set and print the accuracies.

    Processes other than the first answer their share and return nothing.
    """
    loaded = None
    results = []
    for data_set in sets:
        path = results_path(config, data_set)
        settings = settings_of(config, data_set)
        key = set_fingerprint(settings, data_set, templates, model_dir)
        print(f"{data_set.name}: {len(data_set.examples)} of {data_set.num_rows} rows, task {data_set.task}")
        done = finished_with(path, key)
        if done is not None:
            print(f"{path} has these results already; --overwrite answers again")
            results.append(summarise(done["results"]))
            continue
        shared = SharedRows(path, key, len(data_set.examples), config.batch_size, team)
        loaded = loaded or _load(model_dir, config)
        _answer_share(settings, data_set, templates, loaded, shared)
        if team.rank == 0:
            results.append(_collect(settings, data_set, loaded.dtype, shared))
    if team.rank != 0:
        return []
    for data_set, result in zip(sets, results, strict=True):
        low, high = result.interval
        print(f"Accuracy of {data_set.name}: {result.accuracy:.2f}% ({result.num} rows, 95% {low:.2f} to {high:.2f})")
        if further := metrics.shown(metrics.extra(data_set.task, result.rows)):
            print(f"  {further}")
    return results


def _load(model_dir: Path, config: EvalConfig) -> Any:
    runtime.prepare()
    from .load import load  # after prepare(): Paddle reads its environment when it loads

    try:
        return load(model_dir, config)
    except ValueError as error:
        raise runtime.Stop(str(error), runtime.MODEL) from error


def set_fingerprint(settings: EvalConfig, data_set: DataSet, templates: Templates, model_dir: Path, **more: Any) -> str:
    """Name everything the rows of a data set depend on; `more` are settings of another command."""
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in LABELS}
    return fingerprint(
        {"task": data_set.task, **kept, "templates": templates, **more},
        [data_set.path] if data_set.path.is_file() else [],
        sorted(entry for entry in model_dir.iterdir() if entry.suffix in (".json", ".jinja", ".safetensors")),
    )


def settings_of(config: EvalConfig, data_set: DataSet) -> EvalConfig:
    """The evaluation's settings with what the data set has of its own."""
    if data_set.settings is None:
        return config
    return dataclasses.replace(config, **{name: getattr(data_set.settings, name) for name in choosing.OVERRIDES})


def _answer_share(config: EvalConfig, data_set: DataSet, templates: Templates, loaded: Any, shared: SharedRows) -> None:
    """Answer and grade this process's examples; rows are kept as they come."""
    if shared.known:
        print(f"{len(shared.known)} rows are answered already; going on from there")
    asked = EvalSettings.of(config, templates)
    limits = RewardConfig(iou_threshold=config.iou_threshold)
    try:
        answer_blocks(
            loaded.engine,
            loaded.processor,
            data_set.examples,
            shared.missing(),
            asked,
            shared.add,
            limits,
            progress=True,
        )
    except ValueError as error:  # a picture or text that cannot be used; the rows before it are kept
        raise runtime.Stop(str(error), runtime.DATA) from error


def _collect(config: EvalConfig, data_set: DataSet, dtype: str, shared: SharedRows) -> EvalResult:
    """Write the results file once every row is there."""
    result = summarise(shared.gather())
    about = {"dataset": data_set.name, "domain": data_set.domain, "task": data_set.task, "dtype": dtype}
    about["metrics"] = metrics.extra(data_set.task, result.rows)
    result.write(shared.path, **about, settings=dataclasses.asdict(config), fingerprint=shared.key)
    shared.remove()
    print(f"Results saved to {shared.path}")
    return result


def results_path(config: EvalConfig, data_set: DataSet) -> Path:
    """LOGS/rec_results_DATASET_MODEL_METHOD_STEPS.json with the model's label in lower case."""
    label = (config.model_name or Path(config.model_path).name).lower().replace("/", "_")
    first = (domains.label(data_set.name) if config.task_list else None) or config.results_name
    first = first or f"{data_set.task}_results"
    return Path(config.logs_dir) / f"{first}_{data_set.name}_{label}_{config.method}_{config.steps}.json"
