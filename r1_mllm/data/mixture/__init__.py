# SPDX-License-Identifier: Apache-2.0
"""Mixtures: examples from one data set or from several in shares.

A mixture is YAML: `datasets` (or `train_datasets` and `val_datasets`) lists entries with `json_path` and, if wanted,
`sampling_strategy` (all, first:N, end:N, random:N; N may be P%), `task`, `image_root` and `split`.
"""

from .loading import LoadReport, load_examples, num_shared
from .recipe import PREPARED_FOLDERS, parse_strategy, read_mixture

__all__ = ["PREPARED_FOLDERS", "LoadReport", "load_examples", "num_shared", "parse_strategy", "read_mixture"]
