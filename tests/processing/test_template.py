# SPDX-License-Identifier: Apache-2.0
"""Chat templates: where they come from, what they may use, and that none can run code or exhaust the machine."""

import json
import os
import pickle

import pytest

from r1_mllm.processing.template import ChatTemplate, template_source

ASK = [{"role": "user", "content": "5 < 6 & ü"}]


def test_files_are_searched_in_order(tmp_path):
    assert template_source(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "third"}))
    assert template_source(tmp_path) == "third"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "second"}))
    assert template_source(tmp_path) == "second"
    (tmp_path / "chat_template.jinja").write_text("first")
    assert template_source(tmp_path) == "first"


def test_of_several_named_templates_the_default_is_taken(tmp_path):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert template_source(tmp_path) == "plain"


def test_blocks_take_their_line_with_them_and_json_stays_readable():
    source = (
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m['content'] | tojson }}\n  {% endif %}\n{% endfor %}"
    )
    assert ChatTemplate(source).render(ASK) == '"5 < 6 & ü"\n'


def test_what_published_templates_use_is_there():
    source = (
        "{{ bos_token }}{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{% generation %}[{{ extra }}]{% endgeneration %}{{ strftime_now('%%') }}"
    )
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(ASK, extra=7) == "<s>01[7]%"


def test_pictures_in_messages_reach_the_template_as_a_key():
    source = "{% for p in messages[0].content %}{{ 'picture' if 'image' in p else p.text }} {% endfor %}"
    parts = [{"type": "image", "image": object()}, {"type": "text", "text": "why?"}]
    assert ChatTemplate(source).render([{"role": "user", "content": parts}]) == "picture why? "


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ 'A' * 3000000000 }}", "limit is 400 MB"),
        ("{{ '%999999999d' % 1 }}", "limit is 400 MB"),
        ("{{ 'x' | center(3000000000) }}", "limit is 400 MB"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "400 MB"),
        ("{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}", "more than 4000000 characters"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 2 s"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
    ],
)
def test_bad_templates_are_errors_that_name_the_template(source, message):
    template = ChatTemplate(source, name="folder: chat template")
    with pytest.raises(ValueError, match=f"folder: chat template: .*{message}"):
        template.render(ASK)


def test_a_failed_rendering_leaves_the_template_usable():
    template = ChatTemplate("{{ 'A' * size }}")
    with pytest.raises(ValueError, match="limit"):
        template.render(ASK, size=3_000_000_000)
    assert template.render(ASK, size=3) == "AAA"
    template.close()
    assert template.render(ASK, size=2) == "AA"


def test_it_survives_pickling_and_forking():
    template = ChatTemplate("{{ messages[0].content }}")
    assert template.render(ASK) == ASK[0]["content"]
    assert pickle.loads(pickle.dumps(template)).render(ASK) == ASK[0]["content"]
    child = os.fork()
    if child == 0:
        os._exit(0 if template.render(ASK) == ASK[0]["content"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert template.render([{"content": "again"}]) == "again"
