# SPDX-License-Identifier: Apache-2.0
"""What the quickstart says at its end."""

import json
import shlex

from r1_mllm.config.chat import read
from r1_mllm.quickstart.run import next_steps


def test_its_last_lines_are_commands_that_can_be_pasted(tmp_path):
    folder = tmp_path / "my runs"
    (folder / "data").mkdir(parents=True)
    row = {"image": "images/test_0.png", "problem": "Where is the child's ball?", "solution": [1, 2, 30, 40]}
    (folder / "data/test.json").write_text(json.dumps([row, row]))
    ask, serve, train, limits = next_steps(folder, folder / "data/test.json").splitlines()
    words = shlex.split(ask)
    config = read(words[words.index("chat") + 1 :], "chat")
    assert config.question == row["problem"] and config.image == (str(folder / "data/images/test_0.png"),)
    assert config.model_path == str(folder / "final") == shlex.split(serve)[-2]
    assert str(folder / "args.yaml") in shlex.split(train) and "84 x 84 px" in limits
