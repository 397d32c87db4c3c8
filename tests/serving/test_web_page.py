# SPDX-License-Identifier: Apache-2.0
"""The page of `r1-mllm serve --web` in a real browser: a picture is chosen, a question asked, boxes are drawn."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from .. import chromium
from ..report.screenshots import ask_page
from .conftest import CASE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PATH is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def chrome():
    with chromium.Browser() as found:
        yield found


def test_the_page_asks_as_a_client_would_and_shows_the_answer(server, client, question, chrome):
    chrome.size(1000, 800)
    shown = ask_page(chrome, server.root + "/", CASE / "images" / "a.png", "How many?")
    reply = client.chat.completions.create(model="small", messages=question, temperature=0)
    assert shown == reply.choices[0].message.content
    about = chrome.run("document.querySelector('#about').textContent")
    assert about == f"{reply.usage.prompt_tokens} tokens read, {reply.usage.completion_tokens} written"
    chrome.size(360, 740, phone=True)
    assert chrome.run("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(
    ("units", "seen_wh", "written"),
    [("seen_px", [85, 131], "[10, 20, 50, 60]"), ("per_mille", [85, 131], "(117.6, 152.7, 588.2, 458.0)")],
)
def test_the_answers_boxes_are_drawn_where_they_are_in_the_picture(server, chrome, units, seen_wh, written):
    chrome.size(1000, 800)
    chrome.open(server.root + "/")
    chrome.choose_file("#picture", CASE / "images" / "a.png")
    chrome.wait("!document.querySelector('#canvas').hidden && document.querySelector('#canvas').width === 170")
    view = f"{{box_units: '{units}', seen_wh: {seen_wh}, original_wh: [170, 131]}}"
    chrome.run(f"draw(boxesOf('<think>[1, 1, 2, 2]</think><answer>{written}</answer>', {view}))")
    chrome.wait("shown && shown.length === 1")
    url = chrome.run("document.querySelector('#canvas').toDataURL('image/png')")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        red = (np.asarray(image.convert("RGB")) == (255, 0, 0)).all(axis=2)
    with Image.open(CASE / "images" / "a.png") as image:
        red &= (np.asarray(image.convert("RGB")) != (255, 0, 0)).any(axis=2)
    rows, columns = np.nonzero(red)  # two px wide around x 20 to 100, y 20 to 60
    assert [columns.min(), rows.min(), columns.max(), rows.max()] == [19, 19, 100, 60]


def test_a_key_is_asked_for_when_the_server_wants_one(start, chrome, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret-key-of-some-length\n")
    locked = start(api_key_file=str(keys), web=True)
    hidden = "document.querySelector('#locked').hidden"
    chrome.open(locked.root + "/")
    assert chrome.run(hidden) is True
    refused = ask_page(chrome, locked.root + "/", CASE / "images" / "a.png", "How many?")
    assert "Error" in refused and chrome.run(hidden) is False
    chrome.type("#key", "secret-key-of-some-length")
    chrome.run("document.querySelector('#answer').textContent = ''; document.querySelector('#ask').click()")
    chrome.wait("document.querySelector('#ask').disabled === false && document.querySelector('#answer').textContent")
    assert "Error" not in chrome.run("document.querySelector('#answer').textContent")
