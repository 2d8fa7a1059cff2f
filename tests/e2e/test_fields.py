"""Every field of a request with values absent, null, lowest, highest, just
outside and of the wrong type; every class of error. Nothing is ever a 500."""

import base64
import json

import pytest

import serving
from scripted import TEKKEN, NO_RATE_LIMIT, TOOLS, user

OK, BAD, TYPE = (200, None), (400, "BadRequestError"), (400, "Bad Request")

HUGE = 2 ** 70
# field: (good values, values outside, values of the wrong type)
NUMBERS = {
    "temperature": ([0, 0.0, 1, 2, 2.0], [-0.1, 2.1, 1e400], ["1", True, []]),
    "top_p": ([1e-9, 0.5, 1], [0, -1, 1.0001], ["1", False, {}]),
    "min_p": ([0, 1, 0.2], [-0.1, 1.1], ["0", True]),
    "top_k": ([-1, 0, 1, 100000], [-2, HUGE, -HUGE], [1.0, "5", True]),
    "presence_penalty": ([-2, 0, 2], [-2.1, 2.1], ["0", True]),
    "frequency_penalty": ([-2, 0, 2], [-2.1, 2.1], ["0", [1]]),
    "repetition_penalty": ([0.01, 1, 5], [0, -1, 1e400], ["1", True]),
    "seed": ([0, -1, 2 ** 63 - 1, -2 ** 63], [2 ** 63, HUGE], [1.5, "1"]),
    "random_seed": ([0, 7], [2 ** 63], ["1"]),
    "n": ([1, 2], [0, -1, 129, HUGE], [1.0, "1", True]),
    "min_tokens": ([0, 3], [-1, 4, HUGE], [0.5, "1", True]),
    "thinking_token_budget": ([-1, 0, 5], [-2, HUGE], ["1", 1.5]),
    "truncate_prompt_tokens": ([-1, 1, 100], [-2, 0, HUGE], ["1", 0.5]),
    "stream_interval": ([1, 50], [0, -1, HUGE], ["1", 1.5]),
    "prompt_logprobs": ([0, 1, 20], [-1, 21, HUGE], ["1", True, 1.5]),
    "priority": ([0, -5, 2 ** 63 - 1], [2 ** 63, -HUGE], ["1", 1.5]),
}
FLAGS = ["ignore_eos", "stream", "return_tokens_as_token_ids",
         "return_token_ids", "return_prompt_text", "echo", "no_stop_trim",
         "include_stop_str_in_output", "skip_special_tokens",
         "add_special_tokens"]
CHAT_FLAGS = ["logprobs", "include_reasoning", "separate_reasoning",
              "stream_reasoning", "parallel_tool_calls"]
