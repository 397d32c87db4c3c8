# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from r1_mllm import rewards
from r1_mllm.config import GrpoConfig, RewardConfig, RolloutConfig
from r1_mllm.objectives.advantages import group_relative
from r1_mllm.records import Completion, Example, Group, Prompt, View

TAGGED = "<think>t</think><answer>{}</answer>"


def group(texts, task="counting", answer=3, views=(), lengths=None, finished=True):
    lengths = lengths or [5] * len(texts)
    completions = [
        Completion(np.zeros(n, np.int64), np.zeros(n, np.float32), text, finished)
        for text, n in zip(texts, lengths, strict=True)
    ]
    prompt = Prompt(np.zeros(2, np.int64), np.zeros((3, 2), np.int64), 2, views=views)
    return Group(Example(task, "q", answer), prompt, completions)


def write_reward(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(body)
    return rewards.load_reward(f"{path}:earn")


def test_weighted_parts_add_up():
    config = RewardConfig(reward_weights=(2.0, 0.5))
    made = group([TAGGED.format(3), "<answer>3</answer>", TAGGED.format(4)])
    rewards.score(made, [rewards.load_reward(name) for name in config.reward_funcs], config)
    assert made.parts["accuracy"].tolist() == [1, 1, 0]
    assert made.parts["format"].tolist() == [1, 0, 1]
    assert made.rewards.tolist() == [2.5, 2.0, 0.5]
    assert [grade.extracted for grade in made.grades] == [3, 3, 4]


def test_boxes_are_taken_back_by_the_view():
    view = View(original_wh=(640, 480), seen_wh=(644, 476), box_units="seen_px")
    box = view.from_original((100, 50, 300, 250))
    made = group([TAGGED.format(list(box))], "rec", (100, 50, 300, 250), (view,))
    assert rewards.accuracy(made, RewardConfig())[0] == pytest.approx(1.0)
    per_mille = View((640, 480), (644, 476), "per_mille")
    made = group([TAGGED.format([156.25, 104.1666667, 468.75, 520.8333333])], "rec", (100, 50, 300, 250), (per_mille,))
    assert rewards.accuracy(made, RewardConfig())[0] == pytest.approx(1.0, abs=1e-6)


def test_format_json_applies_to_boxes_only():
    texts = [TAGGED.format('{"bbox_2d": [1, 2, 3, 4]}'), TAGGED.format("[1, 2, 3, 4]")]
    assert rewards.json_box(group(texts, "rec", (1, 2, 3, 4)), RewardConfig()).tolist() == [1, 0]
    config = RewardConfig(reward_funcs=("accuracy", "format_json"))
    made = group([TAGGED.format(3)])
    rewards.score(made, [rewards.accuracy, rewards.json_box], config)
    assert np.isnan(made.parts["format_json"]).all() and made.rewards.tolist() == [1.0]


def test_a_cut_completion_has_no_form():
    assert rewards.well_formed(group([TAGGED.format(3)], finished=False), RewardConfig()).tolist() == [0]


def test_length_prefers_short_right_and_long_wrong_answers():
    texts = [TAGGED.format(3), TAGGED.format(3), TAGGED.format(4), TAGGED.format(4)]
    made = group(texts, lengths=[0, 100, 0, 50])
    assert rewards.length(made, RewardConfig(length_limit=100)) == pytest.approx([1.0, 0.5, -0.5, -0.25])


def test_overlong_falls_linearly_over_its_buffer():
    made = group(["a"] * 5, lengths=[60, 80, 90, 100, 120])
    config = RewardConfig(length_limit=100, overlong_buffer=20)
    assert rewards.overlong(made, config) == pytest.approx([0, 0, -0.5, -1, -1])


def test_repetition_counts_runs_seen_before():
    made = group(["a b c d", "a b a b a b", "x"])
    # runs of two words: 3 different of 3; ab ba ab ba ab: 2 of 5
    assert rewards.repetition(made, RewardConfig(repetition_ngram=2)) == pytest.approx([0, -0.6, 0])


def test_a_reward_that_abstains_is_left_out_of_that_total_and_counted(tmp_path):
    earn = write_reward(tmp_path, "def earn(group):\n    return [None, float('nan'), float('inf'), 3]\n")
    config = RewardConfig(reward_funcs=("accuracy", "mine"), reward_weights=(2.0, 0.5))
    made = group([TAGGED.format(n) for n in (3, 4, 3, 3)])
    counts = rewards.score(made, {"accuracy": rewards.accuracy, "mine": earn}, config)
    assert made.rewards.tolist() == [2.0, 0.0, 2.0, 3.5]
    assert counts["mine/not_scored"] == 3


def test_a_completion_that_no_reward_judges_has_no_total_and_no_advantage(tmp_path):
    earn = write_reward(tmp_path, "def earn(group):\n    return [None, 1.0, 5.0]\n")
    made = group(["a", "b", "c"])
    rewards.score(made, {"mine": earn}, RewardConfig(reward_funcs=("mine",)))
    assert np.isnan(made.rewards[0]) and made.rewards[1:].tolist() == [1.0, 5.0]
    advantages = group_relative(made.rewards[None], scale="none")
    assert advantages.tolist() == [[0.0, -2.0, 2.0]]


def test_the_length_rewards_end_at_the_completion_limit_unless_told_otherwise():
    config = GrpoConfig(rollout=RolloutConfig(max_completion_length=80))
    assert config.settled_reward.length_limit == 80
    config = GrpoConfig(reward=RewardConfig(length_limit=50))
    assert config.settled_reward.length_limit == 50
    with pytest.raises(ValueError, match="set length_limit"):
        rewards.overlong(group(["a"]), RewardConfig())


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0]", "returned 1 values for 2 completions"),
        ("'ab'", "returned str; it must return 2 numbers"),
        ("None", "returned NoneType; it must return 2 numbers"),
        ("['a', 1]", "must return numbers or None"),
    ],
)
def test_a_wrong_result_is_refused_by_name(tmp_path, returned, message):
    earn = write_reward(tmp_path, f"def earn(group, config):\n    return {returned}\n")
    with pytest.raises(ValueError, match=f"reward 'mine' .*{message}"):
        rewards.score(group(["a", "b"]), {"mine": earn}, RewardConfig())


