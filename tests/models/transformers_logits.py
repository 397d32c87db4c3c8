# SPDX-License-Identifier: Apache-2.0
"""Run by test_oracle_weights.py in the oracle environment (torch, transformers): do our folders load unchanged there?

Usage: python transformers_logits.py PUBLISHED OURS WRITTEN
Prints one JSON object.  WRITTEN receives OURS as transformers saves it, WRITTEN/live under the live module's names.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText


def load(folder):
    """Load strictly: gives the model and every complaint of the loader."""
    model, complaints = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), {name: sorted(map(str, found)) for name, found in complaints.items() if found}


def logits(model, inputs):
    """Logits of the prompts, pictures included."""
    pixels = torch.from_numpy(inputs["pixel_q"].astype(np.float32) / 48)
    ids = torch.from_numpy(inputs["prompt_ids"])
    image_token = torch.from_numpy(inputs["prompt_ids"] == model.config.image_token_id)
    with torch.no_grad():
        return model(
            input_ids=ids,
            attention_mask=torch.from_numpy(inputs["prompt_mask"]),
            pixel_values=pixels,
            image_grid_thw=torch.from_numpy(inputs["image_grid_thw"]),
            mm_token_type_ids=image_token.int(),
        ).logits


def main(published, ours, written):
    inputs = np.load(Path(published) / "inputs.npz")
    theirs, _ = load(published)
    model, complaints = load(ours)
    difference = (logits(theirs, inputs) - logits(model, inputs)).abs().max().item()
    model.save_pretrained(written)
    live = Path(written) / "live"
    live.mkdir()
    tied = model.config.tie_word_embeddings
    state = {name: value.clone() for name, value in model.state_dict().items() if not (tied and "lm_head" in name)}
    save_file(state, live / "model.safetensors", metadata={"format": "pt"})
    (live / "config.json").write_bytes((Path(written) / "config.json").read_bytes())
    print(json.dumps({"difference": difference, "complaints": complaints}))


if __name__ == "__main__":
    main(*sys.argv[1:])
