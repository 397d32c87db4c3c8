# SPDX-License-Identifier: Apache-2.0
"""The real `openai` client against our server on the small golden checkpoint."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from r1_mllm.config import EvalConfig, RolloutConfig
from r1_mllm.evaluation.evaluate import evaluate
from r1_mllm.records import Example

CASE = Path(__file__).resolve().parents[1] / "golden/cases/e2e"
MODEL = "small"


def ask(client, messages, **settings):
    return client.chat.completions.create(model=MODEL, messages=messages, **settings)


def test_the_model_is_listed_and_described(client):
    assert [model.id for model in client.models.list().data] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_greedy_answers_are_those_of_eval_and_of_the_reference(client, golden_requests):
    from r1_mllm.evaluation.load import load

    folder = CASE / "checkpoint"
    loaded = load(folder, EvalConfig(model_path=str(folder), dtype="float32", max_new_tokens=20))
    asked = [(c, messages) for c, messages in golden_requests if len(c["messages"]) == 1]
    examples = [
        Example(
            "geometry",
            c["messages"][0]["content"][-1]["text"],
            "5",
            tuple(str(CASE / "images" / i) for i in c["images"]),
        )
        for c, _ in asked
    ]
    templates = {"geometry": {"open": {"r1": "{question}"}}}
    result = evaluate(loaded.engine, loaded.processor, examples, max_new_tokens=20, templates=templates)
    replies = [ask(client, messages, temperature=0, max_tokens=20) for _, messages in asked]
    texts = [reply.choices[0].message.content for reply in replies]
    assert texts == [row["model_output"] for row in result.rows] == [c["generated_text"] for c, _ in asked]
    assert len(texts) >= 2


def test_conversations_of_several_turns_are_answered_as_recorded(client, golden_requests):
    for conversation, messages in golden_requests:
        reply = ask(client, messages, temperature=0, max_tokens=20)
        assert reply.choices[0].message.content == conversation["generated_text"]


def test_a_file_under_the_permitted_folder_is_the_same_picture(client, question):
    want = ask(client, question, temperature=0, max_tokens=6).choices[0].message.content
    question[0]["content"][0]["image_url"]["url"] = (CASE / "images" / "a.png").as_uri()
    assert ask(client, question, temperature=0, max_tokens=6).choices[0].message.content == want


def test_streamed_pieces_add_up_to_the_whole_answer(client, question):
    settings = {"n": 2, "seed": 11, "max_tokens": 24, "logprobs": True, "top_logprobs": 2}
    whole = ask(client, question, **settings)
    texts, finish, tokens, usage = ["", ""], [None, None], [[], []], None
    for chunk in ask(client, question, stream=True, stream_options={"include_usage": True}, **settings):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finish[choice.index] = choice.finish_reason or finish[choice.index]
            tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert finish == [choice.finish_reason for choice in whole.choices]
    assert [[t.token for t in row] for row in tokens] == [[t.token for t in c.logprobs.content] for c in whole.choices]
    assert usage == whole.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_seeds_repeat_and_are_those_of_the_engine(client, server, question):
    from r1_mllm.rollout.engine import Engine

    first = [c.message.content for c in ask(client, question, n=3, seed=5, max_tokens=16).choices]
    assert first == [c.message.content for c in ask(client, question, n=3, seed=5, max_tokens=16).choices]
    assert first != [c.message.content for c in ask(client, question, n=3, seed=6, max_tokens=16).choices]
    assert len(set(first)) == 3
    own = server.service.scheduler.engine
    engine = Engine(own.model, own.tokenizer, RolloutConfig(max_completion_length=16))
    prompt = processor_prompt(own.tokenizer, question)
    assert first == [completion.text for completion in engine.generate([prompt], 3, seed=5)[0]]
    unseeded = {ask(client, question, max_tokens=16).choices[0].message.content for _ in range(3)}
    assert len(unseeded) == 3


def processor_prompt(tokenizer, question):
    from r1_mllm.processing.prompt import Processor

    messages = [{"role": "user", "content": [{"type": "image"}, question[0]["content"][1]]}]
    return Processor.from_pretrained(CASE / "checkpoint").encode(messages, [str(CASE / "images" / "a.png")])


def test_logprobs_are_of_the_plain_distribution_and_ranked(client, question):
    greedy = ask(client, question, temperature=0, max_tokens=5, logprobs=True, top_logprobs=4).choices[0]
    for token in greedy.logprobs.content:
        ranked = [other.logprob for other in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True) and token.logprob == ranked[0]
        assert sum(math.exp(value) for value in ranked) <= 1
    hot = ask(client, question, temperature=0.001, seed=1, max_tokens=5, logprobs=True).choices[0]
    assert [t.logprob for t in hot.logprobs.content] == pytest.approx([t.logprob for t in greedy.logprobs.content])


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(client, question):
    whole = ask(client, question, temperature=0, max_tokens=20).choices[0]
    stop = whole.message.content[7:10]
    before = whole.message.content[: whole.message.content.find(stop)]
    cut = ask(client, question, temperature=0, max_tokens=20, stop=[stop, "never there"])
    assert cut.choices[0].message.content == before and cut.choices[0].finish_reason == "stop"
    assert whole.finish_reason == "length" and cut.usage.completion_tokens < 20
    streamed = ask(client, question, temperature=0, max_tokens=20, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == before


@pytest.mark.slow
def test_a_hundred_requests_by_sixteen_clients_get_the_answers_they_would_get_alone(client, golden_requests):
    settings = [
        {"temperature": 0, "max_tokens": 12},
        {"seed": 3, "n": 2, "max_tokens": 9},
        {"seed": 4, "temperature": 0.7, "top_p": 0.9, "max_tokens": 14},
    ]
    kinds = [(messages, chosen) for _, messages in golden_requests for chosen in settings]

    def texts(kind):
        messages, chosen = kind
        return [choice.message.content for choice in ask(client, messages, **chosen).choices]

    alone = [texts(kind) for kind in kinds]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(texts, [kinds[i % len(kinds)] for i in range(100)]))
    assert together == [alone[i % len(kinds)] for i in range(100)]


def test_a_client_that_hangs_up_frees_its_place(client, server, question):
    before = server.counts.cancelled
    stream = ask(client, question, max_tokens=4000, temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    wait_for(lambda: server.counts.cancelled == before + 1)
    hanging = threading.Thread(target=impatient, args=(client, question))
    hanging.start()
    hanging.join()
    wait_for(lambda: server.counts.cancelled == before + 2)
    wait_for(lambda: server.service.scheduler.num_running == 0)


def impatient(client, question):
    import openai

    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).chat.completions.create(
            model=MODEL, messages=question, max_tokens=4000, temperature=0
        )


def wait_for(condition, seconds=10):
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
