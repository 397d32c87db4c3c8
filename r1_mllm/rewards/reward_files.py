# SPDX-License-Identifier: Apache-2.0
"""Reward functions as people have written them for other trainers, called with what a group holds.

| parameters of the function | whose | called | returns |
|---|---|---|---|
| group [, config] | ours | once per group | G numbers |
| completions and/or prompts, columns by name, **kwargs | TRL | once per group | G numbers |
| data_source, solution_str, ground_truth, extra_info | verl | per completion | a number, or a dict with `score` |
| reward_inputs | EasyR1 (batch) | once per group | G dicts with `overall` |
| reward_input | EasyR1 (sequential) | per completion | a dict with `overall` |
| predict_str or predicts with ground_truth(s) | older EasyR1 and verl | either | numbers or dicts |

Any of them may be `async`.  None stands for "cannot judge".  The further numbers of a dict are kept as parts for the
logs.  A completion is a list of one message, as TRL gives those of chats; a function with the attribute
`text_completions = True`, or a file with that variable, gets texts.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOTALS = ("overall", "score", "reward")
"""What a dict calls the reward; the first one there counts."""
EACH = ("solution_str", "reward_input", "predict_str", "predict", "response")
"""Parameters that hold one completion: the function is called for each."""
BATCHES = ("reward_inputs", "predicts", "predict_strs", "responses")


@dataclass
class Scores:
    """What a function gave for a group."""

    values: Any
    """G numbers or None; whatever else the function returned stays as it is, for the caller to refuse."""
    parts: dict[str, list[float | None]] = field(default_factory=dict)
    """Further numbers by name, G each."""


def adapt(function: Callable) -> Callable[[Any, Any], Scores]:
    """Make a function of (group, config) out of one with any known parameters; ValueError names others."""
    names = tuple(inspect.signature(function).parameters)
    kind = style(function)
    if kind == "ours":
        call = _ours(function, len(names) >= 2)
    elif kind == "trl":
        call = _trl(function)
    elif kind == "each":
        call = _each(function)
    else:
        call = _batch(function)
    return lambda group, config: _scores(call(group, config), len(group.completions))


def style(function: Callable) -> str:
    """Tell by its parameters how a function is to be called: ours, trl, each or batch."""
    parameters = inspect.signature(function).parameters
    if "completions" in parameters or "prompts" in parameters:
        return "trl"
    if any(name in parameters for name in BATCHES):
        return "batch"
    if any(name in parameters for name in EACH):
        return "each"
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, *_BY_POSITION)]
    if 1 <= len(needed) <= 2 or (not needed and any(p.kind is p.VAR_POSITIONAL for p in parameters.values())):
        return "ours"
    raise ValueError(
        f"a reward function takes (group), (group, config), TRL's (completions, ...), verl's (data_source, "
        f"solution_str, ground_truth, extra_info) or EasyR1's (reward_inputs); this one takes "
        f"({', '.join(parameters)})"
    )


_BY_POSITION = (inspect.Parameter.POSITIONAL_OR_KEYWORD,)


def _ours(function: Callable, takes_config: bool) -> Callable[[Any, Any], Any]:
    return lambda group, config: _settled(function(group, config) if takes_config else function(group))


def _trl(function: Callable) -> Callable[[Any, Any], Any]:
    texts_wanted = _wants_texts(function)

    def call(group: Any, config: Any) -> Any:
        texts = [done.text for done in group.completions]
        num = len(texts)
        extra: dict[str, list] = {}
        given = {name: [value] * num for name, value in columns(group.example).items()}
        given |= {
            "prompts": [group.prompt.text if texts_wanted else _asked(group)] * num,
            "completions": texts if texts_wanted else [[{"role": "assistant", "content": text}] for text in texts],
            "completion_ids": [[int(token) for token in done.ids] for done in group.completions],
            "trainer_state": None,
            "log_metric": lambda name, value: extra.update({name: [value] * num}),
            "log_extra": lambda name, values: None,
        }
        values = _settled(function(**_accepted(function, given)))
        return Scores(values, extra) if extra else values

    return call


def _each(function: Callable) -> Callable[[Any, Any], Any]:
    def call(group: Any, config: Any) -> list[Any]:
        shared = _gold(group)
        results = []
        for done in group.completions:
            given = {**shared, **dict.fromkeys(EACH, done.text), "reward_input": _reward_input(group, done, shared)}
            results.append(function(**_accepted(function, given)))
        return _settled_all(results)

    return call


def _batch(function: Callable) -> Callable[[Any, Any], Any]:
    def call(group: Any, config: Any) -> Any:
        shared, num = _gold(group), len(group.completions)
        texts = [done.text for done in group.completions]
        given = {
            **{f"{name}s": [value] * num for name, value in shared.items()},
            "extra_infos": [shared["extra_info"]] * num,
            "solution_strs": texts,
            **dict.fromkeys(BATCHES, texts),
            "reward_inputs": [_reward_input(group, done, shared) for done in group.completions],
        }
        return _settled(function(**_accepted(function, given)))

    return call


def columns(example: Any) -> dict[str, Any]:
    """A row's fields as data sets name them: what was not used otherwise, the question and the answer."""
    answer = plain(example.answer)
    own = {
        "problem": example.question,
        "question": example.question,
        "solution": answer,
        "answer": answer,
        "ground_truth": answer,
        "image": example.images[0] if example.images else None,
        "images": list(example.images),
        "task": example.task,
    }
    return {**own, **{str(name): value for name, value in example.meta.items()}}


