# SPDX-License-Identifier: Apache-2.0
"""Grids with several temporal steps, alone and beside a picture."""

import json

import numpy as np
import paddle

from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.positions import rope_positions


def test_videos_match(video_case):
    case = json.loads((video_case / "case.json").read_text())
    model = load_pretrained(video_case / case["checkpoint"])
    inputs, golden = np.load(video_case / "inputs.npz"), np.load(video_case / "golden.npz")
    arch, tolerance = model.arch, case["tolerance"]
    videos, pictures = (inputs[name].astype(np.float32) / 48 for name in ("video_q", "pixel_q"))
    seconds = inputs["second_per_grid_ts"] if "second_per_grid_ts" in inputs else np.ones(len(inputs["video_grid_thw"]))
    with paddle.no_grad():
        tokens = model.embed_images(videos, inputs["video_grid_thw"])
        np.testing.assert_allclose(tokens.numpy(), golden["video_embeds"], atol=tolerance["video_embeds"], rtol=0)
        used = {arch.video_token_id: 0, arch.image_token_id: 0}
        sources = {
            arch.video_token_id: (videos, inputs["video_grid_thw"], seconds),
            arch.image_token_id: (pictures, inputs["image_grid_thw"], np.ones(len(inputs["image_grid_thw"]))),
        }
        for i_row, mask in enumerate(inputs["attention_mask"]):
            ids = inputs["input_ids"][i_row][mask == 1]
            starts = np.flatnonzero(ids == arch.vision_start_token_id)
            pixels, grids, per_grid = [], [], []
            for kind in ids[starts + 1].tolist():
                patches, shapes, times = sources[kind]
                i = used[kind]
                first = int(shapes[:i].prod(axis=1).sum())
                pixels.append(patches[first : first + int(shapes[i].prod())])
                grids.append(shapes[i])
                per_grid.append(times[i])
                used[kind] += 1
            grids = np.stack(grids)
            positions, next_position = rope_positions(
                ids,
                grids,
                (arch.image_token_id, arch.video_token_id),
                arch.vision.merge_size,
                arch.vision.tokens_per_second or None,
                np.array(per_grid),
            )
            np.testing.assert_array_equal(positions, golden["position_ids"][:, i_row, mask == 1])
            assert next_position == golden["next_pos"][i_row]
            rows = np.flatnonzero(np.isin(ids, list(sources)))
            x = model.embed(ids, rows, model.embed_images(np.concatenate(pixels), grids))
            structure = model.text.structure(positions, np.full(len(ids), len(ids)), flash=False)
            hidden = model.text(x, structure, lambda block, *a: block(*a))
            got = model.logits(hidden).numpy()[-8:]
            np.testing.assert_allclose(got, golden["logits_last8"][i_row], atol=tolerance["logits_last8"], rtol=0)