def test_a_reward_that_always_raises_stops_the_run(tmp_path):
    earn = write_reward(tmp_path, "def earn(group):\n    return group.no_such_thing\n")
    with pytest.raises(ValueError, match=r"AttributeError: .* at .*mine\.py:2 "):
        earn(group(["a"]), RewardConfig())


def test_a_reward_that_raises_once_costs_that_group_and_is_counted(tmp_path, caplog):
    earn = write_reward(tmp_path, "def earn(group):\n    return [1 / float(done.text) for done in group.completions]\n")
    assert earn(group(["2", "4"]), RewardConfig()) == [0.5, 0.25]
    assert np.isnan(earn(group(["2", "0"]), RewardConfig())).all()
    assert earn.failures == 1 and "ZeroDivisionError" in caplog.text


def test_too_many_failures_stop_the_run(tmp_path):
    earn = write_reward(tmp_path, "def earn(group):\n    return [1 / float(done.text) for done in group.completions]\n")
    with pytest.raises(ValueError, match="of its last 200 calls failed"):
        for i in range(400):
            earn(group(["0" if i % 10 == 9 else "1"]), RewardConfig())


def test_unknown_names_get_the_nearest_one(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        rewards.load_reward("acuracy")
    with pytest.raises(ValueError, match="no file"):
        rewards.load_reward(str(tmp_path / "none.py") + ":f")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="has no function 'f'"):
        rewards.load_reward(str(tmp_path / "empty.py") + ":f")


def test_weights_must_match_the_rewards():
    with pytest.raises(ValueError, match="1 reward_weights for 2"):
        config = RewardConfig(reward_weights=(1.0,))
        rewards.score(group(["a"]), [rewards.accuracy, rewards.well_formed], config)