def plain(value: Any) -> Any:
    """An answer as JSON has it: tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def _gold(group: Any) -> dict[str, Any]:
    """What verl and EasyR1 hand to every call."""
    example = group.example
    answer = plain(example.answer)
    meta = example.meta
    told = {name: value for name, value in columns(example).items() if name not in ("image", "images")}
    extra = meta.get("extra_info")
    return {
        "data_source": meta.get("data_source", example.task),
        "ground_truth": answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False),
        "extra_info": {**told, **extra} if isinstance(extra, Mapping) else told,
    }


def _reward_input(group: Any, done: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **shared["extra_info"],
        "prompt": group.prompt.text,
        "response": done.text,
        "response_length": len(done.ids),
        "ground_truth": shared["ground_truth"],
        "data_source": shared["data_source"],
    }


def _asked(group: Any) -> list[dict[str, str]]:
    """The question as TRL gives the prompts of chats."""
    return [{"role": "user", "content": group.example.question}]


def _wants_texts(function: Callable) -> bool:
    inner = inspect.unwrap(function)
    around = getattr(inner, "__globals__", {})
    return bool(vars(inner).get("text_completions", around.get("text_completions", False)))


def _accepted(function: Callable, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments a function has parameters for, or all when it takes any; ValueError when one is missing."""
    parameters = inspect.signature(function).parameters
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in given
    ]
    if missing:
        known = ", ".join(sorted(given))
        raise ValueError(f"the reward function wants {', '.join(missing)}, which the rows do not have; known: {known}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        hidden = {"log_metric", "log_extra"} - set(parameters)
        return {name: value for name, value in given.items() if name not in hidden}
    return {name: value for name, value in given.items() if name in parameters}


def _settled(result: Any) -> Any:
    """Wait for an async function's result."""
    return asyncio.run(_wait(result)) if inspect.isawaitable(result) else result


def _settled_all(results: list[Any]) -> list[Any]:
    """Wait for all that are not there yet, side by side."""
    if not any(inspect.isawaitable(result) for result in results):
        return results

    async def together() -> list[Any]:
        return list(await asyncio.gather(*(_wait(result) for result in results)))

    return asyncio.run(together())


async def _wait(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _scores(result: Any, num: int) -> Scores:
    """Tell rewards and parts apart."""
    if isinstance(result, Scores):
        return result
    listed = isinstance(result, Sequence) and not isinstance(result, str | bytes)
    if isinstance(result, Mapping):
        return _of_lists(result, num)
    if not listed or not any(isinstance(item, Mapping) for item in result):
        return Scores([_first(item) for item in result] if listed else result)
    parts: dict[str, list[float | None]] = {}
    values: list[Any] = []
    for i, item in enumerate(result):
        if not isinstance(item, Mapping):
            values.append(_first(item))
            continue
        total = _total(item)
        values.append(item[total])
        for name, value in item.items():
            if name != total and isinstance(value, bool | int | float):
                parts.setdefault(str(name), [None] * len(result))[i] = float(value)
    return Scores(values, parts)


def _of_lists(result: Mapping[str, Any], num: int) -> Scores:
    """A dict of lists, as some batch functions return."""
    total = _total(result)
    lists = {name: value for name, value in result.items() if isinstance(value, Sequence) and len(value) == num}
    return Scores(result[total], {str(name): list(value) for name, value in lists.items() if name != total})


def _total(item: Mapping[str, Any]) -> str:
    found = next((name for name in TOTALS if name in item), None)
    if found is None:
        raise ValueError(f"the reward function returned a dict without {' or '.join(TOTALS)}: {sorted(map(str, item))}")
    return found


def _first(item: Any) -> Any:
    """The reward of a (reward, ...) tuple, which some of verl's functions return."""
    return item[0] if isinstance(item, tuple) and item else item
