# SPDX-License-Identifier: Apache-2.0
"""Sampling, scoring, choosing and writing: with an engine that says what it is told, and with a small real model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r1_mllm import cli
from r1_mllm.config import DataConfig, ModelConfig, RewardConfig, RolloutConfig
from r1_mllm.data.mixture import load_examples
from r1_mllm.data.synthetic import write_splits
from r1_mllm.evaluation.evaluate import EvalSettings
from r1_mllm.evaluation.load import Loaded
from r1_mllm.evaluation.sampling import Sampling, collect
from r1_mllm.evaluation.shards import Team
from r1_mllm.records import Completion, Prompt, View
from r1_mllm.rejection.command import RejectConfig, RejectSettings, write
from r1_mllm.rewards import load_reward
from r1_mllm.rewards.judge import JudgeConfig
from r1_mllm.runtime import DATA
from r1_mllm.tasks import conversation

CHECKPOINT = Path(__file__).resolve().parents[1] / "golden/cases/e2e/checkpoint"
GOLD = (3, 5, 8, 2)


def said(value, thought="so"):
    return f"<think>{thought}</think><answer>{value}</answer>"


class Engine:
    """Answers each question with its own list of (text, finished)."""

    def __init__(self, answers):
        self.answers, self.calls = answers, []

    def generate(self, prompts, n, seed, greedy=False, max_new_tokens=None):
        self.calls.append((len(prompts), n, seed))
        found = []
        for prompt in prompts:
            texts = self.answers[prompt.text]
            found.append([self.completion(*texts[i % len(texts)]) for i in range(n)])
        return found

    def completion(self, text, finished=True):
        ids = np.zeros(len(text), np.int64)
        return Completion(ids, np.zeros(len(ids), np.float32), text, finished)


class Processor:
    """A prompt is the question's first word."""

    box_units = "seen_px"

    def encode(self, messages, images):
        text = messages[-1]["content"][-1]["text"].split()[0]
        size = Image.open(images[0]).size
        ids = np.zeros(900 if text == "Long" else 3, np.int64)
        return Prompt(ids, np.zeros((3, len(ids)), np.int64), 3, views=(View(size, size, self.box_units),), text=text)


