# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from r1_mllm.config import RewardConfig
from r1_mllm.data.mixture.loading import named_task
from r1_mllm.records import Completion, Example, Group, Prompt, View
from r1_mllm.rewards import repetition
from r1_mllm.tasks import get_task

TASK = get_task("od")
CAT = {"bbox_2d": [64.0, 48.0, 320.0, 240.0], "label": "cat"}
FENCED = '```json\n[{"bbox_2d": [64, 48, 320, 240], "label": "Cat"}]\n```'
TAGGED = "<think>t</think><answer>{}</answer>"


def test_vlm_r1_rows_and_plain_ones_are_read():
    question = "<image>Find every cat."
    rows = [
        {"problem": question, "image": "a.jpg", "solution": [CAT]},
        {"problem": question, "image": "a.jpg", "solution": TAGGED.format(FENCED)},
        {
            "id": 1,
            "image": "a.jpg",
            "accu_reward_method": "odLength",
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": FENCED}],
        },
    ]
    for row in rows:
        example = TASK.example(row, "x:1")
        assert (example.question, example.answer) == ("Find every cat.", [CAT])
    assert named_task(rows[2]) == "open_detection" and named_task(rows[0]) is None
    assert TASK.example({"problem": "q", "solution": "None"}, "x:1").answer == []
    assert TASK.example({"problem": "q", "solution": []}, "x:1").answer == []


@pytest.mark.parametrize(
    "solution", ["a cat", [1, 2, 3, 4], [{**CAT, "label": ""}], [{"label": "cat"}], [{**CAT, "bbox_2d": [9, 9, 9, 12]}]]
)
def test_a_gold_answer_that_is_no_list_of_boxes_is_refused(solution):
    with pytest.raises(ValueError, match=r"x:1: answer .* is no list of .*write None"):
        TASK.example({"problem": "q", "solution": solution}, "x:1")


def test_boxes_in_the_models_units_are_taken_back():
    view = View((640, 480), (1, 1), "per_mille")
    text = TAGGED.format('[{"bbox_2d": [100, 100, 500, 500], "label": "cat"}]')
    example = Example("open_detection", "q", [CAT])
    grade = TASK.grade(text, example, [view])
    assert (grade.score, grade.correct, grade.extracted) == (1.0, True, [CAT])
    assert not TASK.grade(text, example).correct


def test_the_row_names_the_rule_unless_the_settings_do():
    spam = TAGGED.format(str([{"bbox_2d": CAT["bbox_2d"], "label": "cat"}] * 4).replace("'", '"'))
    scores = {}
    for method in ("map", "od_ap", "od_ap50", "odLength", "weighted_sum", None):
        example = Example("open_detection", "q", [CAT], meta={"accu_reward_method": method})
        scores[method] = TASK.grade(spam, example).score
        assert TASK.grade(spam, example, config=RewardConfig(detection_reward="map_length")).score == 0.25
    assert scores == {
        **dict.fromkeys(("map", "od_ap", "od_ap50"), 1.0),
        **{"odLength": 0.25, None: 0.25, "weighted_sum": pytest.approx(0.7 + 0.3 * (1 - 0.75 / 2))},
    }


def test_distractors_are_wrong_for_one_object_many_and_none():
    for answer in ([], [CAT], [CAT, {**CAT, "label": "dog"}], [{**CAT, "bbox_2d": [i, 0, i + 9, 9]} for i in range(9)]):
        example = Example("open_detection", "q", answer)
        wrong = TASK.distractors(example, np.random.default_rng(0), 8)
        assert len({str(value) for value in wrong}) == 8
        assert not any(TASK.grade(TAGGED.format(TASK.show(value)), example).correct for value in wrong)


def test_a_box_written_twice_is_repetition():
    far = '{"bbox_2d": [1, 1, 9, 9], "label": "cat"}'
    texts = [TAGGED.format(f"[{', '.join(items)}]") for items in ([far], [far, far], [far, FENCED[9:-5], far, far])]
    texts.append("the same four words and the same four words")
    nothing = np.zeros(0, np.int64)
    done = [Completion(nothing, nothing.astype(np.float32), text, True) for text in texts]
    group = Group(Example("open_detection", "q", [CAT]), Prompt(nothing, np.zeros((3, 0), np.int64), 0), done)
    assert repetition(group, RewardConfig()).tolist() == pytest.approx([0, -0.5, -0.5, -1 / 6])
