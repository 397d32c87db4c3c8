# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm COMMAND ...`, the same as `python -m r1_mllm COMMAND ...`.

Each command imports what it needs when it runs, so that help and the tools without a model answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import __version__, runtime
from .runtime import Stop

PROG = "r1-mllm"


DRY_RUN = "--dry_run: check settings, data, reward and memory, train nothing."


def _only_checked(command: str, argv: Sequence[str]) -> bool:
    """Do what --dry_run asks for; False when it is not there."""
    from .config.flags import take_switch

    asked, rest = take_switch(argv, "dry_run")
    if not asked:
        return False
    from .doctor.command import dry_run

    if _first_rank():
        dry_run(command, rest)
    return True


def _check_data(argv: Sequence[str]) -> None:
    from .doctor.command import check

    check(argv)


def _grpo(argv: Sequence[str]) -> None:
    from .config import GrpoConfig, flatten
    from .config.flags import parse

    if _only_checked("grpo", argv):
        return
    config = parse(GrpoConfig, argv, f"{PROG} grpo", f"Train Qwen2-VL or Qwen2.5-VL with GRPO.  {DRY_RUN}")
    runtime.require_paddle()
    runtime.check_device()
    if _first_rank():
        _print_settings(flatten(config), flatten(GrpoConfig()))
    from .training.grpo import train

    train(config)


def _sft(argv: Sequence[str]) -> None:
    from .config import SftConfig, flatten
    from .config.flags import parse

    if _only_checked("sft", argv):
        return
    config = parse(SftConfig, argv, f"{PROG} sft", f"Fine-tune Qwen2-VL or Qwen2.5-VL on conversations.  {DRY_RUN}")
    runtime.require_paddle()
    runtime.check_device()
    if _first_rank():
        _print_settings(flatten(config), flatten(SftConfig()))
    from .training.sft import train

    train(config)


def _export(argv: Sequence[str]) -> None:
    from .config.flags import parse
    from .config.lora import ExportConfig

    config = parse(ExportConfig, argv, f"{PROG} export", "Write a model folder for others.")
    runtime.require_paddle()
    from .training.export import export

    print(export(config))


def _chat(argv: Sequence[str]) -> None:
    from .config.chat import read

    config = read(argv, f"{PROG} chat")
    runtime.require_paddle()
    from .serving.chat import ask

    ask(config)


def _serve(argv: Sequence[str]) -> None:
    from .serving.command import main as serve

    serve(argv)


def _quickstart_sft(argv: Sequence[str]) -> None:
    from .quickstart.command import supervised

    supervised(argv)


def _quickstart_reject(argv: Sequence[str]) -> None:
    from .quickstart.command import rejection

    rejection(argv)


def _first_rank() -> bool:
    """Say whether this process speaks for all that Paddle's launcher started."""
    return os.environ.get("PADDLE_TRAINER_ID", "0") == "0"


