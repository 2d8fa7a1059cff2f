"""The Anthropic API, asked with its own client."""

import json

import anthropic
import pytest

import serving
from scripted import ARGS, CALLS, END_THINK, THINK, serve, user

CALL = [CALLS, "get_weather", ARGS, '{"a": "Oslo"}']
OUTPUTS = {
    "plain": ["Hello there."],
    "thought": [THINK, "Why not?", END_THINK, "Yes."],
    "two calls": [THINK, "hm", END_THINK, "Let me see.", CALLS, "get_time",
                  ARGS, "{}"] + CALL,
    "stops": ["before END after"],
    "no json": [CALLS, "get_time", ARGS, "whatever"],
}
TOOLS = [{"name": n, "description": "A tool.", "input_schema": {
    "type": "object", "properties": {"a": {"type": "string"}}}}
    for n in ("get_weather", "get_time")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = serve(tmp_path_factory.mktemp("messages"), OUTPUTS)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key=serving.KEY,
                               max_retries=0)


def create(client, text, **fields):
    return client.messages.create(
        model="default", max_tokens=100, messages=user(text), **fields)


def shape(blocks):
    return [{"text": lambda b: ("text", b.text),
             "thinking": lambda b: ("thinking", b.thinking),
             "tool_use": lambda b: ("tool_use", b.name, b.input)}[b.type](b)
            for b in blocks]


EXPECTED = {
    "plain": ([("text", "Hello there.")], "end_turn"),
    "thought": ([("thinking", "Why not?"), ("text", "Yes.")], "end_turn"),
    "two calls": ([("thinking", "hm"), ("text", "Let me see."),
                   ("tool_use", "get_time", {}),
                   ("tool_use", "get_weather", {"a": "Oslo"})], "tool_use"),
}


@pytest.mark.parametrize("text", EXPECTED)
def test_whole_and_streamed(client, text):
    """AC-16, AC-22: blocks in their own order, whole and streamed."""
    blocks, reason = EXPECTED[text]
    done = create(client, text, tools=TOOLS)
    assert (done.type, done.role, done.model) == \
        ("message", "assistant", "default")
    assert done.id.startswith("msg_")
    assert (shape(done.content), done.stop_reason) == (blocks, reason)
    with client.messages.stream(model="default", max_tokens=100, tools=TOOLS,
                                messages=user(text)) as stream:
        final = stream.get_final_message()
    assert (shape(final.content), final.stop_reason) == (blocks, reason)
    assert final.usage.output_tokens == done.usage.output_tokens
    assert done.usage.input_tokens + done.usage.cache_read_input_tokens == \
        final.usage.input_tokens + final.usage.cache_read_input_tokens


def test_events_in_order(server):
    _, headers, data = server.request("POST", "/v1/messages", {
        "model": "default", "max_tokens": 50, "stream": True, "tools": TOOLS,
        "messages": user("two calls")})
    assert headers["Content-Type"].startswith("text/event-stream")
    names, open_block = [], None
    for block in data.decode().strip().split("\n\n"):
        name, line = block.split("\n")
        event = json.loads(line.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        names.append(event["type"])
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
        elif event["type"].startswith("content_block"):
            assert event["index"] == open_block
        if event["type"] == "content_block_stop":
            open_block = None
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert names.count("content_block_start") == 4


def test_stop_sequences_and_limits(client):
    done = create(client, "stops", stop_sequences=["END"])
    assert (done.stop_reason, done.stop_sequence) == ("stop_sequence", "END")
    assert done.content[0].text == "before "
    cut = client.messages.create(model="default", max_tokens=1,
                                 messages=user("stops"))
    assert cut.stop_reason == "max_tokens"
    assert cut.usage.output_tokens == 1


def test_arguments_that_are_no_object(client):
    done = create(client, "no json", tools=TOOLS)
    assert shape(done.content) == [
        ("tool_use", "get_time", {"arguments": "whatever"})]


def test_round_trip_with_tools(client):
    """AC-16: text and tool_use after a thought can be sent back."""
    first = create(client, "two calls", tools=TOOLS)
    results = [{"type": "tool_result", "tool_use_id": b.id, "content": c}
               for b, c in zip([b for b in first.content
                                if b.type == "tool_use"],
                               ["noon", [{"type": "text", "text": "rain"}]])]
    messages = user("two calls") + [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results + [
            {"type": "text", "text": "plain",
             "cache_control": {"type": "ephemeral"}}]}]
    done = client.messages.create(model="default", max_tokens=50, tools=TOOLS,
                                  messages=messages)
    assert done.content
    count = client.messages.count_tokens(model="default", tools=TOOLS,
                                         messages=messages)
    assert count.input_tokens == \
        done.usage.input_tokens + done.usage.cache_read_input_tokens


