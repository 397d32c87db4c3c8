# SPDX-License-Identifier: Apache-2.0
"""Look at every row and every picture of a data set: what is broken, long, twice there, or in the test set, too."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..config import DataConfig
from ..data.mixture.loading import LoadReport, ReadRow, load_examples
from ..data.mixture.overlap import overlap, repeated
from ..data.mixture.quarantine import Problem, line
from ..processing.image import open_image
from ..records import Example

NUM_LISTED = 5
BAR = 40
"""Characters of the longest bar of a histogram."""

Length = Callable[[Example], int]
"""Tokens of an example's prompt."""


@dataclass
class Scan:
    """What one data set holds."""

    name: str
    examples: list[Example]
    """In order, and not longer than allowed."""
    report: LoadReport
    lengths: list[int] = field(default_factory=list)
    """Prompt tokens of all readable examples, too long ones included; empty without a tokenizer."""
    num_dropped: int = 0
    """Examples whose prompt is too long."""
    most: int | None = None
    """Prompt tokens allowed."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(width, height) px of every picture that could be decoded."""
    repeats: list[tuple[str, str, bool]] = field(default_factory=list)
    """(place, earlier place, whether the answers agree) of rows that ask the same of the same pictures."""

    @property
    def problems(self) -> Sequence[Problem]:
        """Rows and pictures that cannot be used."""
        return self.report.problems


def scan(
    data: DataConfig,
    split: str = "train",
    length: Length | None = None,
    limit: int | None = None,
    read_row: ReadRow = None,
    num_workers: int = 4,
) -> Scan:
    """Read a split whole, decode every picture once, and count.

    Args:
        length: counts prompt tokens; None: no tokenizer is at hand.  limit: the most allowed.
        num_workers: threads that decode pictures.

    Raises:
        ValueError: a data set that cannot be read at all.
    """
    name = data.dataset_name if split == "train" else data.eval_dataset_name or data.dataset_name
    data = dataclasses.replace(data, data_policy="quarantine", max_bad="100%")
    try:
        found, report = load_examples(data, split, None, None, read_row)
    except ValueError as error:
        if "no example left" not in str(error):
            raise
        found, report = _nothing_left(data, split, read_row)
    broken, sizes = _decode(found, num_workers)
    whole = [example for example in found if not broken.keys() & _names(example)]
    for example in found:
        for picture in sorted(broken.keys() & _names(example)):
            report.problems.append(Problem(name, example.meta["where"], "image", broken[picture]))
    result = Scan(name, whole, report, most=limit, sizes=sizes)
    if length is not None:
        _measure(result, length)
    result.repeats = repeated(result.examples)
    return result


def _nothing_left(data: DataConfig, split: str, read_row: ReadRow) -> tuple[list[Example], LoadReport]:
    """Find out why no row was in order."""
    try:
        load_examples(dataclasses.replace(data, data_policy="strict"), split, None, None, read_row)
    except ValueError as error:
        return [], LoadReport(problems=[Problem(data.dataset_name, data.dataset_name, "row", str(error))])
    raise AssertionError("strict loading found nothing wrong")


def _names(example: Example) -> set[str]:
    return {picture for picture in example.images if isinstance(picture, str)}


def _decode(examples: Iterable[Example], num_workers: int) -> tuple[dict[str, str], list[tuple[int, int]]]:
    """Decode each file once; give what is wrong by path, and the sizes of the others."""
    paths = sorted({path for example in examples for path in _names(example)})

    def opened(path: str) -> tuple[int, int] | str:
        try:
            return open_image(path).size
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        found = dict(zip(paths, pool.map(opened, paths), strict=True))
    broken = {path: result for path, result in found.items() if isinstance(result, str)}
    return broken, [result for result in found.values() if not isinstance(result, str)]


