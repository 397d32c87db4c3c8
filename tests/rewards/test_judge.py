# SPDX-License-Identifier: Apache-2.0
"""The judge against a small HTTP server that says what it is told."""

import json
import time

import pytest

from r1_mllm.rewards.judge import Item, Judge, JudgeConfig, read_score
from r1_mllm.runtime import Stop


def chat(text):
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def judge(service, cache=None, waits=None, **changes):
    settings = {"judge_url": service.url, "judge_model": "grader", "judge_threads": 1, **changes}
    return Judge(JudgeConfig(**settings), cache, sleep=(waits if waits is not None else []).append)


def items(*answers):
    return [Item("How many?", "4", answer) for answer in answers]


def test_scores_come_in_the_order_of_the_answers_from_several_threads(serve):
    def reply(number, body):
        text = body["messages"][0]["content"]
        score = int(text.split("Answer to grade:\n")[1].split("\n")[0])
        time.sleep(0.03 if score == 11 else 0.0)
        return chat(json.dumps({"score": score, "reason": "so"}))

    service = serve(reply)
    verdicts = judge(service, judge_threads=4).scores(items("11", "97", "42", "97"))
    assert [verdict.score for verdict in verdicts] == [11.0, 97.0, 42.0, 97.0]
    assert len(service.asked) == 3  # equal answers are asked about once
    assert service.asked[0]["model"] == "grader" and service.asked[0]["temperature"] == 0
    assert service.headers[0][0] == "/v1/chat/completions"


def test_a_busy_service_is_asked_again_after_the_time_it_names(serve):
    replies = [(429, {"Retry-After": "7"}, "busy"), (503, {}, ""), (200, {}, "{half"), (200, {}, '{"choices": []}')]
    service = serve(lambda number, body: replies[number - 1] if number <= len(replies) else chat("90"))
    waits = []
    (verdict,) = judge(service, waits=waits).scores(items("4"))
    assert verdict.score == 90.0 and len(service.asked) == 5
    assert waits[0] == 7.0 and [0.5 * 2**i <= wait <= 2**i for i, wait in enumerate(waits)][1:] == [True] * 3


def test_the_number_of_tries_is_bounded_and_one_failure_does_not_end_the_run(serve):
    service = serve(
        lambda number, body: (
            (500, {}, "no") if "Answer to grade:\nbad\n" in str(body["messages"][0]["content"]) else chat("score: 88")
        )
    )
    verdicts = judge(service, judge_retries=2).scores(items("bad", "good"))
    assert [verdict.score for verdict in verdicts] == [None, 88.0] and "tried 3 times" in verdicts[0].reply
    assert len(service.asked) == 4


def test_a_refused_question_is_not_asked_again(serve):
    service = serve(lambda number, body: (400, {}, "content filter"))
    (verdict,) = judge(service).scores(items("x"))
    assert verdict.score is None and "content filter" in verdict.reply and len(service.asked) == 1


@pytest.mark.parametrize("status, told", [(401, "OPENAI_API_KEY"), (404, "no such URL or model"), (403, "refused")])
def test_what_no_try_can_cure_ends_at_once(serve, status, told):
    service = serve(lambda number, body: (status, {}, "go away"))
    with pytest.raises(Stop, match=told):
        judge(service).scores(items("a", "b", "c"))
    assert len(service.asked) == 1


def test_a_service_that_fails_again_and_again_ends_the_run_and_keeps_what_was_judged(serve, tmp_path):
    cache = tmp_path / "made/judged.jsonl"
    service = serve(lambda number, body: chat("90") if number == 1 else chat("I cannot say"))
    with pytest.raises(Stop, match=r"no usable reply to 4 of 5 questions.*goes on from there"):
        judge(service, cache).scores(items(*"abcdefgh"))
    assert len(cache.read_text().splitlines()) == 1
    healthy = serve(lambda number, body: chat("70"))
    again = judge(healthy, cache).scores(items(*"abcdefgh"))
    assert [verdict.score for verdict in again] == [90.0] + [70.0] * 7 and len(healthy.asked) == 7


