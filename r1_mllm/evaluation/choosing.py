# SPDX-License-Identifier: Apache-2.0
"""Which data sets an evaluation asks: names on the command line, or a file that tells in-domain and other sets apart.

in_domain:
  - name: counting                  # in tables and file names; default: the file's name
    path: data/counting/test.json   # or a name under --data_root
    task: counting                  # these four default to the flags of the same name
    image_root: data/counting
    sample_num: 500
    method: r1
out_of_domain:
  - path: data/superclevr.jsonl
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from ..config import EvalConfig
from ..data.mixture.recipe import check_keys

Domain = Literal["in", "out"]
DOMAINS: dict[str, Domain] = {"in_domain": "in", "out_of_domain": "out"}
OVERRIDES = ("task", "image_root", "sample_num", "method")


@dataclass(frozen=True)
class SetChoice:
    """A data set to ask, and what is asked of it in its own way."""

    path: str
    """A file, or a name under data_root."""
    domain: Domain = "in"
    name: str | None = None
    overrides: tuple[tuple[str, Any], ...] = ()
    """Fields of EvalConfig and their values."""

    def settings(self, config: EvalConfig) -> EvalConfig:
        """The evaluation's settings as this set has them."""
        return dataclasses.replace(config, **dict(self.overrides))


def chosen_sets(config: EvalConfig) -> list[SetChoice]:
    """Every set of the configuration, in-domain ones first; ValueError names what is wrong with the file."""
    if config.eval_sets is not None:
        found = read_sets(Path(config.eval_sets))
        found += [SetChoice(name, "out") for name in config.ood_datasets]
    else:
        found = [SetChoice(name) for name in config.test_datasets]
        found += [SetChoice(name, "out") for name in config.ood_datasets]
    return sorted(found, key=lambda choice: choice.domain)


def check_names(names: Sequence[str]) -> None:
    """Two sets of one name would write the same results file: ValueError."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"data sets {', '.join(map(repr, twice))} are there twice; give each its own `name` (--eval_sets)"
        )


def read_sets(path: Path) -> list[SetChoice]:
    """Sets of a YAML file of the layout above."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--eval_sets {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not any(content.values()):
        raise ValueError(f"--eval_sets {path}: needs a list of sets under in_domain, out_of_domain or both")
    check_keys(content, tuple(DOMAINS), str(path))
    found = []
    for title, entries in content.items():
        if not isinstance(entries or [], list):
            raise ValueError(f"--eval_sets {path}: {title} is not a list")
        for number, entry in enumerate(entries or [], start=1):
            found.append(_choice(entry, f"{path}: {title}, entry {number}", DOMAINS[title]))
    return found


def _choice(entry: Any, where: str, domain: Domain) -> SetChoice:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise ValueError(f"{where} has no path")
    check_keys(entry, ("name", "path", *OVERRIDES), where)
    hints = get_type_hints(EvalConfig)
    given = []
    for field in OVERRIDES:
        if field not in entry:
            continue
        kinds = [kind for kind in get_args(hints[field]) or (hints[field],)]
        value = entry[field]
        fits = value in kinds or any(isinstance(kind, type) and isinstance(value, kind) for kind in kinds)
        if not fits or isinstance(value, bool):
            raise ValueError(f"{where}: {field} {value!r} is none of {', '.join(map(str, kinds))}")
        given.append((field, value))
    return SetChoice(entry["path"], domain, entry.get("name"), tuple(given))