LISTS = {
    "stop": (["a", ["a"], ["a", "b"], []],
             ["", [""], ["a", ""], ["x"] * 17, "y" * 2000],
             [1, [1], {}, True, [None]]),
    "stop_token_ids": ([[], [5], [1023]], [[-1], [1024], [HUGE]],
                       [5, "5", ["5"], [1.0], [None], {}]),
    "allowed_token_ids": ([[200, 201]], [[], [-1], [1024]],
                          [5, "5", ["5"], [1.5]]),
    "bad_words": ([[], ["a"], ["the"], ["quite impossible words"]],
                  [[""], ["y" * 2000]], ["a", [1], {}, [None]]),
    "logit_bias": ([{}, {"5": 1}, {"5": -100, "6": 100}, {"7": -1000}],
                   [{"x": 1}, {"-1": 1}, {"1024": 1}, {"": 1}, {"5x": 1},
                    {" 5": 1}, {"5": 1e400}], [[], "a", {"5": "1"}, 3]),
    "logprob_token_ids": ([], [[5], [], [-1], [HUGE]],
                          [5, "5", ["5"], [1.5], {}]),
    "repetition_detection": (
        [{}, {"max_pattern_size": 0}, {"max_pattern_size": 4, "min_count": 2},
         {"max_pattern_size": 4, "min_pattern_size": 4, "min_count": 9}],
        [{"max_pattern_size": 4}, {"max_pattern_size": 4, "min_count": 1},
         {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2},
         {"max_pattern_size": -1}, {"max_pattern_size": 10 ** 6}],
        [[], 1, "x", {"max_pattern_size": "4"}, {"min_count": 1.5}]),
    "cache_salt": (["a", "x" * 128], ["", "x" * 129, "a@b", "a/b", "a\\b",
                                      "a\0b"], [1, True, []]),
    "request_id": (["a", "", "with space", "x" * 500, "\u00e9\n"], [],
                   [1, {}]),
    "truncation_side": (["left", "right"], [], ["middle", 1]),
    "stream_options": ([{}], [{"include_usage": True}], [[], "a", 1]),
    "use_beam_search": ([False], [True], [1, "no"]),
    "length_penalty": ([1, 1.0], [0.5], ["1"]),
    "best_of": ([1], [2, 0], ["1"]),
}
CHAT = {
    "max_tokens": ([1, 3], [0, -1, HUGE, 10 ** 9], [1.0, "1", True]),
    "max_completion_tokens": ([1, 3], [0, -1, HUGE], [1.5, "1"]),
    "top_logprobs": ([0], [1, 5, -1, HUGE], ["1", True, 1.5]),
    "reasoning_effort": (["none", "minimal", "low", "medium", "high", "xhigh",
                          "max", 0, 0.2, 0.5, 0.99], [1, -0.1, 1e400],
                         ["", "maximum", True, []]),
    "reasoning": ([{}, {"effort": "high"}, {"enabled": False}],
                  [{"effort": 1}],
                  [{"effort": "x"}, {"enabled": 1}, "high", 1]),
    "chat_template_kwargs": ([{}, {"enable_thinking": True}, {"x": 1}], [],
                             [{"thinking": "yes"}, [], "a"]),
    "chat_template": ([], ["{{ x }}"], []),
    "functions": ([], [[{"name": "f"}]], []),
    "mm_processor_kwargs": ([], [{}, {"a": 1}], []),
    "media_io_kwargs": ([], [{}], []),
}
TEXT = {
    "max_tokens": ([1, 3], [0, -1, HUGE, 10 ** 9], [1.0, "1", True]),
    "logprobs": ([0, 1, 20], [-1, 21, HUGE], ["1", True, 1.5]),
    "suffix": (["", "x"], [], [1, []]),
}
# Known to clients, without a meaning here; any value goes.
IGNORED = ["user", "metadata", "store", "service_tier", "safety_identifier",
           "prompt_cache_key", "prediction", "modalities", "audio",
           "web_search_options", "verbosity", "documents", "session_id",
           "safe_prompt", "prompt_mode", "custom_params", "lora_path",
           "stop_regex",
           "kv_transfer_params", "vllm_xargs", "something_new"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = serving.Server(tmp_path_factory.mktemp("fields"),
                            replace=[NO_RATE_LIMIT], backend="null:rate=0",
                            tokenizer=TEKKEN, served_name="default")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def post(server, path, body):
    """Status and error of a request; the reply has the right form."""
    text = json.dumps(body).replace("Infinity", "1e400")
    status, headers, data = server.request("POST", path, text.encode())
    assert status in (200, 400, 404, 501), (status, data)
    if status == 200:
        if headers["Content-Type"].startswith("text/event-stream"):
            assert serving.sse(data)[-1] == "[DONE]"
        else:
            assert json.loads(data)["choices"]
        return status, None
    error = json.loads(data)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["code"] == status
    assert len(data) < 4000
    return status, error


def chat(**fields):
    return {"messages": user("hi"), "max_tokens": 3, **fields}


def text(**fields):
    return {"prompt": "hi", "max_tokens": 3, **fields}


def table():
    """One test a field and endpoint."""
    out = []
    rows = {**NUMBERS, **LISTS,
            **{f: ([True, False], [], [0, 1, "true", []]) for f in FLAGS}}
    chats = {**rows, **CHAT,
             **{f: ([], [], [0, 1, "true", []]) for f in CHAT_FLAGS}}
    for path, body, fields in (("/v1/chat/completions", chat, chats),
                               ("/v1/completions", text, {**rows, **TEXT})):
        for name, (good, outside, wrong) in fields.items():
            out.append(pytest.param(path, body, name, good, outside, wrong,
                                    id=f"{path[4:]}-{name}"))
    return out


@pytest.mark.parametrize("path, body, name, good, outside, wrong", table())
def test_field(server, path, body, name, good, outside, wrong):
    assert post(server, path, body(**{name: None}))[0] == 200
    for value in good:
        assert post(server, path, body(**{name: value}))[0] == 200, value
    for value in outside:
        status, error = post(server, path, body(**{name: value}))
        assert (status, error and error["type"]) == BAD, value
        assert error["param"], value
    for value in wrong:
        status, error = post(server, path, body(**{name: value}))
        assert (status, error and error["type"]) == TYPE, value
        assert (error["param"] + ".").startswith(f"body.{name}."), value


@pytest.mark.parametrize("fields, param", [
    ({"stream": True, "stream_options": {"include_usage": 1}},
     "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"continuous_usage_stats": "x"}},
     "stream_options.continuous_usage_stats"),
    ({"chat_template_kwargs": {"enable_thinking": "x"}},
     "chat_template_kwargs.enable_thinking"),
    ({"chat_template_kwargs": {"thinking": 1}},
     "chat_template_kwargs.thinking"),
    ({"chat_template_kwargs": {"reasoning_effort": "x"}},
     "chat_template_kwargs.reasoning_effort"),
    ({"reasoning": {"effort": "x"}}, "reasoning.effort"),
    ({"reasoning": {"enabled": 1}}, "reasoning.enabled"),
    ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex"),
    ({"structured_outputs": {"json": 1}}, "structured_outputs.json"),
    ({"tools": 1}, "tools"), ({"tools": [1]}, "tools.0.type"),
    ({"tools": [{"type": "function"}]}, "tools.0.function"),
    ({"tools": [{"function": {"name": 1}}]}, "tools.0.function.name"),
    ({"tools": [{"function": {"name": "f", "strict": []}}]},
     "tools.0.function.strict"),
    ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
    ({"model": 3}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": 3}]}, "messages.0.role"),
    ({"messages": user("a") + [{"role": "user", "content": 1}]},
     "messages.1.content"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
     "messages.0.content.0"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
     "messages.0.tool_calls.0.function.name"),
])
def test_where_a_wrong_type_is(server, fields, param):
    status, error = post(server, "/v1/chat/completions", chat(**fields))
    assert (status, error and error["type"]) == TYPE
    assert error["param"] == "body." + param


@pytest.mark.parametrize("name", CHAT_FLAGS)
def test_chat_flags_take_both_values(server, name):
    for value in (True, False):
        assert post(server, "/v1/chat/completions",
                    chat(**{name: value}))[0] == 200


@pytest.mark.parametrize("name", IGNORED)
def test_ignored_fields(server, name):
    for value in ("x", 1, [], {"a": None}):
        for path, body in (("/v1/chat/completions", chat),
                           ("/v1/completions", text)):
            assert post(server, path, body(**{name: value}))[0] == 200


@pytest.mark.parametrize("fields, param", [
    ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
    ({"logprobs": True, "logprob_token_ids": [5] * 129}, "logprob_token_ids"),
    ({"logprobs": True, "top_logprobs": -1}, "logprobs"),
    ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ({"n": 2, "temperature": 0}, "n"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}},
     "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {
        "name": "nope"}}}, "tool_choice"),
    ({"tools": [{"function": {"name": "a b"}}]}, "tools.0.function.name"),
    ({"messages": []}, "messages"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"continue_final_message": True, "add_generation_prompt": True},
     "continue_final_message"),
])
def test_rules_over_several_fields(server, fields, param):
    status, error = post(server, "/v1/chat/completions", chat(**fields))
    assert (status, error["param"]) == (400, param)
    assert error["type"] == "BadRequestError"


