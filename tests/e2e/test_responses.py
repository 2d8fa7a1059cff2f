"""The Responses API, asked with the openai client."""

import json

import openai
import pytest

from scripted import ARGS, CALLS, END_THINK, THINK, serve, user

CALL = [CALLS, "get_weather", ARGS, '{"a": "Oslo"}']
OUTPUTS = {
    "plain": ["Hello there."],
    "nothing": [],
    "thought": [THINK, "Why not?", END_THINK, "Yes."],
    "two calls": [THINK, "hm", END_THINK, "Let me see.", CALLS, "get_time",
                  ARGS, "{}"] + CALL,
}
EXPECTED = {
    "plain": [("message", "Hello there.")],
    "thought": [("reasoning", "Why not?"), ("message", "Yes.")],
    "two calls": [("reasoning", "hm"), ("message", "Let me see."),
                  ("function_call", "get_time", "{}"),
                  ("function_call", "get_weather", '{"a": "Oslo"}')],
}
TOOLS = [{"type": "function", "name": n, "description": "A tool.",
          "parameters": {"type": "object",
                         "properties": {"a": {"type": "string"}}}}
         for n in ("get_weather", "get_time")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = serve(tmp_path_factory.mktemp("responses"), OUTPUTS)
    try:
        yield server
    finally:
        server.stop()


def shape(items):
    return [("function_call", i.name, i.arguments)
            if i.type == "function_call" else (i.type, i.content[0].text)
            for i in items]


@pytest.mark.parametrize("text", EXPECTED)
def test_whole_and_streamed(server, text):
    client = server.openai()
    done = client.responses.create(model="default", input=text, tools=TOOLS)
    assert (done.object, done.status) == ("response", "completed")
    assert done.id.startswith("resp_")
    assert shape(done.output) == EXPECTED[text]
    usage = done.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    # AC-25
    assert (usage.output_tokens_details.reasoning_tokens > 0) == \
        (EXPECTED[text][0][0] == "reasoning")
    with client.responses.stream(model="default", input=text,
                                 tools=TOOLS) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert shape(final.output) == EXPECTED[text]
    assert final.usage.output_tokens == usage.output_tokens
    joined = "".join(e.delta for e in events
                     if e.type == "response.output_text.delta")
    assert joined == done.output_text


def test_events_in_order(server):
    _, headers, data = server.request("POST", "/v1/responses", {
        "input": "two calls", "stream": True, "tools": TOOLS})
    assert headers["Content-Type"].startswith("text/event-stream")
    events = []
    for block in data.decode().strip().split("\n\n"):
        name, line = block.split("\n")
        event = json.loads(line.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    kinds = [e["type"] for e in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    for added, done in (("output_item.added", "output_item.done"),
                        ("content_part.added", "content_part.done")):
        assert kinds.count(f"response.{added}") == \
            kinds.count(f"response.{done}")
    items = [e["item"] for e in events
             if e["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]
    for i, item in enumerate(items):
        deltas = "".join(e["delta"] for e in events
                         if e["type"].endswith(".delta")
                         and e["output_index"] == i)
        assert deltas == (item["arguments"]
                          if item["type"] == "function_call"
                          else item["content"][0]["text"])


def test_round_trip_with_tools(server):
    client = server.openai()
    first = client.responses.create(model="default", input="two calls",
                                    tools=TOOLS)
    items = user("two calls") + [i.model_dump() for i in first.output]
    items += [{"type": "function_call_output", "call_id": i.call_id,
               "output": "42"} for i in first.output
              if i.type == "function_call"]
    done = client.responses.create(
        model="default", input=items + user("plain"), tools=TOOLS,
        instructions="Be brief.")
    assert done.status == "completed"
    assert done.instructions == "Be brief."


def test_the_prompt_is_that_of_the_chat(server):
    done = server.json("POST", "/v1/responses", {
        "instructions": "Be brief.", "input": [{"role": "user", "content": [
            {"type": "input_text", "text": "Hi"}]}],
        "reasoning": {"effort": "medium"}, "max_output_tokens": 3})[1]
    chat = server.json("POST", "/tokenize", {
        "messages": [{"role": "system", "content": "Be brief."},
                     {"role": "user", "content": "Hi"}],
        "reasoning_effort": "high"})[1]
    assert done["usage"]["input_tokens"] == chat["count"]
    assert done["reasoning"]["effort"] == "high"


def test_incomplete(server):
    done = server.openai().responses.create(
        model="default", input="plain", max_output_tokens=1)
    assert done.status == "incomplete"
    assert done.incomplete_details.reason == "max_output_tokens"
    assert done.output[0].status == "incomplete"
    with server.openai().responses.stream(
            model="default", input="plain", max_output_tokens=1) as stream:
        kinds = [e.type for e in stream]
    assert kinds[-1] == "response.incomplete"


def test_an_empty_answer(server):
    done = server.openai().responses.create(model="default", input="nothing")
    assert done.status == "completed" and done.output_text == ""


@pytest.mark.parametrize("body", [
    {}, {"input": None}, {"input": 3}, {"input": []}, {"input": [3]},
    {"input": [{"type": "item_reference", "id": "x"}]},
    {"input": [{"type": "message", "role": "nobody", "content": "x"}]},
    {"input": "x", "previous_response_id": "resp_1"},
    {"input": "x", "background": True}, {"input": "x", "background": "no"},
    {"input": "x", "prompt": {"id": "x"}},
    {"input": "x", "tools": [{"type": "web_search"}]},
    {"input": "x", "tools": {}}, {"input": "x", "tools": ["x"]},
    {"input": "x", "text": "json"}, {"input": "x", "instructions": 3},
    {"input": "x", "max_output_tokens": 0},
    {"input": "x", "temperature": 9},
    {"input": "x", "reasoning": {"effort": "maximal"}},
])
def test_bad_requests(server, body):
    status, answer = server.json("POST", "/v1/responses", body)
    assert status == 400, answer
    assert answer["error"]["message"]


@pytest.mark.parametrize("field, value, param", [
    ("max_output_tokens", 0, "max_output_tokens"),
    ("text", {"format": {"type": "none"}}, "text.format"),
    ("text", {"format": {"type": "json_schema", "name": "x",
                         "schema": {"type": "odd"}}}, "text.format"),
    ("input", [{"role": "user", "content": 3}], "body.input"),
    ("temperature", 9, "temperature"),
])
def test_errors_name_the_clients_fields(server, field, value, param):
    status, answer = server.json("POST", "/v1/responses",
                                 {"input": "x", field: value})
    assert status == 400
    assert answer["error"]["param"] == param
    for ours in "max_completion_tokens", "response_format":
        assert ours not in answer["error"]["message"]


def test_nothing_is_kept(server):
    client = server.openai()
    done = client.responses.create(model="default", input="plain")
    assert done.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)
