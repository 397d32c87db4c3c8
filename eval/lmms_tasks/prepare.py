# SPDX-License-Identifier: Apache-2.0
"""Write a data set as the lmms-eval tasks of this folder read it: lmms_data/NAME.jsonl, a question a line.

The questions are put as `r1-mllm eval` puts them, which depends on the model's family and picture limits; so does the
frame that boxes are read in.  Needs neither Paddle nor weights.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a fresh clone runs without being installed

from r1_mllm.config import EvalConfig
from r1_mllm.data.read import rows
from r1_mllm.evaluation import command
from r1_mllm.evaluation.evaluate import EvalSettings, chat
from r1_mllm.processing.prompt import Processor
from r1_mllm.tasks import get_task
from r1_mllm.tasks.templates import load_templates


def write(given: argparse.Namespace) -> Path:
    """Write one data set; returns the file."""
    config = EvalConfig(image_root=given.image_root, task=given.task, sample_num=given.limit, seed=given.seed)
    source = command.find_data(given.data, ".")
    table = command.draw(list(rows(source, command.held_out_split(source))), given.limit, given.seed)
    found = command.load_set(given.data, config)
    processor = Processor.from_pretrained(given.model_path)
    asked = EvalSettings(templates=load_templates(given.prompt_template), method=given.method)
    out = Path(given.out) / f"{given.name or get_task(given.task).name}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for (row, where), example in zip(table, found.examples, strict=True):
            line = {
                "id": str(example.meta.get("id", where)),
                "task": found.task,
                "method": given.method,
                "messages": json.dumps(chat(processor, example, asked)),
                "images": [str(Path(image).resolve()) for image in example.images],
                "row": json.dumps(row),
                "views": json.dumps([vars(view) for view in processor.views(example.images)]),
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return out


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model_path", required=True, help="checkpoint folder: family, template, picture limits")
    parser.add_argument("--task", required=True, choices=["rec", "counting", "math_boxed"])
    parser.add_argument("--data", required=True, help=".json, .jsonl, .parquet or a folder")
    parser.add_argument("--image_root", default=None, help="folder of the pictures; default: the data set's own")
    parser.add_argument("--name", default=None, help="of the file: rec, counting or mathvision; default: the task")
    parser.add_argument("--out", default="lmms_data")
    parser.add_argument("--limit", type=int, default=0, help="rows to draw; 0 takes all")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--method", choices=["r1", "baseline"], default="r1")
    parser.add_argument("--prompt_template", default=None, help="YAML file that replaces the built-in prompts")
    print(write(parser.parse_args()))


if __name__ == "__main__":
    main()