@pytest.mark.parametrize("fields", [
    {"tool_choice": "none"}, {"tool_choice": None}, {"tools": []},
    {"tools": [], "tool_choice": "none"}, {"tools": [], "tool_choice": "auto"},
    {"tools": None}])
def test_no_tools_to_choose_from(server, fields):
    """Agents that dropped their tools leave an empty list and "auto"."""
    assert post(server, "/v1/chat/completions", chat(**fields))[0] == 200


@pytest.mark.parametrize("messages", [
    None, [], "hi", {}, [1], ["hi"], [{}], [{"role": "user"}],
    [{"role": "nobody", "content": "x"}], [{"role": 1, "content": "x"}],
    [{"role": "user", "content": 1}], [{"role": "user", "content": [1]}],
    [{"role": "user", "content": [{"type": "video", "video": "x"}]}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "assistant", "tool_calls": [{"function": {}}]}],
    [{"role": "assistant", "content": "x", "tool_calls": "y"}],
])
def test_bad_messages(server, messages):
    """AC-20 among them: never a 500."""
    status, error = post(server, "/v1/chat/completions",
                         {"messages": messages})
    assert status == 400
    assert error["param"].removeprefix("body.").startswith("messages")


def test_empty_assistant_turn(server):
    """AC-20"""
    for content in ("", None, []):
        messages = user("a") + [{"role": "assistant", "content": content}] + \
            user("b")
        assert post(server, "/v1/chat/completions",
                    chat(messages=messages))[0] == 200


