"""Chat completions: what a model gives out, streamed and whole, as clients see
it. The numbers are those of the acceptance cases each test stands for."""

import json
import re

import pytest

import serving
from scripted import (ARGS, CALLS, END_THINK, TEKKEN, THINK, TOOLS, joined,
                      serve, user)

CALL = [CALLS, "get_weather", ARGS, '{"a": "Oslo"}']

# text of the user: (output, content, reasoning, calls, finish reason)
CASES = {
    "plain": (["Hello there."], "Hello there.", None, [], "stop"),
    "nothing": ([], "", None, [], "stop"),
    "thought": ([THINK, "Why not?", END_THINK, "Yes."],
                "Yes.", "Why not?", [], "stop"),
    "newlines": ([THINK, "a\n", END_THINK, "\n\nb"], "\n\nb", "a\n", [],
                 "stop"),
    # AC-29: the end inside a thought ends the thought first
    "unclosed": ([THINK, "on and on"], None, "on and on", [], "stop"),
    "stray end": (["a", END_THINK, "b"], "ab", None, [], "stop"),
    "text first": (["a ", THINK, "b", END_THINK, "c"], "a c", "b", [],
                   "stop"),
    "emoji": (["\U0001f600 caf\u00e9 \u4f60\u597d"],
              "\U0001f600 caf\u00e9 \u4f60\u597d", None, [], "stop"),
    "look-alikes": (["[THINK]x[/THINK][TOOL_CALLS]y[ARGS]{}"],
                    "[THINK]x[/THINK][TOOL_CALLS]y[ARGS]{}", None, [],
                    "stop"),
    "a call": (CALL, None, None, [("get_weather", '{"a": "Oslo"}')],
               "tool_calls"),
    "text and call": (["Let me see. "] + CALL, "Let me see. ", None,
                      [("get_weather", '{"a": "Oslo"}')], "tool_calls"),
    # AC-09, AC-10, AC-11
    "two calls": ([THINK, "hm", END_THINK, CALLS, "get_time", ARGS, "{}"]
                  + CALL, None, "hm",
                  [("get_time", "{}"), ("get_weather", '{"a": "Oslo"}')],
                  "tool_calls"),
    # AC-02
    "text behind": (CALL + ["} and so on"], None, None,
                    [("get_weather", '{"a": "Oslo"}')], "tool_calls"),
    # AC-06
    "values": ([CALLS, "get_time", ARGS,
                '{"i": 1, "f": -2.5e3, "b": [true, null], "o": {}}'],
               None, None,
               [("get_time",
                 '{"i": 1, "f": -2.5e3, "b": [true, null], "o": {}}')],
               "tool_calls"),
    # AC-08, AC-15
    "no marker": ([CALLS, 'get_time{"a": 1}'], None, None,
                  [("get_time", '{"a": 1}')], "tool_calls"),
    "array form": ([CALLS, '[{"name": "get_time", "arguments": {"a": 1}}]'],
                   None, None, [("get_time", '{"a": 1}')], "tool_calls"),
    "no json": ([CALLS, "get_time", ARGS, "whatever"], None, None,
                [("get_time", "whatever")], "tool_calls"),
    "no tool": ([CALLS, "no_such_tool", ARGS, "{}"], None, None,
                [("no_such_tool", "{}")], "tool_calls"),    # AC-10
    "no name": ([CALLS, ARGS, "{}"], "", None, [], "stop"),
    # AC-14
    "call in thought": ([THINK, "so "] + CALL, None, "so ",
                        [("get_weather", '{"a": "Oslo"}')], "tool_calls"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    outputs = {text: case[0] for text, case in CASES.items()}
    outputs |= {
        "loop": ["On "] + ["and on "] * 20,
        "long": ["one two three four five six seven eight nine ten"],
        "stops": [THINK, "END of thought", END_THINK, "before END after"],
        "just a call": [THINK, "so", END_THINK] + CALL,
        "stop in call": [CALLS, "get_time", ARGS, '{"a": "END"}'],
    }
    server = serve(tmp_path_factory.mktemp("chat"), outputs)
    try:
        yield server
    finally:
        server.stop()


def ask(server, text, **fields):
    status, body = server.json("POST", "/v1/chat/completions",
                               {"messages": user(text), **fields})
    assert status == 200, body
    return body


def stream(server, text, **fields):
    status, headers, data = server.request(
        "POST", "/v1/chat/completions",
        {"messages": user(text), "stream": True, **fields})
    assert status == 200, data
    assert headers["Content-Type"].startswith("text/event-stream")
    events = serving.sse(data)
    assert events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    assert len({(e["id"], e["created"], e["model"], e["object"])
                for e in events[:-1]}) == 1
    return events[:-1]


@pytest.mark.parametrize("text", CASES)
def test_streamed_and_whole_say_the_same(server, text):
    """AC-01, AC-05, AC-07, AC-12, AC-23, AC-27, AC-30d"""
    _, content, reasoning, calls, finish = CASES[text]
    whole = ask(server, text, tools=TOOLS)["choices"][0]
    message = whole["message"]
    assert message["content"] == content
    assert message.get("reasoning") == reasoning
    assert message.get("reasoning_content") == reasoning
    got = [(c["function"]["name"], c["function"]["arguments"])
           for c in message.get("tool_calls", [])]
    assert got == calls
    assert ("tool_calls" in message) == bool(calls)
    assert whole["finish_reason"] == finish
    for call in message.get("tool_calls", []):    # AC-03
        assert re.fullmatch("[A-Za-z0-9]{9}", call["id"])
    parts, reason = joined(stream(server, text, tools=TOOLS))
    assert parts["content"] == (content or "")
    assert parts["reasoning"] == reasoning
    assert [(c["name"], c["arguments"]) for c in parts["tool_calls"]] == calls
    assert reason == finish


@pytest.mark.parametrize("interval", [2, 3, 7, 100])
@pytest.mark.parametrize("text", ["two calls", "emoji", "text first"])
def test_the_interval_of_chunks_changes_nothing(server, text, interval):
    """AC-10, AC-11"""
    parts, _ = joined(stream(server, text, tools=TOOLS,
                             stream_interval=interval))
    assert parts == {**joined(stream(server, text, tools=TOOLS))[0],
                     "tool_calls": parts["tool_calls"]}
    assert [(c["name"], c["arguments"]) for c in parts["tool_calls"]] == \
        CASES[text][3]


@pytest.mark.parametrize("choice, finish", [
    ("auto", "tool_calls"), ("required", "tool_calls"), ("any", "tool_calls"),
    ({"type": "function", "function": {"name": "get_weather"}}, "stop")])
def test_tool_choice(server, choice, finish):
    """AC-01, AC-03, AC-13"""
    text = "just a call"
    fields = {"tools": TOOLS, "tool_choice": choice}
    whole = ask(server, text, **fields)["choices"][0]
    assert whole["finish_reason"] == finish
    parts, reason = joined(stream(server, text, **fields))
    assert reason == finish
    assert parts["tool_calls"][0]["arguments"] == '{"a": "Oslo"}'
    assert whole["message"]["tool_calls"][0]["function"]["arguments"] == \
        '{"a": "Oslo"}'
    for call in (parts["tool_calls"][0], whole["message"]["tool_calls"][0]):
        assert re.fullmatch("[A-Za-z0-9]{9}", call["id"])
        history = user(text) + [
            {"role": "assistant", "tool_calls": [{
                "id": call["id"], "type": "function", "function": {
                    "name": "get_weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": call["id"], "content": "42"}]
        assert server.json("POST", "/v1/chat/completions", {
            **fields, "messages": history})[0] == 200


def test_tool_choice_none_never_shows_a_call(server):
    """AC-01"""
    whole = ask(server, "a call", tools=TOOLS, tool_choice="none")
    message = whole["choices"][0]["message"]
    assert "tool_calls" not in message
    assert "TOOL_CALLS" not in message["content"]
    parts, reason = joined(stream(server, "a call", tools=TOOLS,
                                  tool_choice="none"))
    assert parts["tool_calls"] == [] and reason == "stop"
    assert parts["content"] == message["content"]


def test_parallel_tool_calls_off(server):
    whole = ask(server, "two calls", tools=TOOLS, parallel_tool_calls=False)
    assert len(whole["choices"][0]["message"]["tool_calls"]) == 1
    parts, _ = joined(stream(server, "two calls", tools=TOOLS,
                             parallel_tool_calls=False))
    assert [c["name"] for c in parts["tool_calls"]] == ["get_time"]


def test_a_call_cut_by_the_limit_is_length_in_both(server):
    """AC-17b"""
    full = ask(server, "a call", tools=TOOLS)["usage"]["completion_tokens"]
    for limit in range(1, full + 2):
        fields = {"tools": TOOLS, "max_tokens": limit}
        whole = ask(server, "a call", **fields)["choices"][0]
        parts, reason = joined(stream(server, "a call", **fields))
        calls = whole["message"].get("tool_calls", [])
        assert [c["function"]["arguments"] for c in calls] == \
            [c["arguments"] for c in parts["tool_calls"]]
        assert (whole["message"]["content"] or "") == parts["content"]
        assert whole["finish_reason"] == reason
        assert reason == ("length" if limit < full else "tool_calls")
        assert "TOOL" not in json.dumps(whole)


@pytest.mark.parametrize("text", ["two calls", "text and call", "thought"])
def test_whole_calls_for_those_who_take_no_others(server, text):
    """Mistral's client; also where the limit cuts a call."""
    total = ask(server, text, tools=TOOLS)["usage"]["completion_tokens"]
    for limit in range(1, total + 1):
        fields = {"tools": TOOLS, "max_tokens": limit, "logprobs": True}
        _, _, data = server.request(
            "POST", "/v1/chat/completions",
            {"messages": user(text), "stream": True, **fields},
            headers={"User-Agent": "speakeasy-sdk/python 3.7 mistralai"})
        chunks = serving.sse(data)[:-1]
        whole = ask(server, text, **fields)["choices"][0]
        calls = [c for chunk in chunks for choice in chunk["choices"]
                 for c in choice["delta"].get("tool_calls", [])]
        assert [c["function"] for c in calls] == \
            [c["function"] for c in whole["message"].get("tool_calls", [])]
        assert [c["index"] for c in calls] == list(range(len(calls)))
        parts, reason = joined(chunks)
        assert (parts["content"] or "") == (whole["message"]["content"] or "")
        assert parts["reasoning"] == whole["message"].get("reasoning")
        assert reason == whole["finish_reason"]
        assert sum(len(choice["logprobs"]["content"]) for chunk in chunks
                   for choice in chunk["choices"] if choice["logprobs"]) == \
            limit


def test_usage(server):
    """AC-25: thinking tokens are counted whenever a thought was returned."""
    for text, (_, _, reasoning, _, _) in CASES.items():
        usage = ask(server, text, tools=TOOLS)["usage"]
        assert usage["total_tokens"] == \
            usage["prompt_tokens"] + usage["completion_tokens"]
        details = usage["completion_tokens_details"]
        assert (details["reasoning_tokens"] > 0) == bool(reasoning), text
        assert usage["prompt_tokens_details"]["cached_tokens"] >= 0
        chunks = stream(server, text, tools=TOOLS,
                        stream_options={"include_usage": True})
        assert all("usage" not in c for c in chunks[:-1])
        assert chunks[-1]["choices"] == []
        for key in ("completion_tokens", "prompt_tokens"):
            assert chunks[-1]["usage"][key] == usage[key]
        assert chunks[-1]["usage"]["completion_tokens_details"] == details
        hidden = ask(server, text, include_reasoning=False, tools=TOOLS)
        assert "reasoning" not in hidden["choices"][0]["message"]
        assert hidden["usage"]["completion_tokens_details"] == details


def test_thinking_tokens_are_those_between_the_marks(server):
    body = ask(server, "thought", return_token_ids=True)
    ids = body["choices"][0]["token_ids"]
    inside = ids[ids.index(34) + 1:ids.index(35)]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == \
        len(inside)
    assert body["usage"]["completion_tokens"] == len(ids)


def test_running_usage(server):
    chunks = stream(server, "long", stream_options={
        "include_usage": True, "continuous_usage_stats": True})
    counts = [c["usage"]["completion_tokens"] for c in chunks]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == ask(server, "long")["usage"]["completion_tokens"]


def test_one_limit_over_thought_and_answer(server):
    """AC-30"""
    whole = ask(server, "thought", max_completion_tokens=2, max_tokens=9999)
    choice = whole["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning"]
    assert whole["usage"]["completion_tokens"] == 2


def test_stop_strings(server):
    """AC-26, AC-27, AC-28: in visible text only, and removed."""
    whole = ask(server, "stops", stop="END")
    choice = whole["choices"][0]
    assert choice["message"]["reasoning"] == "END of thought"
    assert choice["message"]["content"] == "before "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "END")
    assert choice["matched_stop"] == "END"      # SGLang's name
    full = ask(server, "stops")
    assert whole["usage"]["completion_tokens"] < \
        full["usage"]["completion_tokens"]
    chunks = stream(server, "stops", stop=["zzz", "END"],
                    stream_options={"include_usage": True})
    parts, reason = joined(chunks)
    assert (parts["content"], reason) == ("before ", "stop")
    assert parts["reasoning"] == "END of thought"
    assert chunks[-1]["usage"]["completion_tokens"] == \
        whole["usage"]["completion_tokens"]
    kept = ask(server, "stops", stop="END", include_stop_str_in_output=True)
    assert kept["choices"][0]["message"]["content"] == "before END"
    call = ask(server, "stop in call", stop="END", tools=TOOLS)["choices"][0]
    assert call["finish_reason"] == "tool_calls"
    assert call["message"]["tool_calls"][0]["function"]["arguments"] == \
        '{"a": "END"}'


def test_stop_tokens(server):
    ids = ask(server, "long", return_token_ids=True)["choices"][0]["token_ids"]
    choice = ask(server, "long", stop_token_ids=[ids[3]])["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == \
        ("stop", ids[3])
    whole = ask(server, "long")["choices"][0]["message"]["content"]
    assert whole.startswith(choice["message"]["content"])
    shown = ask(server, "long", stop_token_ids=[ids[3]],
                include_stop_str_in_output=True)["choices"][0]
    assert len(shown["message"]["content"]) > len(choice["message"]["content"])


def test_include_reasoning_hides_all_of_it(server):
    body = ask(server, "thought", include_reasoning=False, logprobs=True,
               return_token_ids=True)
    choice = body["choices"][0]
    assert choice["message"]["content"] == "Yes."
    assert choice["logprobs"] is None and choice["token_ids"] is None
    assert "Why" not in json.dumps(body)
    chunks = stream(server, "thought", include_reasoning=False, logprobs=True)
    assert joined(chunks)[0]["reasoning"] is None


@pytest.mark.parametrize("skip", [True, False])
def test_control_tokens_are_read_before_they_are_skipped(server, skip):
    """AC-30d"""
    for text in ("thought", "two calls"):
        _, content, reasoning, calls, _ = CASES[text]
        message = ask(server, text, tools=TOOLS, skip_special_tokens=skip)[
            "choices"][0]["message"]
        assert (message["content"], message["reasoning"]) == \
            (content, reasoning)
        assert len(message.get("tool_calls", [])) == len(calls)


def test_reasoning_as_text_and_in_one_piece(server):
    choice = ask(server, "thought", separate_reasoning=False)["choices"][0]
    assert choice["message"]["content"] == "Why not?Yes."
    chunks = stream(server, "thought", stream_reasoning=False)
    thoughts = [c["choices"][0]["delta"]["reasoning"] for c in chunks
                if "reasoning" in c["choices"][0]["delta"]]
    assert thoughts == ["Why not?"]


def test_an_output_that_repeats_itself_ends(server):
    for least in (1, 2):
        fields = {"repetition_detection": {
            "max_pattern_size": 9, "min_pattern_size": least, "min_count": 4}}
        choice = ask(server, "loop", **fields)["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert choice["stop_reason"] == "repetition_detected"
        assert choice["message"]["content"] == "On" + " and on" * 4
        message, reason = joined(stream(server, "loop", **fields))
        assert message["content"] == choice["message"]["content"]
        assert reason == "stop"
    for free in ({"max_pattern_size": 9, "min_count": 21},
                 {"max_pattern_size": 0, "min_count": 2}, {}, None):
        choice = ask(server, "loop", repetition_detection=free)["choices"][0]
        assert choice["message"]["content"] == "On " + "and on " * 20
        assert choice["stop_reason"] is None


def test_logprobs_of_given_ids(server):
    """Behind the likeliest, each id once."""
    def tops(**fields):
        choice = ask(server, "plain", logprobs=True, **fields,
                     return_tokens_as_token_ids=True)["choices"][0]
        entries = choice["logprobs"]["content"]
        for e in entries:
            said = [t["token"] for t in e["top_logprobs"]]
            assert len(set(said)) == len(said), said
        return [{t["token"]: t["logprob"] for t in e["top_logprobs"]}
                for e in entries], [e["token"] for e in entries]

    many, tokens = tops(top_logprobs=5)
    some, _ = tops(top_logprobs=1, logprob_token_ids=[300, 200])
    for all_, few, token in zip(many, some, tokens):
        assert list(few) == list(dict.fromkeys(
            [next(iter(all_)), "token_id:300", "token_id:200"]))
        assert all(all_.get(t, few[t]) == few[t] for t in few)
    likeliest = [int(next(iter(e)).removeprefix("token_id:")) for e in many]
    tops(top_logprobs=1, logprob_token_ids=likeliest)   # some are both
    none, _ = tops(logprob_token_ids=[300])
    assert all(list(e) == ["token_id:300"] for e in none)


def test_logprobs(server):
    whole = ask(server, "thought", logprobs=True, top_logprobs=2)
    entries = whole["choices"][0]["logprobs"]["content"]
    assert len(entries) == whole["usage"]["completion_tokens"]
    for e in entries:
        assert e["logprob"] <= 0
        assert len(e["top_logprobs"]) == 2
        assert e["token"].encode() == bytes(e["bytes"])
    chunks = stream(server, "thought", logprobs=True, top_logprobs=2)
    parts = [e for c in chunks for e in
             (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert parts == entries
    bare = ask(server, "thought", logprobs=True)["choices"][0]["logprobs"]
    assert all(e["top_logprobs"] == [] for e in bare["content"])
    ids = ask(server, "thought", logprobs=True,
              return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    assert ids["content"][0]["token"] == "token_id:34"


def test_prompt_fields(server):
    body = ask(server, "plain", prompt_logprobs=1, return_token_ids=True,
               return_prompt_text=True)
    assert len(body["prompt_logprobs"]) == body["usage"]["prompt_tokens"] == \
        len(body["prompt_token_ids"])
    assert body["prompt_logprobs"][0] is None
    for entry, id in zip(body["prompt_logprobs"][1:],
                         body["prompt_token_ids"][1:]):
        assert str(id) in entry
    assert "[INST]plain[/INST]" in body["prompt_text"]
    first = stream(server, "plain", return_token_ids=True)[0]
    assert first["prompt_token_ids"] == body["prompt_token_ids"]


def test_n(server):
    body = ask(server, "plain", n=3)
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    one = ask(server, "plain")
    assert body["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == \
        3 * one["usage"]["completion_tokens"]
    chunks = stream(server, "plain", n=3)
    for i in range(3):
        mine = [c for c in chunks if c["choices"][0]["index"] == i]
        assert joined(mine) == ({"content": "Hello there.", "reasoning": None,
                                 "tool_calls": []}, "stop")


def test_the_id_and_the_model_are_the_clients(server):
    body = ask(server, "plain", model="other", request_id="abc-1")
    assert (body["id"], body["model"]) == ("chatcmpl-abc-1", "other")
    _, headers, data = server.request(
        "POST", "/v1/chat/completions", {"messages": user("plain")},
        headers={"X-Request-Id": "from.header"})
    assert json.loads(data)["id"] == "chatcmpl-from.header"
    assert headers["X-Request-Id"] == "from.header"


@pytest.mark.parametrize("fields, effective", [
    ({}, "none"), ({"reasoning_effort": None}, "none"),
    ({"reasoning_effort": "none"}, "none"),
    ({"reasoning_effort": "minimal"}, "none"),
    ({"reasoning_effort": "low"}, "high"),
    ({"reasoning_effort": "medium"}, "high"),
    ({"reasoning_effort": "high"}, "high"),
    ({"reasoning_effort": "xhigh"}, "high"),
    ({"reasoning_effort": "max"}, "high"),
    ({"reasoning": {"effort": "low"}}, "high"),
    ({"reasoning": {"enabled": True}}, "high"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "high"),
    ({"chat_template_kwargs": {"thinking": False}}, "none"),
    ({"chat_template_kwargs": {"reasoning_effort": "high"}}, "high"),
    ({"chat_template_kwargs": {"enable_thinking": True},
      "reasoning_effort": "none"}, "none"),
])
def test_reasoning_effort(server, fields, effective):
    """AC-24"""
    _, headers, data = server.request(
        "POST", "/v1/chat/completions",
        {"messages": user("plain"), "return_prompt_text": True, **fields})
    assert headers["X-Reasoning-Effort"] == effective
    asked = f'{{"reasoning_effort": "{effective}"}}'
    text = json.loads(data)["prompt_text"]
    assert asked in text or (effective == "none" and not fields)


def test_the_thinking_budget_ends_the_thought(server):
    body = ask(server, "unclosed", thinking_token_budget=1)
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 1
    assert body["choices"][0]["message"]["content"]


def test_our_own_reply_can_be_sent_back(server):
    """AC-04, AC-21"""
    first = ask(server, "two calls", tools=TOOLS)["choices"][0]["message"]
    history = user("two calls") + [first] + [
        {"role": "tool", "tool_call_id": c["id"], "content": "42"}
        for c in first["tool_calls"]] + user("plain")
    status, body = server.json("POST", "/v1/chat/completions", {
        "messages": history, "tools": TOOLS, "return_prompt_text": True})
    assert status == 200, body
    assert "[THINK]hm[/THINK]" in body["prompt_text"]
    foreign = json.loads(json.dumps(history).replace(
        first["tool_calls"][0]["id"], "call_0123456789abcdef"))
    status, body = server.json("POST", "/v1/chat/completions",
                               {"messages": foreign, "tools": TOOLS})
    assert status == 200, body


def test_a_trailing_assistant_turn_is_continued(server):
    """AC-19c"""
    history = user("plain") + [{"role": "assistant", "content": "So, "}]
    status, body = server.json("POST", "/v1/chat/completions",
                               {"messages": history, "echo": True})
    assert status == 200
    assert body["choices"][0]["message"]["content"] == "So, Hello there."


def test_the_openai_client(server):
    client = server.openai()
    done = client.chat.completions.create(
        model="default", messages=user("two calls"), tools=TOOLS)
    assert done.choices[0].finish_reason == "tool_calls"
    assert [c.function.name for c in done.choices[0].message.tool_calls] == \
        ["get_time", "get_weather"]
    assert done.usage.completion_tokens_details.reasoning_tokens > 0
    with client.chat.completions.stream(
            model="default", messages=user("two calls"), tools=TOOLS) as s:
        final = s.get_final_completion()
    assert [c.function.arguments
            for c in final.choices[0].message.tool_calls] == \
        ["{}", '{"a": "Oslo"}']
    assert final.choices[0].message.reasoning_content == "hm"


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_one_name_of_the_thought(tmp_path, field):
    """AC-23"""
    server = serve(tmp_path, {"thought": CASES["thought"][0]},
                   reasoning_field=field)
    try:
        message = ask(server, "thought")["choices"][0]["message"]
        assert message[field] == "Why not?"
        assert len([k for k in message if "reason" in k]) == 1
    finally:
        server.stop()


@pytest.mark.parametrize("hold", ["on", "off"])
def test_settings_of_thoughts(tmp_path, hold):
    """AC-24, AC-26, AC-29: what an operator may choose otherwise."""
    server = serve(tmp_path, {
        "unclosed": CASES["unclosed"][0],
        "stops": [THINK, "a END b", END_THINK, "before END after"],
    }, hold_end_in_thought=hold, strict_reasoning_effort=hold,
        stop_in_thought=hold)
    try:
        body = ask(server, "unclosed", return_token_ids=True)
        assert (35 in body["choices"][0]["token_ids"]) == (hold == "on")
        message = ask(server, "stops", stop="END")["choices"][0]["message"]
        assert message["reasoning"] == ("a " if hold == "on" else "a END b")
        status, body = server.json("POST", "/v1/chat/completions", {
            "messages": user("stops"), "reasoning_effort": "medium"})
        assert status == (400 if hold == "on" else 200)
        assert hold == "off" or body["error"]["param"] == "reasoning_effort"
    finally:
        server.stop()


def test_a_failing_device_is_an_error_in_both_ways(tmp_path):
    server = serving.Server(
        tmp_path, backend="null:rate=200,fail=40", served_name="default",
        tokenizer=serving.DEMO / "tekken.json").start()
    try:
        _, _, data = server.request(
            "POST", "/v1/chat/completions",
            {"messages": user("x"), "stream": True, "max_tokens": 1000})
        events = serving.sse(data)
        assert events[-1] == "[DONE]"
        assert events[-2]["error"]["code"] == 500
        assert any("choices" in e for e in events[:-2])
    finally:
        server.nginx.stop()
        if server.daemon.process.poll() is None:
            server.daemon.process.kill()
        server.daemon.process.wait()


def test_fingerprint_and_matched_stop(make_server, server):
    """One fingerprint a server, in the reply and in the last chunk of a
    choice; another server's differs."""
    whole = ask(server, "plain")
    mark = whole["system_fingerprint"]
    assert mark.startswith("sirocco-")
    assert "/" not in mark
    chunks = stream(server, "plain", n=2)
    last = [c for c in chunks if c["choices"]
            and c["choices"][0]["finish_reason"]]
    assert len(last) == 2
    for c in chunks:
        assert c.get("system_fingerprint") == (mark if c in last else None)
    for c in last:
        choice = c["choices"][0]
        assert choice["matched_stop"] is choice["stop_reason"] is None
    text = {"prompt": "a", "max_tokens": 2}
    assert server.json("POST", "/v1/completions",
                       text)[1]["system_fingerprint"] == mark
    other = make_server(backend="null:rate=1000", tokenizer=TEKKEN)
    assert other.json("POST", "/v1/completions",
                      text)[1]["system_fingerprint"] != mark