def test_verdicts_survive_a_kill_even_with_a_cut_line(serve, tmp_path):
    cache = tmp_path / "judged.jsonl"
    service = serve(lambda number, body: chat("60"))
    judge(service, cache).scores(items("a", "b"))
    cache.write_bytes(cache.read_bytes()[:-5])
    later = serve(lambda number, body: chat("65"))
    verdicts = judge(later, cache).scores(items("a", "b"))
    assert sorted(verdict.score for verdict in verdicts) == [60.0, 65.0] and len(later.asked) == 1
    assert judge(later, cache).scores(items("b", "a")) == verdicts[::-1] and len(later.asked) == 1


def test_an_absent_service_and_a_slow_one_are_named(serve):
    service = serve(lambda number, body: time.sleep(1) or chat("1"))
    (slow,) = judge(service, judge_timeout=0.05, judge_retries=0).scores(items("a"))
    assert slow.score is None and "ReadTimeout" in slow.reply
    closed = JudgeConfig(judge_url="http://127.0.0.1:9/v1", judge_model="m", judge_retries=1)
    (gone,) = Judge(closed, sleep=lambda wait: None).scores(items("a"))
    assert gone.score is None and "ConnectError" in gone.reply and "tried 2 times" in gone.reply


def test_the_key_goes_into_the_header_and_nowhere_else(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "word-of-mine")
    service = serve(lambda number, body: chat("50"))
    judge(service, tmp_path / "judged.jsonl").scores(items("a"))
    assert service.headers[0][1]["Authorization"] == "Bearer word-of-mine"
    assert "word-of-mine" not in (tmp_path / "judged.jsonl").read_text() + json.dumps(service.asked)


def test_pictures_are_sent_when_asked_for(serve):
    picture = b"\x89PNG\r\n\x1a\nrest"
    service = serve(lambda number, body: chat("50"))
    asked = [Item("What?", "a cat", "a cat", (picture,))]
    judge(service, judge_images=True).scores(asked)
    judge(service).scores(asked)
    parts = service.asked[0]["messages"][0]["content"]
    assert parts[0]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgpyZXN0" and parts[1]["type"] == "text"
    assert isinstance(service.asked[1]["messages"][0]["content"], str)


def test_braces_in_an_answer_are_not_filled_in(serve, tmp_path):
    (tmp_path / "prompt.txt").write_text("Q {question} R {reference} A {answer}")
    service = serve(lambda number, body: chat("50"))
    judge(service, judge_prompt=str(tmp_path / "prompt.txt")).scores([Item("{answer}", "{question}", r"{reference}\1")])
    assert service.asked[0]["messages"][0]["content"] == r"Q {answer} R {question} A {reference}\1"
    (tmp_path / "prompt.txt").write_text("no place")
    with pytest.raises(Stop, match=r"no \{answer\}"):
        judge(service, judge_prompt=str(tmp_path / "prompt.txt"))


@pytest.mark.parametrize(
    "reply, score",
    [
        ('{"score": 87, "reason": "fine"}', 87.0),
        ('```json\n{"reason": "a {brace}", "score": "86.5"}\n```', 86.5),
        ('{"score": 10} on reflection {"score": 95}', 95.0),
        ('first { then {"score": 12}', 12.0),
        ("**Score:** 91/100", 91.0),
        ("Score = 7.5", 7.5),
        (" 100 ", 100.0),
        ("", None),
        ("I would say 90 of 100", None),
        ('{"score": 101}', None),
        ('{"score": -1}', None),
        ('{"score": NaN}', None),
        ('{"score": null}', None),
        ('{"score": true}', None),
        ('{"score": [90]}', None),
        ("score: 1000", None),
        ("{" * 3000, None),
    ],
)
def test_points_are_read_from_what_a_judge_writes(reply, score):
    assert read_score(reply) == score


def test_settings_that_cannot_work_are_named():
    for settings, told in (
        ({"judge_url": "localhost:8000", "judge_model": "m"}, "http://"),
        ({"judge_url": "http://x"}, "judge_model"),
        ({"judge_url": "http://x", "judge_model": "m", "judge_threads": 0}, "judge_threads"),
    ):
        with pytest.raises(ValueError, match=told):
            JudgeConfig(**settings)