@pytest.fixture
def config(tmp_path):
    """Four counting questions with pictures outside the output folder, two sources."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (56, 56), (10, 200, 30)).save(folder / "a.png")
    words = ["First", "Second", "Long", "Fourth"]
    rows = [
        {"id": f"row{i}", "image": "a.png", "problem": f"{word} how many?", "solution": gold, "data_source": source}
        for i, (word, gold, source) in enumerate(zip(words, GOLD, ("clevr", "clevr", "clevr", "real"), strict=True))
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    return RejectConfig(
        reject=RejectSettings(output_dir=str(tmp_path / "out"), max_per_prompt=2, max_domain_ratio=1.0),
        model=ModelConfig(model_name_or_path="models/teacher"),
        data=DataConfig(task="counting", dataset_name=str(folder / "train.json"), max_prompt_length=512),
        rollout=RolloutConfig(num_generations=4),
    )


ANSWERS = {
    "First": [(said(3),), (said(3, "or  so"),), (said(3, "or so"),), (said(9),)],
    "Second": [("5",), (said(5, "<image>"),), (said(5), False), (said(4),)],  # right without tags earns half
    "Fourth": [(said(2),), (said(2),), (said(2),), (said(2),)],
}


def sampled(config, engine, folder):
    examples, _ = load_examples(config.data, "train", None)
    funcs = {name: load_reward(name) for name in config.reward.reward_funcs}
    sampling = Sampling(EvalSettings(batch_size=2, seed=7), 4, 512, funcs, RewardConfig(length_limit=256))
    loaded = Loaded(engine, Processor(), "float32")
    return examples, collect(folder / "samples.json", "key", examples, Team(), sampling, lambda: loaded)


def test_good_different_answers_become_conversations_with_their_origin(config, tmp_path):
    folder, engine = tmp_path / "out", Engine(ANSWERS)
    examples, rows = sampled(config, engine, folder)
    assert [call[:2] for call in engine.calls] == [(2, 4), (1, 4)] and engine.calls[0][2] != engine.calls[1][2]
    path = write(config, examples, rows, folder)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    # First: two different right answers, but "real" has one answer and the ratio is 1; Second: nothing above 85
    assert [line["id"].split("#")[0] for line in lines] == ["row0", "row3"]
    user, assistant = lines[1]["messages"]
    assert user["role"] == "user" and user["content"].startswith("<image>Fourth how many?")
    assert assistant == {"role": "assistant", "content": said(2)}
    origin = lines[1]["provenance"]
    expected = {
        "score": 100.0,
        "score_by": "reward",
        "model": "models/teacher",
        "seed": 42,
        "prompt_template": "built-in",
    }
    assert {name: origin[name] for name in expected} == expected
    assert (
        origin["parts"] == {"accuracy": 1.0, "format": 1.0}
        and origin["domain"] == "real"
        and origin["ground_truth"] == 2
    )
    assert origin["source"].endswith("train.json:1 (row 4)") and origin["sample"] == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["questions_skipped"], summary["answers"], summary["above_threshold"]) == (1, 10, 7)
    assert (summary["distinct"], summary["kept"]) == (3, 2)
    assert summary["domains"] == {"before": {"clevr": 2, "real": 1}, "after": {"clevr": 1, "real": 1}}
    for line in lines:  # what sft reads
        example = conversation.example(line, "x")
        assert (folder / example.images[0]).is_file() and example.answer[-1]["learn"]


def test_a_judge_decides_with_the_reward_and_is_asked_about_hopeful_answers_only(config, tmp_path, serve):
    folder = tmp_path / "out"
    examples, rows = sampled(config, Engine(ANSWERS), folder)

    def reply(number, body):
        points = 60 if "Fourth" in body["messages"][0]["content"] else 92
        return 200, {}, json.dumps({"choices": [{"message": {"content": json.dumps({"score": points})}}]})

    asked = serve(reply)
    told = dict(judge_url=asked.url, judge_model="grader", judge_threads=2)
    both = RejectConfig(config.reject, config.model, config.data, config.rollout, judge=JudgeConfig(**told))
    path = write(both, examples, rows, folder)
    (first, second) = [json.loads(line)["provenance"] for line in path.read_text().splitlines()]
    assert (first["score"], first["reward_score"], first["judge_score"]) == (92.0, 100.0, 92.0)
    assert first["judge_model"] == second["judge_model"] == "grader"
    assert (
        all("Second" not in str(body) for body in asked.asked) and len(asked.asked) == 4
    )  # three words of First, one of Fourth
    assert len((folder / "judged.jsonl").read_text().splitlines()) == 4
    write(both, examples, rows, folder)
    assert len(asked.asked) == 4  # remembered


def test_nothing_good_enough_is_an_error_that_says_the_best(config, tmp_path):
    examples, rows = sampled(config, Engine({name: [(said(99),)] for name in ANSWERS}), tmp_path / "out")
    with pytest.raises(ValueError, match=r"none of 12 answers scores above 85 \(best: 50.0\)"):
        write(config, examples, rows, tmp_path / "out")


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"reject": RejectSettings(score_by="judge")}, "needs a judge_url"),
        ({"reject": RejectSettings(threshold=100)}, "threshold 100"),
        ({"reject": RejectSettings(domain_quota=("x",))}, "NAME=COUNT"),
        ({"rollout": RolloutConfig(temperature=0.0)}, "temperature 0"),
        ({"reject": RejectSettings(batch_size=0)}, "batch_size 0"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, told):
    with pytest.raises(ValueError, match=told):
        RejectConfig(**settings)


def test_a_small_model_is_sampled_once_and_a_killed_run_goes_on(tmp_path, capsys):
    train, _ = write_splits("counting", 5, tmp_path / "data", 2, side=56)
    (tmp_path / "my_rewards.py").write_text(
        "def even(group):\n    return [float(len(done.text) % 2 == 0) for done in group.completions]\n"
    )
    words = ["--model_name_or_path", str(CHECKPOINT), "--dataset_name", str(train), "--task", "counting"]
    words += [
        "--max_completion_length",
        "4",
        "--num_generations",
        "3",
        "--batch_size",
        "2",
        "--domain_quota",
        "counting=3",
    ]
    words += ["--reward_funcs", f"{tmp_path}/my_rewards.py:even", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:  # cut at the length limit, no answer is finished
        cli.main(["reject", *words])
    assert ended.value.code == DATA and "none of 0 answers" in capsys.readouterr().err
    samples = tmp_path / "out/samples.json"
    content = json.loads(samples.read_text())
    rows = content["results"]
    for row in rows:
        for sample in row["samples"]:
            sample["finished"] = True
    lines = [{"fingerprint": content["fingerprint"]}, *({"index": i, "row": rows[i]} for i in range(4))]
    samples.with_suffix(".partial.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    samples.unlink()
    cli.main(["reject", *words])
    assert "4 of 5 questions are sampled already" in capsys.readouterr().out
    again = json.loads(samples.read_text())["results"]
    assert again[:4] == rows[:4]
    for sample in again[4]["samples"]:
        sample["finished"] = True
    assert again == rows  # the last question got the answers it had before
    found = [json.loads(line) for line in (tmp_path / "out/messages.jsonl").read_text().splitlines()]
    assert len(found) == 3 and all(len(line["messages"][1]["content"]) % 2 == 0 for line in found)
    cli.main(["reject", *words, "--threshold", "20", "--max_per_prompt", "0"])
    assert "has these samples already" in capsys.readouterr().out
