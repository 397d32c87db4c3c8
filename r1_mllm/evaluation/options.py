# SPDX-License-Identifier: Apache-2.0
"""Flags of eval/test_rec.py and eval/test_r1-v.py: the fields of EvalConfig under the names people already type."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..config import EvalConfig

HELP = {
    "model_path": "checkpoint folder or hub id; tokenizer and picture limits come from here too",
    "model_name": "label in the name of the results file",
    "data_root": "folder of the data sets",
    "image_root": "folder the rows' image paths start from",
    "test_datasets": "names under data_root without suffix, or paths of files",
    "task": "rec, counting, geometry ...; default: what the rows look like",
    "results_name": "first part of the results file's name",
    "logs_dir": "folder of the results files",
    "batch_size": "questions answered together",
    "sample_num": "rows to take, drawn with --seed when there are more; 0 takes all",
    "steps": "label in the name of the results file",
    "method": "r1 asks for thinking and an answer in tags; baseline asks an untrained model",
    "seed": "seed of the draw",
    "dtype": "auto is bfloat16 on a GPU and float32 on a CPU; float16 for V100",
    "attn_implementation": "attention of the GPU path",
    "max_new_tokens": "longest answer, in tokens",
    "min_pixels": "lower limit of a picture's area; default: the checkpoint's",
    "max_pixels": "upper limit of a picture's area; default: the checkpoint's",
    "iou_threshold": "a box is right above this IoU",
    "prompt_template": "YAML file that replaces the built-in prompts",
    "system_prompt": "system message before the question",
    "overwrite": "answer every row again",
}
CHOICES = {
    "method": ("r1", "baseline"),
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "attn_implementation": ("auto", "flash_attention_2", "eager"),
}
REQUIRED = ("model_name", "model_path", "data_root", "image_root")
FLOATS = ("iou_threshold",)


class _Parser(argparse.ArgumentParser):
    """argparse that answers an unknown flag with the nearest known one."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        flags = [word.split("=")[0] for word in unknown if word.startswith("--")]
        if flags:
            near = difflib.get_close_matches(flags[0], list(self._option_string_actions), n=1)
            self.error(f"unknown flag {flags[0]}" + (f"; did you mean {near[0]}?" if near else ""))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


def parse(description: str, argv: Sequence[str] | None = None, **defaults: Any) -> EvalConfig:
    """Read the flags; a flag given twice counts the last time, and hyphens may stand for underscores.

    Args:
        argv: the words after the script's name; None reads those of the process.
        defaults: what this script sets otherwise than EvalConfig.
    """
    parser = _Parser(
        description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for field in dataclasses.fields(EvalConfig):
        default = defaults.get(field.name, None if field.default is dataclasses.MISSING else field.default)
        _add(parser, field.name, default)
    words = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    found = vars(parser.parse_args(words))
    return EvalConfig(**{**found, "test_datasets": tuple(found["test_datasets"])})


def _add(parser: argparse.ArgumentParser, name: str, default: Any) -> None:
    flag, told = f"--{name}", HELP[name]
    if name == "test_datasets":
        parser.add_argument(flag, nargs="+", default=default, help=told)
    elif isinstance(default, bool):
        parser.add_argument(flag, nargs="?", const=True, type=_truth, default=default, help=told)
    elif name in REQUIRED:
        parser.add_argument(flag, required=True, default=argparse.SUPPRESS, help=told)
    else:
        numbers = float if name in FLOATS else int
        kind = numbers if isinstance(default, int | float) or name.endswith("_pixels") else str
        parser.add_argument(flag, type=kind, choices=CHOICES.get(name), default=default, help=told)


def _underscored(word: str) -> str:
    """`--test-datasets=a-b` as `--test_datasets=a-b`."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word[2:].partition("=")
    return "--" + flag.replace("-", "_") + equals + value


def _truth(word: str) -> bool:
    if word.lower() in ("true", "1", "yes"):
        return True
    if word.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