def _print_settings(settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Show what was chosen; all settings are in the run's args.yaml."""
    chosen = [f"  {name}: {value}" for name, value in settings.items() if value != defaults[name]]
    print(f"settings other than the defaults (all: {settings['output_dir']}/args.yaml)", *chosen, sep="\n")


def _eval(argv: Sequence[str]) -> None:
    if _only_checked("eval", argv):
        return
    from .evaluation.command import main as evaluate

    evaluate("Evaluate a model on held-out data sets.", argv, prog=f"{PROG} eval")


def _passk(argv: Sequence[str]) -> None:
    from .evaluation.passk_command import main as passk

    passk(argv)


def _compare_results(argv: Sequence[str]) -> None:
    from .evaluation.compare import main as table

    table(argv)


def _reject(argv: Sequence[str]) -> None:
    from .rejection.command import main as reject

    reject(argv)


def _eval_math(argv: Sequence[str]) -> None:
    from .evaluation.math_eval import main as evaluate

    evaluate("Evaluate a model on mathematics: pass@1 over several sampled answers.", argv, prog=f"{PROG} eval math")


def _score(argv: Sequence[str]) -> None:
    from .evaluation.scoring import score_file

    parser = _parser("score", "Score recorded outputs (model_output, ground_truth) as the reward and evaluation do.")
    parser.add_argument("--task", required=True, help="rec, counting (count), geometry (math), ...")
    parser.add_argument("file", help="JSONL or JSON file")
    given = parser.parse_args(argv)
    print(json.dumps(score_file(given.task, given.file), ensure_ascii=False, indent=1))


def _synthesize(argv: Sequence[str]) -> None:
    from .data.synthetic.command import main as synthesize

    synthesize(argv)


def _prepare(argv: Sequence[str]) -> None:
    from .data.prepare import main as prepare

    prepare(argv)


def _convert(argv: Sequence[str]) -> None:
    from .data.convert import main as convert

    convert(argv)


def _messages(argv: Sequence[str]) -> None:
    from .data.lessons import main as write_messages

    write_messages(argv)


def _report(argv: Sequence[str]) -> None:
    from .report.page import write_reports

    parser = _parser("report", "Write a run's page: curves, accuracies before and after, completions; several compare.")
    parser.add_argument("run_dirs", nargs="+", metavar="run_dir", help="output_dir of a run")
    parser.add_argument("--out", default=None, help="HTML file; default: RUN_DIR/report.html; several: comparison.html")
    parser.add_argument("--png", action="store_true", help="also draw each run's curves as RUN_DIR/curves.png")
    parser.add_argument("--phrases", nargs="+", default=None, help="what counts as checking oneself; default: a list")
    given = parser.parse_args(argv)
    chosen = {} if given.phrases is None else {"phrases": given.phrases}
    print(write_reports(given.run_dirs, given.out, **chosen))
    if given.png:
        from .report.plots import write_plots

        for run_dir in given.run_dirs:
            print(write_plots(run_dir))


def _quickstart(argv: Sequence[str]) -> None:
    from .quickstart.command import main as quickstart

    quickstart(argv)


def _env(argv: Sequence[str]) -> None:
    from .environment import main as environment

    environment(argv)


def _bench(name: str) -> Callable[[Sequence[str]], None]:
    """Give the benchmark of that name."""

    def run(argv: Sequence[str]) -> None:
        from .bench import command

        getattr(command, name)(argv)

    return run


def _curriculum(argv: Sequence[str]) -> None:
    if _only_checked("curriculum", argv):
        return
    from .quickstart.curriculum import main as curriculum

    curriculum(argv)


def _curriculum_stage(argv: Sequence[str]) -> None:
    from .quickstart.curriculum import stage

    stage(argv)


def _compare(argv: Sequence[str]) -> None:
    from .quickstart.curriculum import compare

    compare(argv)


def _table(argv: Sequence[str]) -> None:
    from .report.curriculum import write_comparison

    parser = _parser("curriculum table", "Join what `curriculum compare` left for several seeds.")
    parser.add_argument("folder", help="folder with seed-N inside")
    for path in write_comparison(parser.parse_args(argv).folder):
        print(path)


@dataclass(frozen=True)
class Command:
    summary: str
    run: Callable[[Sequence[str]], None]
    module: str
    """What it imports, seen from this package."""


COMMANDS = {
    "grpo": Command("train with GRPO", _grpo, "training.grpo"),
    "sft": Command("fine-tune on conversations", _sft, "training.sft"),
    "export": Command("write a checkpoint or a merged adapter for others", _export, "training.export"),
    "serve": Command("answer chats over HTTP as OpenAI's API does", _serve, "serving.command"),
    "chat": Command("ask a model one question about pictures", _chat, "serving.chat"),
    "curriculum": Command("train in stages: judge, choice, open", _curriculum, "quickstart.curriculum"),
    "curriculum stage": Command("train one stage of a curriculum", _curriculum_stage, "quickstart.curriculum"),
    "curriculum compare": Command("a curriculum against open questions alone", _compare, "quickstart.curriculum"),
    "curriculum table": Command("join comparisons into a table and a curve", _table, "report.curriculum"),
    "eval": Command("evaluate a model on held-out data sets", _eval, "evaluation.command"),
    "passk": Command("pass@k of recorded or sampled answers", _passk, "evaluation.passk_command"),
    "table": Command("one table of several evaluations, with intervals", _compare_results, "evaluation.compare"),
    "reject": Command("keep good sampled answers for fine-tuning", _reject, "rejection.command"),
    "eval math": Command("pass@1 on mathematics, text or pictures", _eval_math, "evaluation.math_eval"),
    "score": Command("score recorded outputs", _score, "evaluation.scoring"),
    "data prepare": Command("download or unpack the data sets the scripts expect", _prepare, "data.prepare"),
    "data messages": Command("rows of any task as conversations for sft", _messages, "data.lessons"),
    "data check": Command("look at every row and picture, and try the reward", _check_data, "doctor.command"),
    "data convert": Command("to verl's parquet from any layout we read, and back", _convert, "data.convert"),
    "data synthesize": Command("render scenes with exact ground truth", _synthesize, "data.synthetic.command"),
    "report": Command("write a run's HTML report", _report, "report.page"),
    "env": Command("print versions, devices and memory, for bug reports", _env, "environment"),
    "bench step": Command("time whole GRPO steps", _bench("step"), "bench.command"),
    "bench rollout": Command("time sampling beside its floor", _bench("rollout"), "bench.command"),
    "bench forward": Command("time passes over packs beside their floor", _bench("forward"), "bench.command"),
    "bench load": Command("time loading a checkpoint, and its memory", _bench("load"), "bench.command"),
    "bench memory": Command("peak memory of sharded training", _bench("memory"), "bench.command"),
    "bench scaling": Command("a step's time on GPUs, on paper", _bench("scaling"), "bench.command"),
    "bench sizing": Command("memory a GRPO run would take per device", _bench("sizing"), "bench.command"),
    "bench rewards": Command("answers graded per second", _bench("rewards"), "bench.command"),
    "bench data": Command("pictures cut into patches per second", _bench("data"), "bench.command"),
    "bench compare": Command("ratios between the peer's timings and ours", _bench("compare"), "bench.command"),
    "quickstart": Command("the main job on rendered scenes, in minutes on a CPU", _quickstart, "quickstart.run"),
    "quickstart sft": Command("supervised fine-tuning on rendered scenes", _quickstart_sft, "quickstart.supervised"),
    "quickstart reject": Command("rejection fine-tuning on scenes", _quickstart_reject, "quickstart.rejection"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; wrong input ends with one message on stderr and the exit code that fits (runtime.py)."""
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO if _first_rank() else logging.ERROR)
    try:
        command, rest = _find(words)
        if command.run in _TOOLS:
            _run_tool(command, rest)
        else:
            command.run(rest)
        sys.stdout.flush()
    except (Stop, MemoryError) as error:
        stop = error if isinstance(error, Stop) else runtime.out_of_memory(error, words)
        print(f"{PROG}: error: {stop}", file=sys.stderr)
        raise SystemExit(stop.code) from None
    except BrokenPipeError:  # `r1-mllm ... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


_TOOLS = (_check_data, _score, _compare_results, _synthesize, _prepare, _convert, _messages, _report, _table)
"""Commands that only read and write files: what they refuse is the files' fault, and a traceback would not help."""


def _run_tool(command: Command, argv: Sequence[str]) -> None:
    try:
        command.run(argv)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        raise Stop(str(error), runtime.DATA) from error


def _find(words: list[str]) -> tuple[Command, list[str]]:
    """Take the command's one or two words off the line."""
    if not words or words[0] in ("-h", "--help", "help"):
        _print_help()
        raise SystemExit(0 if words else runtime.USAGE)
    if words[0] == "--version":
        print(f"{PROG} {__version__}")
        raise SystemExit(0)
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return COMMANDS[name], words[length:]
    inner = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if inner:
        asked_help = words[1:2] in (["-h"], ["--help"])
        print(f"usage: {PROG} {words[0]} {{{','.join(name.split()[1] for name in inner)}}} ...")
        for name in inner:
            print(f"  {name.split()[1]:12} {COMMANDS[name].summary}")
        raise SystemExit(0 if asked_help else runtime.USAGE)
    near = difflib.get_close_matches(words[0], [name.split()[0] for name in COMMANDS], n=1)
    raise Stop(f"no command {words[0]!r}" + (f"; did you mean {near[0]}?" if near else "; --help lists all"))


def _print_help() -> None:
    print(f"usage: {PROG} COMMAND ...\n\nGRPO for Qwen2-VL and Qwen2.5-VL in PaddlePaddle.\n")
    for name, command in COMMANDS.items():
        print(f"  {name:16} {command.summary}")
    print(f"\n{PROG} COMMAND --help lists a command's flags.")


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"{PROG} {command}", description=description, allow_abbrev=False)


if __name__ == "__main__":
    main()