def test_the_prompt_is_that_of_the_chat(server):
    """Both ways of asking give the same ids."""
    count = server.json("POST", "/v1/messages/count_tokens", {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "Hi"}]}],
        "thinking": {"type": "enabled", "budget_tokens": 2000}})[1]
    chat = server.json("POST", "/tokenize", {
        "messages": [{"role": "system", "content": "Be brief."},
                     {"role": "user", "content": "Hi"}],
        "reasoning_effort": "high"})[1]
    assert count == {"input_tokens": chat["count"]}


def test_system_entries_among_the_messages(client):
    """AC-17"""
    done = client.messages.create(
        model="default", max_tokens=50, system="Be brief.",
        messages=[{"role": "system", "content": "Really."}] + user("plain"))
    assert done.content


@pytest.mark.parametrize("thinking, budget", [
    ({"type": "enabled", "budget_tokens": 1024}, True),
    ({"type": "adaptive"}, True), ({"type": "disabled"}, False)])
def test_thinking(server, thinking, budget):
    _, headers, _ = server.request("POST", "/v1/messages", {
        "max_tokens": 5, "messages": user("plain"), "thinking": thinking})
    assert headers["X-Reasoning-Effort"] == ("high" if budget else "none")


@pytest.mark.parametrize("choice, calls", [
    ({"type": "auto"}, 2), ({"type": "any"}, 2), ({"type": "none"}, 0),
    ({"type": "auto", "disable_parallel_tool_use": True}, 1)])
def test_tool_choice(client, choice, calls):
    done = create(client, "two calls", tools=TOOLS, tool_choice=choice)
    assert len([b for b in done.content if b.type == "tool_use"]) == calls


@pytest.mark.parametrize("body", [
    {}, {"messages": []}, {"max_tokens": 5}, {"messages": user("x")},
    {"messages": user("x"), "max_tokens": 0},
    {"messages": user("x"), "max_tokens": "5"},
    {"messages": "x", "max_tokens": 5},
    {"messages": [1], "max_tokens": 5},
    {"messages": [{"role": "robot", "content": "x"}], "max_tokens": 5},
    {"messages": [{"role": "user", "content": [{"type": "video"}]}],
     "max_tokens": 5},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}],
     "max_tokens": 5},
    {"messages": [{"role": "user", "content": [
        {"type": "image", "source": 3}]}], "max_tokens": 5},
    {"messages": user("x"), "max_tokens": 5, "tools": {}},
    {"messages": user("x"), "max_tokens": 5, "tools": [3]},
    {"messages": user("x"), "max_tokens": 5,
     "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    {"messages": user("x"), "max_tokens": 5, "tool_choice": {"type": "x"}},
    {"messages": user("x"), "max_tokens": 5, "tool_choice": "auto"},
    {"messages": user("x"), "max_tokens": 5, "thinking": {"type": "x"}},
    {"messages": user("x"), "max_tokens": 5, "thinking": 3},
    {"messages": user("x"), "max_tokens": 5, "system": 3},
    {"messages": user("x"), "max_tokens": 5, "stop_sequences": "x" * 5000},
])
def test_bad_requests(server, body):
    status, error = server.json("POST", "/v1/messages", body)
    assert status == 400
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"]


@pytest.mark.parametrize("field, value, name", [
    ("stop_sequences", [""], "stop_sequences must"),
    ("output_config", {"format": {"type": "x"}}, "output_config.format.type"),
    ("output_format", {"type": "x"}, "output_config.format.type"),
    ("output_config", {"effort": "x"}, "output_config.effort must"),
])
def test_errors_name_the_clients_fields(server, field, value, name):
    status, error = server.json("POST", "/v1/messages", {
        "messages": user("x"), "max_tokens": 5, field: value})
    assert status == 400
    assert error["error"]["message"].startswith(name)


def test_the_clients_errors(server, client):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="no-such-model", max_tokens=5,
                               messages=user("x"))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="default", max_tokens=5,
                               extra_body={"top_k": -5},
                               messages=user("x"))
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=server.url, api_key="wrong",
                            max_retries=0).messages.create(
            model="default", max_tokens=5, messages=user("x"))
