# SPDX-License-Identifier: Apache-2.0
"""Files that stand beside the weights of a published model folder."""

from __future__ import annotations

import shutil
from pathlib import Path

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)
"""Files of a model folder that are copied beside the weights, so that a checkpoint loads alone."""


def copy_companions(source: Path | None, folder: Path) -> None:
    """Copy tokenizer and processor files that are there; files already written stay."""
    for name in COMPANIONS if source else ():
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)