def _measure(result: Scan, length: Length) -> None:
    kept = []
    for example in result.examples:
        try:
            tokens = length(example)
        except ValueError as error:
            result.report.problems.append(Problem(result.name, example.meta["where"], "row", str(error)))
            continue
        result.lengths.append(tokens)
        if result.most is None or tokens <= result.most:
            kept.append(example)
        else:
            result.num_dropped += 1
    result.examples = kept


def describe(found: Scan) -> list[str]:
    """Write a scan as lines of text."""
    lines = [f"{found.name}:"]
    for count in found.report.datasets:
        lines.append(f"  {count.name}: {count.num_rows} rows, {count.num_taken} chosen, {count.num_kept} readable")
    kinds = Counter((example.task, example.form) for example in found.examples)
    for (task, form), num in sorted(kinds.items()):
        lines.append(f"  {num} examples of task {task}, form {form}")
    lines += _problem_lines(found.problems) + _picture_lines(found.sizes)
    if found.lengths:
        lines += _length_lines(found)
    return lines + _repeat_lines(found)


def _problem_lines(problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return ["  no bad row, no missing or unreadable picture"]
    kinds = Counter(problem.field for problem in problems)
    lines = [f"  BAD: {kinds['row']} bad rows, {kinds['image']} missing or unreadable pictures"]
    lines += [f"    {line(problem)}" for problem in problems[:NUM_LISTED]]
    return lines + _more(len(problems))


def _picture_lines(sizes: Sequence[tuple[int, int]]) -> list[str]:
    if not sizes:
        return []
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    shown = ", ".join(
        f"{word} {width}x{height}"
        for word, (width, height) in (
            ("smallest", by_area[0]),
            ("median", by_area[len(by_area) // 2]),
            ("largest", by_area[-1]),
        )
    )
    return [f"  {len(sizes)} picture files, each decoded: {shown} px"]


def _length_lines(found: Scan) -> list[str]:
    ordered = sorted(found.lengths)
    middle, late = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
    lines = [f"  prompt tokens: {ordered[0]} to {ordered[-1]}, median {middle}, 95 % up to {late}", *histogram(ordered)]
    if found.most is not None:
        share = 100 * found.num_dropped / len(ordered)
        lines.append(f"  dropped for more than {found.most} prompt tokens: {found.num_dropped} ({share:.1f} %)")
    return lines


def histogram(lengths: Sequence[int], num_bins: int = 8) -> list[str]:
    """Draw bars of equally wide bins."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // num_bins))
    counts = Counter((length - low) // width for length in lengths)
    top = max(counts.values())
    lines = []
    for i_bin in range((high - low) // width + 1):
        first, num = low + i_bin * width, counts[i_bin]
        bar = "#" * (-(-BAR * num // top))
        lines.append(f"    {first:6d} to {first + width - 1:6d} {num:7d} {bar}".rstrip())
    return lines


def _repeat_lines(found: Scan) -> list[str]:
    if not found.repeats:
        return ["  no question is asked twice of the same picture"]
    differ = sum(not agrees for _, _, agrees in found.repeats)
    lines = [f"  {len(found.repeats)} rows repeat an earlier one, {differ} of them with another answer"]
    chosen = sorted(found.repeats, key=lambda repeat: repeat[2])[:NUM_LISTED]
    for place, earlier, agrees in chosen:
        lines.append(f"    {place} asks the same as {earlier}" + ("" if agrees else ", ANOTHER ANSWER"))
    return lines + _more(len(found.repeats))


def shared(first: Scan, second: Scan) -> list[str]:
    """Say which rows of two data sets ask the same of the same pictures, compared by content."""
    pairs = overlap(first.examples, second.examples)
    head = f"{len(pairs)} rows of {second.name} are also in {first.name} (same question, same pictures by content)"
    if not pairs:
        return [head]
    return [f"BAD: {head}", *(f"    {theirs} is {mine}" for mine, theirs in pairs[:NUM_LISTED]), *_more(len(pairs))]


def _more(num: int) -> list[str]:
    return [f"    and {num - NUM_LISTED} more"] if num > NUM_LISTED else []
