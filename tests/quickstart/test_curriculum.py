# SPDX-License-Identifier: Apache-2.0
"""The embedded curriculum: what its annotator says, and every command in miniature."""

import json

import pytest

from r1_mllm import cli
from r1_mllm.config import RewardConfig
from r1_mllm.quickstart.forms import FORMS, FormAnnotator
from r1_mllm.tasks import asked_as

MINI = """
output_dir: {folder}/run
embedded: {{num_train: 24, num_test: 4, warm_up_open: 1, warm_up_forms: 1, warm_up_weak: 1}}
common: {{num_generations: 2, per_device_train_batch_size: 2, max_completion_length: 6, beta: 0.0, report_to: none}}
stages:
  - {{name: judge, form: judge, max_steps: 1}}
  - {{name: open, max_steps: 2}}
"""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", ["counting", "geometry", "rec"])
def test_a_careful_annotator_is_right_in_every_form_and_a_careless_one_often_is_not(task, form, monkeypatch):
    annotator = FormAnnotator(task, 3, **({"figures": ("area", "perimeter")} if task == "geometry" else {}))
    asked = []
    monkeypatch.setattr("r1_mllm.quickstart.forms.asked_as", lambda e: asked.append(e) or asked_as(e))
    shares = []
    for careful in (True, False):
        asked.clear()
        texts = [annotator.pair_in(form, 4, careful)[2] for _ in range(40)]
        grades = [asked_as(e).grade(text, e, config=RewardConfig()) for e, text in zip(asked, texts, strict=True)]
        assert all(asked_as(e).check_format(text, e)[0] for e, text in zip(asked, texts, strict=True))
        shares.append(sum(grade.correct for grade in grades) / 40)
    assert shares[0] == 1.0 and 0.1 < shares[1] < 0.9


@pytest.mark.slow
def test_compare_runs_three_arms_from_one_start_and_the_table_joins_them(tmp_path, capsys):
    config = tmp_path / "mini.yaml"
    config.write_text(MINI.format(folder=tmp_path))
    cli.main(["curriculum", "--config", str(config), "--until", "judge"])
    assert [path.name for path in (tmp_path / "run").glob("*/final")] == ["final"]
    out = tmp_path / "compared"
    words = ["curriculum", "compare", "--config", str(config), "--output_dir", str(out), "--seed", "4"]
    cli.main(words)
    starts = {}
    for arm in ("curriculum", "open_steps", "open_tokens"):
        facts = json.loads((out / "seed-4" / arm / "curriculum.json").read_text())["stages"]
        starts[arm] = [fact["model"].removeprefix(f"{out}/seed-4/") for fact in facts]
        forms = [fact["form"] for fact in facts]
        assert forms[0] == (["judge"] if arm == "curriculum" else ["open"])
    assert starts["curriculum"] == ["warm_start", "curriculum/judge/final"]
    assert starts["open_steps"] == ["warm_start", "open_steps/judge/final"]
    assert starts["open_tokens"] == ["open_steps/judge/final"]
    capsys.readouterr()
    cli.main(words)
    assert capsys.readouterr().out.count("finished earlier") == 5
    cli.main(["curriculum", "table", str(out)])
    table = (out / "table.md").read_text()
    assert "| 4 | curriculum | 3 |" in table and "| open_tokens | 4 |" in table


def test_help_and_wrong_flags_end_before_anything_is_loaded(tmp_path, capsys):
    cli.main(["curriculum", "--help"])
    assert "start_from: last" in capsys.readouterr().out
    for words, told in (
        (["--config", str(tmp_path / "no.yaml")], "cannot be read"),
        (["--until", "never"], "--until never: the stages are judge, choice, open"),
        (["--config"], "--config takes one value"),
        (["--lerning_rate", "1"], "did you mean --learning_rate"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["curriculum", *words])
        assert ended.value.code == 64 and told in capsys.readouterr().err
