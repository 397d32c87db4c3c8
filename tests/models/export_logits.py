# SPDX-License-Identifier: Apache-2.0
"""Run by test_oracle_exports.py in the oracle environment (torch, transformers, peft): what do others make of a run?

Usage: python export_logits.py BASE ADAPTER MERGED FULL PROMPT
PROMPT is an npz: ids [T], pixels [N, P], grid [I, 3] of one prompt.  Prints one JSON object: the file of logits of BASE
with ADAPTER under peft, and of MERGED and FULL under transformers, beside PROMPT.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers_logits import load


def logits(model, prompt):
    ids = torch.from_numpy(prompt["ids"])[None]
    with torch.no_grad():
        return model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.from_numpy(prompt["pixels"]),
            image_grid_thw=torch.from_numpy(prompt["grid"]),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
        ).logits[0]


def main(base, adapter, merged, full, prompt):
    asked = np.load(prompt)
    found, said = {}, {}
    for name, folder in (("merged", merged), ("full", full)):
        model, complaints = load(folder)
        found[name], said[name] = logits(model, asked).numpy(), complaints
    model = PeftModel.from_pretrained(load(base)[0], adapter).eval()
    found["adapter"] = logits(model.get_base_model(), asked).numpy()
    out = Path(prompt).with_name("theirs.npz")
    np.savez(out, **found)
    print(json.dumps({"logits": str(out), "complaints": {name: text for name, text in said.items() if text}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