@pytest.mark.parametrize("roles", [
    "uu", "usu", "su", "ssu", "uau", "uaau", "sua", "ua", "usua", "auau"])
def test_odd_orders_are_merged(server, roles):
    """AC-18, AC-19c"""
    names = {"u": "user", "s": "system", "a": "assistant"}
    messages = [{"role": names[r], "content": "x"} for r in roles]
    assert post(server, "/v1/chat/completions",
                chat(messages=messages))[0] == 200


def test_arguments_that_are_no_json_can_be_sent_back(server):
    """A model may write them; its own reply must be taken."""
    for arguments in ("{nope", "", "3", {"a": 1}):
        messages = user("x") + [
            {"role": "assistant", "tool_calls": [
                {"id": "a", "function": {"name": "f",
                                         "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "a", "content": "y"}]
        status, _ = post(server, "/v1/chat/completions",
                         chat(messages=messages))
        assert status == 200


def test_user_after_tool(server):
    """AC-04, AC-19, AC-19b"""
    for call_id in ("abcdefghi", "call_0123456789", "x", "a-b-c-d"):
        messages = user("a") + [
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": call_id, "type": "function", "function": {
                    "name": "get_time", "arguments": ""}}]},
            {"role": "tool", "tool_call_id": call_id, "content": "noon"},
        ] + user("b")
        assert post(server, "/v1/chat/completions",
                    chat(messages=messages, tools=TOOLS))[0] == 200


def test_context_overflow_names_the_numbers(server):
    for path, body in (("/v1/chat/completions", chat),
                       ("/v1/completions", text)):
        limit = server.json("GET", "/v1/models")[1]["data"][0]["max_model_len"]
        status, error = post(server, path, body(max_tokens=limit))
        assert (status, error["param"]) == (400, "input_tokens")
        assert "maximum context length" in error["message"]
        assert error["message"].count(str(limit)) == 2


@pytest.mark.parametrize("data", [
    b"", b"{", b"[]", b"nul", b"\xff{}", b'{"messages": [}', b"{'a': 1}",
    b'{"a": 01}', b'{"a": "\n"}', b"[" * 100000, b'{"a":' * 5000,
    b'{"messages": NaN}', b"null", b"3", b'"x"'])
def test_bad_json(server, data):
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        status, _, answer = server.request("POST", path, data)
        assert status == 400
        error = json.loads(answer)["error"]
        assert error["message"] and error["type"] == "Bad Request"


def test_content_type(server):
    data = json.dumps(chat()).encode()
    for kind, want in (("application/json", 200),
                       ("application/json; charset=utf-8", 200),
                       ("Application/JSON", 200), ("text/plain", 400),
                       ("application/jsonp", 400),
                       ("application/x-www-form-urlencoded", 400)):
        status, _, _ = server.request("POST", "/v1/chat/completions", data,
                                      headers={"Content-Type": kind})
        assert status == want, kind


def test_models_are_checked(server):
    for path, body in (("/v1/chat/completions", chat),
                       ("/v1/completions", text)):
        for name in (None, "", "default"):
            assert post(server, path, body(model=name))[0] == 200
        status, error = post(server, path, body(model="gpt-4o"))
        assert (status, error["type"], error["param"]) == \
            (404, "NotFoundError", "model")
        assert "gpt-4o" in error["message"]
        # A value that comes back is cut.
        assert post(server, path, body(model="x" * 100000))[0] == 404


def test_wrong_methods_and_paths(server):
    for method, path, want in (
            ("GET", "/v1/chat/completions", 405),
            ("DELETE", "/v1/models", 405), ("POST", "/v1/models", 405),
            ("GET", "/v1/nothing", 404), ("POST", "/v1/embeddings", 404),
            ("POST", "/v1/audio/speech", 404), ("GET", "/v1/models/x", 404),
            ("PUT", "/tokenize", 405)):
        status, _, data = server.request(method, path,
                                         b"{}" if method != "GET" else None)
        assert status == want, (method, path)
        assert json.loads(data)["error"]["code"] == want


def test_a_full_queue_is_429(tmp_path):
    server = serving.Server(tmp_path, replace=[NO_RATE_LIMIT], max_running=1,
                            backend="null:rate=5", tokenizer=TEKKEN,
                            max_queue=0, served_name="default").start()
    try:
        from raw import RawChat
        running = RawChat(server, max_tokens=1000)
        running.read_events(2)
        status, headers, data = server.request(
            "POST", "/v1/chat/completions", chat(stream=True))
        assert status == 429
        assert headers["Retry-After"]
        assert json.loads(data)["error"]["type"] == "rate_limit_exceeded"
        assert server.request("POST", "/v1/chat/completions",
                              chat())[0] == 429
        running.close()
    finally:
        server.stop()


def test_text_that_cannot_fit_is_not_encoded(make_server):
    """More bytes than the context has tokens of the longest kind are refused
    as text, a little less as tokens."""
    vocab = json.loads(TEKKEN.read_text())
    info = vocab["config"]
    longest = max(len(base64.b64decode(t["token_bytes"])) for t in
                  vocab["vocab"][:info["default_vocab_size"]
                                 - info["default_num_special_tokens"]])
    server = make_server(backend="null:rate=0", tokenizer=TEKKEN,
                         max_context=256)
    for path, body in (
            ("/v1/chat/completions", lambda x: {"messages": user(x)}),
            ("/v1/completions", lambda x: {"prompt": ["a", x]})):
        for n, param in ((257 * longest, "input_text"),
                         (257 * longest - 1, "input_tokens")):
            status, error = post(server, path, body(("ab " * n)[:n]))
            assert (status, error["param"]) == (400, param), (path, n)
            assert "maximum context length is 256 tokens" in error["message"]
        cut = {**body("ab " * 257 * longest), "truncate_prompt_tokens": 9,
               "max_tokens": 2}
        assert server.json("POST", path, cut)[0] == 200
    assert server.json("POST", "/tokenize", {
        "messages": user("ab " * 257 * longest)})[0] == 200


def test_most_messages_and_tools(make_server):
    server = make_server(backend="null:rate=0", tokenizer=TEKKEN,
                         max_messages=3, max_tools=2)

    def tool(i):
        return {"type": "function", "function": {"name": f"f{i}"}}

    for path in ("/v1/chat/completions", "/tokenize",
                 "/v1/chat/completions/render"):
        for body, param in (({"messages": user("a") * 4}, "messages"),
                            ({"messages": user("a"), "tools": [
                                tool(i) for i in range(3)]}, "tools")):
            status, error = post(server, path, body)
            assert (status, error["param"]) == (400, param)
            assert "at most" in error["message"]
        status, _ = server.json("POST", path, {
            "messages": user("a") * 3, "tools": [tool(0), tool(1)],
            **({"max_tokens": 2} if "chat" in path else {})})
        assert status == 200
    # Anthropic's and Responses' forms of the same.
    assert server.json("POST", "/v1/messages", {
        "max_tokens": 2, "messages": user("a") * 4})[0] == 400
    assert server.json("POST", "/v1/responses", {
        "input": user("a") * 4})[0] == 400
