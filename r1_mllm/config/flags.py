# SPDX-License-Identifier: Apache-2.0
"""Command lines as people type them, turned into settings.

`--name value`, `--name=value`, hyphens or underscores; switches with or without a value; lists by spaces; a flag given
twice counts the last time; `--config FILE.yaml` stands for the flags it lists, before those typed.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from ..runtime import USAGE, Stop
from .legacy_flags import LEGACY, RENAMED, VALUES, sharding_of
from .settings import flatten

Config = TypeVar("Config")
Given = dict[str, list[str]]
"""Flag name -> the words after it; the last time it was given."""

TRUE = {"true", "1", "yes", "on", "t", "y"}
FALSE = {"false", "0", "no", "off", "f", "n"}
_MARKERS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff)


class _TextLoader(yaml.SafeLoader):
    """YAML whose scalars stay the text that was typed (PyYAML would read 1e-6 as a string but 1.0e-6 as a number)."""


_TextLoader.yaml_implicit_resolvers = {
    first: kept
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [rule for rule in rules if rule[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")])
}


def parse(cls: type[Config], argv: Sequence[str], prog: str, description: str | None = None) -> Config:
    """Return an instance of the dataclass (its components' fields are flags of the same level).

    Wrong input ends the program with one message and exit code 64; `--help` prints every flag and ends with 0.
    Flags of other programs that mean nothing here say so on stderr.  `--dry_run` prints every setting with its value
    and where that is from, and ends with 0.
    """
    only_shown, argv = take_switch(argv, "dry_run")
    kinds, typed = leaf_types(cls), argv
    if not {"-h", "--help"} & set(argv):
        given = _with_config_file(split(argv, kinds), kinds)
        if "deepspeed" in given:
            words = sharding_of(given.pop("deepspeed"))
            given |= {"sharding": words} if words else {}
        argv = _canonical(given, kinds)
    else:
        argv = ["--help"]
    try:
        made = tyro.cli(cls, prog=prog, description=description, args=argv, config=_MARKERS, use_underscores=True)
    except ValueError as error:
        raise Stop(str(error)) from error
    except SystemExit as ended:
        raise SystemExit(USAGE if ended.code else 0) from None
    if only_shown:
        print(*described(made, origins(cls, typed)), sep="\n")
        raise SystemExit(0)
    return made


def described(config: Any, origins: Mapping[str, str]) -> list[str]:
    """List every setting with its value and where that comes from, those given first."""
    values = flatten(config)
    names = sorted(values, key=lambda name: origins.get(name, "default") == "default")
    width = max(map(len, names))
    shown = {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    lines = [f"  {name:{width}} {shown[name]}  [{origins.get(name, 'default')}]" for name in names]
    return ["settings (value [where it comes from])", *lines]


def origins(cls: type, argv: Sequence[str]) -> dict[str, str]:
    """Say where each setting's value is from: "default", the YAML file's name or "flag"."""
    kinds = leaf_types(cls)
    typed = split(argv, kinds)
    files = typed.pop("config", None)
    listed = split(_file_argv(Path(files[0]), kinds), kinds) if files else {}
    found = {name: "flag" if name in typed else files[0] if name in listed else "default" for name in kinds}
    if "deepspeed" in typed:
        found["sharding"] = f"flag --deepspeed {' '.join(typed['deepspeed'])}"
    return found


def take_switch(argv: Sequence[str], name: str) -> tuple[bool, list[str]]:
    """Take a switch that is no setting off a command line: (whether it is on, the other words)."""
    on, rest = False, []
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, has_value, value = word.partition("=")
        if not flag.startswith("--") or flag[2:].replace("-", "_") != name:
            rest.append(word)
            continue
        given = [value] if has_value else [words.pop(0)] if words and words[0].lower() in TRUE | FALSE else []
        on = _switch(name, given) == "True"
    return on, rest


def leaf_types(cls: type) -> dict[str, Any]:
    """Return flag name -> type for a dataclass, its components' fields included."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        kind = hints[entry.name]
        if dataclasses.is_dataclass(kind):
            found.update(leaf_types(kind))
        else:
            found[entry.name] = kind
    return found


def split(argv: Iterable[str], kinds: dict[str, Any]) -> Given:
    """Group a command line by flag; names are spelled with underscores and known, or legacy ones."""
    given: Given = {}
    current: list[str] | None = None
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            name, has_value, value = word[2:].partition("=")
            name, values = _known(name.replace("-", "_"), kinds)
            current = values + ([value] if has_value else [])
            given.pop(name, None)
            given[name] = current
        elif current is None:
            hydra = re.match(r"\+?[\w.]+=", word)
            cure = "docs/migration.md says which flags verl's and EasyR1's keys are here" if hydra else ""
            raise Stop(f"unexpected argument {word!r}; flags start with --" + (f"; {cure}" if cure else ""))
        else:
            current.append(word)
    return given


def _known(name: str, kinds: dict[str, Any]) -> tuple[str, list[str]]:
    """Return our name for a flag and the value its spelling implies; an unknown one is an error with a suggestion."""
    if name not in kinds and RENAMED.get(name) in kinds:
        name = RENAMED[name]
    if name in kinds or name == "config" or name in LEGACY:
        return name, []
    if name.startswith("no_") and kinds.get(name[3:]) is bool:
        return name[3:], ["False"]
    near = difflib.get_close_matches(name, [*kinds, *LEGACY, *RENAMED], n=1, cutoff=0.6)
    raise Stop(f"unknown flag --{name}" + (f"; did you mean --{near[0]}?" if near else "; --help lists all"))


def _with_config_file(given: Given, kinds: dict[str, Any]) -> Given:
    """Put the flags of --config FILE before those typed."""
    files = given.pop("config", None)
    if files is None:
        return given
    if len(files) != 1:
        raise Stop("--config takes one YAML file")
    return {**split(_file_argv(Path(files[0]), kinds), kinds), **given}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of settings; scalars stay text."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextLoader) or {}
    except OSError as error:
        raise Stop(f"--config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Stop(f"--config {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise Stop(f"--config {path}: expected lines `name: value`")
    return content


def refuse_unknown(content: Iterable[str], known: Sequence[str], where: str) -> None:
    """Stop at a key that is none of those known, with the nearest one."""
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise Stop(f"{where}: unknown key {key!r}; {hint}")


def _file_argv(path: Path, kinds: dict[str, Any]) -> list[str]:
    """Spell a YAML file as a command line; an `env` mapping goes to the environment instead."""
    content = read_yaml(path)
    environment = content.pop("env", None) or {}
    if not isinstance(environment, dict):
        raise Stop(f"--config {path}: env must hold lines `NAME: value`, not {environment!r}")
    os.environ.update({str(name): str(value) for name, value in environment.items()})
    argv: list[str] = []
    for name, value in content.items():
        if isinstance(value, dict):  # a component's name with its fields below
            argv += [word for pair in value.items() for word in spell(*pair)]
        else:
            argv += spell(name, value)
    return argv


def spell(name: str, value: Any) -> list[str]:
    """Write one setting as words; the first value is attached, so that it may begin with dashes."""
    words = ["None" if item is None else str(item) for item in (value if isinstance(value, list) else [value])]
    return [f"--{name}={words[0]}", *words[1:]] if words else [f"--{name}"]


def _canonical(given: Given, kinds: dict[str, Any]) -> list[str]:
    """Spell the flags as tyro takes them; print what happens to those of other programs."""
    argv: list[str] = []
    for name, words in given.items():
        if name not in kinds:
            _explain(name, words)
            continue
        words = [VALUES.get((name, word.lower()), word) for word in words]
        if kinds[name] is bool:
            words = [_switch(name, words)]
        elif _is_list(kinds[name]):
            argv += [f"--{name}", *_list_words(words)]
            continue
        elif len(words) != 1:
            raise Stop(f"--{name} takes one value, got {len(words)}" + (f": {' '.join(words)}" if words else ""))
        argv.append(f"--{name}={words[0]}")
    return argv


def _explain(name: str, words: list[str]) -> None:
    """Say what a legacy flag does here; refuse a value that asks for what is not there."""
    legacy = LEGACY[name]
    value = " ".join(words)
    if legacy.harmless is not None and (value.lower() or "true") not in legacy.harmless:
        raise Stop(f"--{name} {value}".rstrip() + f": not supported; {legacy.says}")
    print(f"note: --{name} {value}".rstrip() + f": {legacy.says}", file=sys.stderr)


def _switch(name: str, words: list[str]) -> str:
    """Read a switch: nothing means on."""
    word = words[-1].lower() if words else "true"
    if len(words) > 1 or word not in TRUE | FALSE:
        raise Stop(f"--{name} is a switch: expected true or false, got {' '.join(words)!r}")
    return str(word in TRUE)


def _is_list(kind: Any) -> bool:
    """Say whether a type is a tuple of any length, optional or not."""
    return any(typing.get_origin(part) is tuple for part in (kind, *typing.get_args(kind)))


def _list_words(words: list[str]) -> list[str]:
    """Split values given with commas instead of spaces (`visualdl,wandb`), as other programs take them."""
    return [part for word in words for part in word.split(",") if part]
