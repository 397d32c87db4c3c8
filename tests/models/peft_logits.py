# SPDX-License-Identifier: Apache-2.0
"""Run by test_lora.py in the oracle environment (torch, transformers, peft): does an adapter of ours load unchanged?

Usage: python peft_logits.py BASE ADAPTER MERGED WRITTEN
Prints one JSON object: the largest difference between the logits of BASE with ADAPTER and of MERGED, and what the
adapter changes.  WRITTEN receives ADAPTER as peft saves it.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from peft import PeftModel
from transformers_logits import load, logits


def main(base, adapter, merged, written):
    inputs = np.load(Path(base) / "inputs.npz")
    model, _ = load(base)
    plain = logits(model, inputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, adapter).eval()
    complaints = [str(one.message) for one in caught if "adapter" in str(one.message)]
    changed = logits(adapted.get_base_model(), inputs)
    other = logits(load(merged)[0], inputs)
    adapted.save_pretrained(written)
    report = {
        "difference": (changed - other).abs().max().item(),
        "effect": (changed - plain).abs().max().item(),
        "size": plain.abs().max().item(),
        "complaints": complaints,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
