"""One line of log a request: without a word of a prompt, unless whoever runs the server asks for them."""

import json

from serving_host import ask, chat, listening, told_server

from paceline.server.request_log import MOST_LETTERS

SECRET = "my medical record"


def lines_of(*bodies, **settings):
    lines = []
    with listening(told_server(log=lines.append, **settings)) as port:
        for body in bodies:
            ask(port, body)
        ask(port, path="/health")
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    return [json.loads(line) for line in lines]


def texts(*each):
    return {
        "messages": [{"role": "system", "content": "Be short."}, *({"role": "user", "content": one} for one in each)]
    }


def test_no_word_of_a_prompt_is_logged():
    wrong = texts(SECRET) | {"n": 3}
    found = lines_of(chat(20, user=SECRET), texts(SECRET), texts([{"type": "text", "text": SECRET}]), wrong, [SECRET])
    assert [line["status"] for line in found] == [200, 200, 200, 400, 400]
    assert not any(word in json.dumps(found) for word in (SECRET, "How many", "messages", "data:"))


def test_prompts_are_logged_where_that_is_asked_for_shortened_and_without_pictures():
    long = "a" * (MOST_LETTERS + 100)
    found = lines_of(chat(20), texts(SECRET, long), texts(SECRET) | {"n": 3}, b'{"messages": 5}', prompts=True)
    assert found[0]["messages"] == [{"role": "user", "text": "How many?"}]
    said = [each["text"] for each in found[1]["messages"]]
    assert said == ["Be short.", SECRET, long[:MOST_LETTERS]]
    assert [line["status"] for line in found[2:]] == [400, 400] and not any("messages" in line for line in found[2:])
    assert "data:" not in json.dumps(found) and "base64" not in json.dumps(found)
