# SPDX-License-Identifier: Apache-2.0
"""Break one line of a numerical module at a time: `python tests/mutants.py [WORD]` says which breaks no test notices.

Each mutant is a copy of the package with one line changed; the tests named beside it must turn red.  WORD chooses the
mutants whose file or text holds it.  Exit code 1 when one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
REWARDS = "tests/rewards/test_rewards.py"
ADVANTAGES, POLICY = "tests/objectives/test_advantages.py", "tests/objectives/test_policy.py"
CONFORMANCE = "tests/training/test_conformance.py"
LORA, ANSWERS = "tests/models/test_lora.py", "tests/processing/test_conversation.py"
COLLECT = "tests/training/test_collect.py"
PASSK, SHARDS = "tests/evaluation/test_passk.py", "tests/evaluation/test_shards.py"
READING, REFERENCE = "tests/training/test_reading.py", "tests/training/test_reference.py"
CHOOSE, REJECT = "tests/rejection/test_choose.py", "tests/rejection/test_command.py"
TILES, TURNING = "tests/models/test_tiles.py", "tests/models/test_turning.py"


class Mutant(NamedTuple):
    """A file of the package, a text that stands in it once, what replaces it, and the tests that must notice."""

    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant("objectives/advantages.py", "np.maximum(count - 1, 1))\n", "np.maximum(count, 1))\n", ADVANTAGES),
    Mutant("objectives/advantages.py", "low <= SAME * size", "low < 0", ADVANTAGES),
    Mutant("objectives/advantages.py", "centred * count /", "centred *", ADVANTAGES),
    Mutant("rewards/__init__.py", "np.nansum(parts * weights", "np.sum(parts * weights", ADVANTAGES),
    Mutant("objectives/policy.py", "objective = paddle.minimum(", "objective = paddle.maximum(", POLICY),
    Mutant("objectives/policy.py", "1.0 - low, 1.0 + high)", "1.0 - high, 1.0 + low)", POLICY),
    Mutant("objectives/policy.py", "paddle.maximum(objective, config", "paddle.minimum(objective, config", POLICY),
    Mutant("training/reference.py", "mixed = alpha * new", "mixed = (1.0 - alpha) * new", REFERENCE),
    Mutant("training/reference.py", "step % objective.ref_model_sync_steps", "step < 2", REFERENCE),
    Mutant("training/collect.py", "lacking = collectives.gather_objects(wanted - len(mixed))",
           "lacking = collectives.gather_objects(wanted if len(mixed) < wanted else 0)", COLLECT),
    Mutant("training/collect.py", "rollout.groups = mixed +", "rollout.groups = mixed[:1] +", COLLECT),
    Mutant("training/collect.py", "training.steps_per_rollout == 1", "training.steps_per_rollout >= 1", READING),
    Mutant("models/reading.py", "if known is None else known + leaf.grad", "", READING),
    Mutant("models/attention.py", "Part(a, b, group.prompt, True)", "Part(a, b, group.prompt - 1, True)", READING),
    Mutant("models/trace.py", "np.lexsort((rows, tokens))", "np.lexsort((tokens, rows))", READING),
    Mutant("models/trace.py", "grad_middle.add_(grad)", "grad", READING),
    Mutant("models/trace.py", "grad_x.add_(grad_middle)", "grad_x", READING),
    Mutant("models/trace.py", "num_prompt:], -1, in_place", "num_prompt:], 1, in_place", READING),
    Mutant("rollout/trace_loops.py", "slot * width + first", "slot * width", READING),
    Mutant("rollout/cache.py", "keys[:, begin // block :]", "keys", "tests/rollout/test_host_step.py"),
    Mutant("rollout/host_loops.py", "if live[row] != row:", "if live[row] < row:", "tests/rollout/test_host_step.py"),
    Mutant("tasks/math_boxed.py", "return -1.0 if grade", "return 0.0 if grade", "tests/tasks/test_scorers.py"),
    Mutant("tasks/math_boxed.py", "(1.0 - config.format_weight) *", "1.0 *", "tests/tasks/test_scorers.py"),
    Mutant("tasks/rows.py", "max(num_images, len(numbers)) if", "num_images if", "tests/data/test_convert.py"),
    Mutant("report/intervals.py", "n * (n - 1) * mean", "n * n * n * mean", "tests/report/test_intervals.py"),
    Mutant("objectives/policy.py", "paddle.exp(log_ratio.detach())", "paddle.exp(log_ratio)", POLICY),
    Mutant("objectives/policy.py", "value + config.beta * kl", "value - config.beta * kl", POLICY),
    Mutant("objectives/policy.py", "paddle.where(mask, logp - old,", "paddle.where(mask, old - logp,", POLICY),
    Mutant("objectives/policy.py", "np.maximum(row_lengths(batch), 1) * counts", "counts", POLICY),
    Mutant("objectives/kl.py", "paddle.where(mask, ref_logp - logp,", "paddle.where(mask, logp - ref_logp,", POLICY),
    Mutant("objectives/kl.py", "paddle.exp(log_ratio) - log_ratio", "paddle.exp(log_ratio) + log_ratio", POLICY),
    Mutant("data/pack.py", "prompt.next_position + offsets", "offsets", "tests/data/test_pack.py"),
    Mutant("data/pack.py", "start + total, ends", "ends[0], ends", "tests/data/test_pack.py"),
    Mutant("data/pack.py", "finished or not mask_truncated", "finished or mask_truncated", "tests/data/test_pack.py"),
    Mutant("data/stream.py", "self._epoch + 1, 0", "self._epoch + 1, 1", "tests/data/test_stream.py"),
    Mutant("data/stream.py", "key=[seed % 2**64, epoch]", "key=[seed % 2**64, 0]", "tests/data/test_stream.py"),
    Mutant("records.py", "(1000, 1000)\n        scale_x, scale_y = self", "(999, 999)\n        scale_x, scale_y = self",
           "tests/test_conformance.py"),
    Mutant("answers/options.py", "(None, NO_OPTION) if contradicted else", "", "tests/tasks/test_spatial.py"),
    Mutant("answers/options.py", "if _NEGATION.search(said):", "if not said:", "tests/tasks/test_spatial.py"),
    Mutant("tasks/spatial.py", "repr((place, row", "repr((row", "tests/tasks/test_spatial.py"),
    Mutant("data/synthetic/spatial.py", "words[sizes[0] < sizes[1]]", "words[sizes[0] > sizes[1]]",
           "tests/data/test_synthetic_spatial.py"),
    Mutant("rollout/engine.py", "text = opening + self", "text = self", "tests/processing/test_opened_thinking.py"),
    Mutant("rewards/__init__.py", "len(done.ids) * done.finished", "len(done.text) * done.finished",
           "tests/golden/test_own_lengths.py"),
    Mutant("rewards/__init__.py", "len(done.ids) * done.finished", "len(done.ids)", "tests/golden/test_own_lengths.py"),
    Mutant("report/self_checks.py", "free = n - lost + 1", "free = n", "tests/report/test_self_checks.py"),
    Mutant("report/self_checks.py", "value - means[group] for", "value for", "tests/report/test_self_checks.py"),
    Mutant("evaluation/cvbench.py", "/ 4 + parts[2] / 2", "/ 3 + parts[2] / 3", "tests/evaluation/test_cvbench.py"),
    Mutant("answers/boxes.py", "area_a + area_b - common", "area_a + area_b", "tests/answers/test_boxes.py"),
    Mutant("answers/detections.py", ">= threshold > 0", "> threshold > 0", "tests/golden/test_own_rewards.py"),
    Mutant("answers/detections.py", "len(gold) / len(predicted)) if", "len(predicted) / len(gold)) if",
           "tests/answers/test_detections.py"),
    Mutant("answers/detections.py", "(missed + false) / 2", "(missed + false)", "tests/answers/test_detections.py"),
    Mutant("answers/average_precision.py", "judge.params.areaRng, judge", "judge.params.ranges, judge",
           "tests/answers/test_average_precision.py"),
    Mutant("evaluation/metrics.py", "100 * 2 * common / total", "100 * common / total",
           "tests/evaluation/test_metrics.py"),
    Mutant("evaluation/domains.py", '"solution": box}', "}", "tests/evaluation/test_domains.py"),
    Mutant("tasks/rec.py", "overlap > config", "overlap >= config", "tests/tasks/test_tasks.py"),
    Mutant("rewards/__init__.py", "np.isnan(parts).all(axis=-1)", "np.isnan(parts).any(axis=-1)", REWARDS),
    Mutant("rewards/__init__.py", "-np.clip(over", "np.clip(over", REWARDS),
    Mutant("processing/positions.py", "int(block.max()) + 1", "int(block.max())", "tests/processing/test_positions.py"),
    Mutant("processing/image.py", "(values + 128) // 257", "values // 256", "tests/processing/test_image.py"),
    Mutant("rollout/sampling.py", "before >= top_p", "before > top_p + 0.2", "tests/rollout/test_sampling.py"),
    Mutant("models/head.py", "end] * (1.0 / ctx.temperature)", "end]", "tests/models/test_head.py"),
    Mutant("training/optimizer.py", "limit / (grad_norm", "1 / (grad_norm", "tests/training/test_optimizer.py"),
    Mutant("training/optimizer.py", "leaf.ndim > 1}", "leaf.ndim > 0}", "tests/training/test_optimizer.py"),
    Mutant("training/optimizer.py", "(step + 1) / warmup", "step / warmup", "tests/training/test_optimizer.py"),
    Mutant("training/step.py", "batch, temperature).numpy()", "batch, 2.0).numpy()", CONFORMANCE),
    Mutant("training/step.py", ') * total["micro"]', ")", "tests/training/test_grpo.py -k bnpo"),
    Mutant("report/intervals.py", "Z_95 * Z_95", "Z_95", "tests/report/test_intervals.py"),
    Mutant("curriculum.py", "rng.random() < 0.5", "rng.random() < 0.6", "tests/test_curriculum.py"),
    Mutant("curriculum.py", "rng.permutation(len(values)).tolist()", "list(range(len(values)))",
           "tests/test_curriculum.py"),
    Mutant("curriculum.py", "SeedSequence([seed, *words", "SeedSequence([0, *words", "tests/test_curriculum.py"),
    Mutant("curriculum.py", "if i < len(right))", "if i <= len(right))", "tests/test_curriculum.py"),
    Mutant("tasks/templates.py", "views[0].from_original(box_px)", "box_px", "tests/test_curriculum.py"),
    Mutant("tasks/choice.py", "correct = found == example.answer", "correct = found <= example.answer",
           "tests/test_curriculum.py"),
    Mutant("tasks/classification.py", "found == example.answer, ", "found >= example.answer, ",
           "tests/test_curriculum.py"),
    Mutant("rewards/__init__.py", ' or group.example.form != "open":', ":", "tests/test_curriculum.py"),
    Mutant("training/stopping.py", "if last - before <", "if before - last <", "tests/training/test_curriculum.py"),
    Mutant("training/curriculum.py", "if earlier < logged <= step", "if logged <= step",
           "tests/training/test_curriculum.py"),
    Mutant("data/mixture/overlap.py", "tuple(_hash(picture, known) for", "tuple(str(picture) for",
           "tests/training/test_curriculum.py"),
    Mutant("report/curriculum.py", "/ (len(means) - 1)", "/ len(means)", "tests/report/test_curriculum.py"),
    Mutant("models/lora.py", "columns.append(paddle.zeros([x", "columns.insert(0, paddle.zeros([x", f"{LORA} -k dense"),
    Mutant("models/lora.py", '("float32") * self.scale', '("float32")', f"{LORA} -k merged"),
    Mutant("models/adapter_files.py", "_host(factor).T)", "_host(factor).reshape(factor.shape[::-1]))",
           f"{LORA} -k comes_back"),
    Mutant("models/qwen_vl.py", "        x.stop_gradient = False", "        x.stop_gradient = True",
           f"{LORA} -k recomputation"),
    Mutant("processing/conversation.py", "yield answer[: min(ends)], True", "yield answer, True", ANSWERS),
    Mutant("data/pack.py", "advantages[earlier] = first_row, True", "advantages[earlier] = first_row, False", ANSWERS),
    Mutant("training/step.py", 'phase_seed(seed, optimizer.num_steps, "dropout", number)', "None",
           "tests/training/test_sft_run.py -k dropout_reaches"),
    Mutant("evaluation/passk.py", "n - c + 1, n + 1)", "n - c, n)", f"{PASSK} -k subsets"),
    Mutant("evaluation/passk.py", "(2.5, 97.5)", "(25, 75)", f"{PASSK} -k interval"),
    Mutant("evaluation/passk.py", "problem.n < k]", "problem.n < 1]", f"{PASSK} -k above_n"),
    Mutant("evaluation/shards.py", "self.team.rank :: self.team.world]", "self.team.rank :: 2]", f"{SHARDS} -k blocks"),
    Mutant("evaluation/shards.py", "range(at, min(at + self.block, self.num))", "range(at, at + self.block)",
           f"{SHARDS} -k blocks"),
    Mutant("evaluation/sampling.py", "[sampling.asked.seed, first]", "[sampling.asked.seed]", f"{REJECT} -k good"),
    Mutant("rejection/choose.py", "one.score > threshold]", "one.score >= threshold]", CHOOSE),
    Mutant("rejection/choose.py", "(-(one.score or 0.0), one.num", "((one.score or 0.0), one.num", CHOOSE),
    Mutant("rejection/choose.py", "max_ratio * min(free))", "max_ratio * max(free))", CHOOSE),
    Mutant("rejection/command.py", "total = min(points, one.score)", "total = max(points, one.score)",
           f"{REJECT} -k judge"),
    Mutant("rejection/command.py", 'usable = sample["finished"] and ', "usable = ", f"{REJECT} -k good"),
    Mutant("rewards/judge.py", "0.0 <= score <= 100.0", "0.0 <= score", "tests/rewards/test_judge.py"),
    Mutant("models/tiles.py", "range(0, max(inner, 1), DEPTH)", "range(0, inner, DEPTH)", TILES),
    Mutant("models/turning.py", "(whole_rows, rows), (0, columns)", "(whole_rows, rows), (0, whole_columns)", TURNING),
    Mutant("report/curves.py", "math.log2 if log_x", "math.sqrt if log_x", "tests/report/test_curves.py"),
]  # fmt: skip


LOOPS = ("loops.py", "tiles.py", "crew.py", "turning.py")
"""Files whose functions numba compiles."""

COMPILED = ("*.nbi", "*.nbc")
"""What it keeps beside them."""


def main(word: str = "") -> int:
    """Try the mutants that hold `word`; return the number of those that survive."""
    chosen = [mutant for mutant in MUTANTS if word in mutant.file + mutant.old]
    survivors = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, noticed in zip(chosen, pool.map(is_noticed, chosen), strict=True):
            survivors += not noticed
            verdict = "noticed " if noticed else "SURVIVED"
            print(f"{verdict}  {mutant.file}: {mutant.old!r} -> {mutant.new!r}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} noticed")
    return survivors


def is_noticed(mutant: Mutant) -> bool:
    """Run the mutant's tests against a copy of the package with the line changed."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        stale = COMPILED if mutant.file.endswith(LOOPS) else ()  # a changed loop may stand inside others
        shutil.copytree(ROOT / "r1_mllm", place / "r1_mllm", ignore=shutil.ignore_patterns(*stale))
        for shared in ("tests", "pyproject.toml", "README.md"):
            (place / shared).symlink_to(ROOT / shared)
        path = place / "r1_mllm" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times, not once")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
        environment = {**os.environ, "PYTHONPATH": name, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, cwd=place, env=environment, capture_output=True)
    if ended.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run: {ended.stdout.decode()[-2000:]}{ended.stderr.decode()[-2000:]}")
    return ended.returncode == 1


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:2]) else 0)
