# SPDX-License-Identifier: Apache-2.0
"""Settings of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EvalConfig:
    """Everything `r1-mllm eval`, eval/test_rec.py and eval/test_r1-v.py can be told."""

    model_path: str | None = None
    """Checkpoint folder or hub id; weights, tokenizer and picture limits all come from here."""
    checkpoints: str | None = None
    """A run's folder: each of its checkpoints is evaluated, and model_path, if it is given too, as step 0."""
    model_name: str | None = None
    """Label in the name of the results file; None: the last part of model_path."""
    data_root: str = "."
    """Folder of the data sets."""
    image_root: str | None = None
    """Folder the rows' picture paths start from, or one per data set, `:` between them; None: the set's own folder."""
    allow_outside_image_root: bool = False
    """Take picture paths that lead out of image_root, by `..` or as absolute paths."""
    test_datasets: tuple[str, ...] = ("refgta_subsample",)
    """Names under data_root without their suffix (.json, .jsonl, .parquet), or paths of files."""
    ood_datasets: tuple[str, ...] = ()
    """Further sets, told apart as out-of-domain."""
    eval_sets: str | None = None
    """YAML file of in-domain and out-of-domain sets (evaluation/choosing.py); takes the place of test_datasets."""
    num_processes: int = 1
    """Processes that share the rows, each with a model of its own."""
    task_list: tuple[str, ...] = ()
    """detection, classify, math: their held-out sets take the place of test_datasets."""
    domain: Literal["in", "out", "both"] = "both"
    """task_list: sets from the domain trained on, from another one, or both."""
    resized_images: bool = False
    """RefGTA: read the pictures of `final_resize` instead of `final`, with the box that belongs to them."""
    task: str | None = None
    """None: rec for rows with a box, counting for whole-number answers, geometry for other ones."""
    results_name: str | None = None
    """First part of the results file's name; None: TASK_results."""
    logs_dir: str = "logs"
    """Folder of the results files."""
    batch_size: int = 32
    """Questions answered together."""
    sample_num: int = 500
    """Rows to take, drawn with `seed` when the data set has more; 0 takes all."""
    steps: int = 100
    """Label in the name of the results file."""
    method: Literal["r1", "baseline"] = "r1"
    """r1 asks for thinking and an answer in tags; baseline asks a model that was not trained for that."""
    seed: int = 42
    """Draws the rows that sample_num takes; sampled answers follow from it, too."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: bfloat16 on a GPU; float16 for cards without bfloat16 (V100).  A CPU always computes in float32."""
    attn_implementation: Literal["auto", "flash_attention_2", "eager"] = "auto"
    """As in training: auto and flash_attention_2 use flash kernels where GPU and dtype allow; eager never does."""
    max_new_tokens: int = 256
    """Tokens of an answer; longer ones are cut."""
    min_pixels: int | None = None
    """Lower limit of a picture's area in pixels after resizing; None: the checkpoint's preprocessor_config."""
    max_pixels: int | None = None
    """Upper limit of a picture's area in pixels after resizing; None: the checkpoint's preprocessor_config."""
    iou_threshold: float = 0.5
    """rec: overlap (IoU) above which a box is right."""
    prompt_template: str | None = None
    """YAML file that replaces the built-in prompts."""
    chat_template: str | None = None
    """None: the checkpoint's own; else generic, dialogue, r1_zero or a .jinja file, as in training."""
    system_prompt: str | None = None
    """Text of the system turn; None: the row's own, else the chat template's."""
    overwrite: bool = False
    """Answer every row again even if a results file of the same arguments is there."""
