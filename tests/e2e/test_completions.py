"""Completions: prompts of all shapes, echo, log-probabilities."""

import pytest

import serving
from scripted import END_THINK, THINK, encode, serve

OUTPUT = "one two three"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = serve(tmp_path_factory.mktemp("text"), {
        "count": [OUTPUT], "think": [THINK, "a", END_THINK, "b"]})
    try:
        yield server
    finally:
        server.stop()


def ask(server, **fields):
    status, body = server.json("POST", "/v1/completions",
                               {"max_tokens": 50, **fields})
    assert status == 200, body
    return body


def stream(server, **fields):
    status, _, data = server.request("POST", "/v1/completions",
                                     {"max_tokens": 50, "stream": True,
                                      **fields})
    assert status == 200, data
    events = serving.sse(data)
    assert events[-1] == "[DONE]"
    return events[:-1]


def text_of(chunks, index=0):
    return "".join(c["choices"][0]["text"] for c in chunks
                   if c["choices"] and c["choices"][0]["index"] == index)


def test_shape(server):
    body = ask(server, prompt="count")
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    choice = body["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == \
        (OUTPUT, "stop", None)
    usage = body["usage"]
    # <s> is put in front, unless the client does not want it.
    assert usage["prompt_tokens"] == len(encode(["count"])[0]) + 1
    bare = ask(server, prompt="count", add_special_tokens=False)
    assert bare["usage"]["prompt_tokens"] == usage["prompt_tokens"] - 1


def test_streamed_and_whole_say_the_same(server):
    for fields in ({"prompt": "count"}, {"prompt": "count", "echo": True},
                   {"prompt": "count", "stop": "two"},
                   {"prompt": "count", "max_tokens": 2},
                   {"prompt": "think", "skip_special_tokens": False},
                   {"prompt": "think"}):
        body = ask(server, **fields)
        chunks = stream(server, stream_options={"include_usage": True},
                        **fields)
        assert text_of(chunks) == body["choices"][0]["text"]
        assert chunks[-2]["choices"][0]["finish_reason"] == \
            body["choices"][0]["finish_reason"]
        assert chunks[-1]["usage"]["completion_tokens"] == \
            body["usage"]["completion_tokens"]


def test_default_limit_is_16(server):
    body = server.json("POST", "/v1/completions",
                       {"prompt": "x", "ignore_eos": True})[1]
    assert body["usage"]["completion_tokens"] == 16
    assert body["choices"][0]["finish_reason"] == "length"


def test_no_thought_is_split(server):
    assert ask(server, prompt="think")["choices"][0]["text"] == "ab"
    assert ask(server, prompt="think", skip_special_tokens=False)[
        "choices"][0]["text"] == "[THINK]a[/THINK]b"


def test_prompts_of_every_shape(server):
    ids = encode(["count"])[0]
    for prompt, n in (("count", 1), (["count"], 1), (ids, 1), ([ids], 1),
                      (["count", "count", "count"], 3), ([ids, ids], 2)):
        body = ask(server, prompt=prompt)
        assert [c["index"] for c in body["choices"]] == list(range(n))
        assert all(c["text"] == OUTPUT for c in body["choices"])
    body = ask(server, prompt=["count", "x"], n=2, max_tokens=20)
    assert [c["text"] == OUTPUT for c in body["choices"]] == \
        [True, True, False, False]
    chunks = stream(server, prompt=[ids, ids], n=2)
    for i in range(4):
        assert text_of(chunks, i) == OUTPUT
    # Each prompt counts once.
    assert ask(server, prompt=ids, n=3)["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("prompt", [
    None, [], "", [[]], [-1], [10**9], [1.5], [1, "a"], ["a", 1], ["a", [1]],
    [[1], ["a"]], {}, True, [None], [2**70], 5, 0])
def test_bad_prompts(server, prompt):
    status, body = server.json(
        "POST", "/v1/completions",
        {"prompt": prompt, "add_special_tokens": False})
    assert status == 400
    assert body["error"]["param"].removeprefix("body.") == "prompt"


@pytest.mark.parametrize("prompt", [None, "", [], ["a", ""]])
def test_empty_prompts_are_refused_also_behind_a_beginning(server, prompt):
    status, body = server.json("POST", "/v1/completions", {"prompt": prompt})
    assert status == 400
    assert body["error"]["param"].removeprefix("body.") == "prompt"
    for path in ("/v1/completions", "/v1/fim/completions"):
        assert server.json("POST", path, {"prompt": "", "suffix": "x",
                                          "max_tokens": 1})[0] == 200



def test_echo_and_logprobs(server):
    body = ask(server, prompt="count", echo=True, logprobs=2)
    choice = body["choices"][0]
    assert choice["text"] == "count" + OUTPUT
    lp = choice["logprobs"]
    n = body["usage"]["total_tokens"]
    assert {len(v) for v in lp.values()} == {n}
    assert lp["tokens"][0] == "<s>"
    assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
    assert all(x <= 0 for x in lp["token_logprobs"][1:])
    for token, top in zip(lp["tokens"][1:], lp["top_logprobs"][1:]):
        assert token in top and 2 <= len(top) <= 3
    for token, at in zip(lp["tokens"][1:-1], lp["text_offset"][1:-1]):
        assert choice["text"][at:at + len(token)] == token
    ids = encode(["count"])[0]
    assert ask(server, prompt=ids, echo=True)["choices"][0]["text"] == \
        "count" + OUTPUT


def test_streamed_logprobs_are_the_same(server):
    whole = ask(server, prompt="count", logprobs=1, echo=True)
    whole = whole["choices"][0]["logprobs"]
    parts = {key: [] for key in whole}
    for chunk in stream(server, prompt="count", logprobs=1, echo=True):
        for key, values in (chunk["choices"][0]["logprobs"] or {}).items():
            parts[key] += values
    assert parts == whole


def test_scoring_a_prompt(server):
    body = ask(server, prompt="count", echo=True, logprobs=0, max_tokens=0)
    choice = body["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("count", "length")
    assert len(choice["logprobs"]["tokens"]) == body["usage"]["prompt_tokens"]
    assert body["usage"]["completion_tokens"] == 0
    assert server.json("POST", "/v1/completions",
                       {"prompt": "x", "max_tokens": 0})[0] == 400


def test_truncation(server):
    ids = list(range(100, 140))
    fields = {"prompt": ids, "return_token_ids": True, "max_tokens": 1}

    def kept(**more):
        return ask(server, **fields, **more)["choices"][0]["prompt_token_ids"]

    assert kept(truncate_prompt_tokens=5) == ids[-5:]
    assert kept(truncate_prompt_tokens=5, truncation_side="right") == ids[:5]
    assert kept(truncate_prompt_tokens=-1) == ids
    assert kept(truncate_prompt_tokens=100) == ids


def test_fill_in_the_middle(server):
    """The prompt is the one that mistral-common makes."""
    from mistral_common.protocol.fim.request import FIMRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    oracle = MistralTokenizer.from_file(serving.DEMO / "tekken.json")
    for prefix, suffix in (("def f(", "return x"), ("a", " b\n"),
                           ("\u00e9", "\U0001f600")):
        want = oracle.encode_fim(FIMRequest(prompt=prefix, suffix=suffix))
        body = ask(server, prompt=prefix, suffix=suffix, max_tokens=1,
                   return_token_ids=True)
        assert body["choices"][0]["prompt_token_ids"] == want.tokens
        fim = server.json("POST", "/v1/fim/completions", {
            "prompt": prefix, "suffix": suffix, "max_tokens": 1,
            "return_token_ids": True})[1]
        assert fim["prompt_token_ids"] == want.tokens
    for bad in ({"prompt": [5]}, {"prompt": "a", "echo": True}):
        status, body = server.json("POST", "/v1/completions",
                                   {"suffix": "x", **bad})
        assert (status, body["error"]["param"]) == (400, "suffix")


def test_mistrals_endpoint_for_it(server):
    from mistral_common.protocol.fim.request import FIMRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    oracle = MistralTokenizer.from_file(serving.DEMO / "tekken.json")
    status, body = server.json("POST", "/v1/fim/completions", {
        "prompt": "count", "return_token_ids": True})
    assert status == 200 and body["object"] == "chat.completion"
    assert body["prompt_token_ids"] == \
        oracle.encode_fim(FIMRequest(prompt="count", suffix=None)).tokens
    choice = body["choices"][0]
    # No limit of 16 here.
    assert (choice["message"]["content"], choice["finish_reason"]) == \
        (OUTPUT, "stop")
    for bad, param in (({"prompt": ["a"]}, "body.prompt"),
                       ({"prompt": [5]}, "body.prompt"),
                       ({}, "body.prompt"),
                       ({"prompt": "a", "suffix": 3}, "body.suffix"),
                       ({"prompt": "a", "echo": True}, "suffix")):
        status, body = server.json("POST", "/v1/fim/completions", bad)
        assert (status, body["error"]["param"]) == (400, param)
    card = server.json("GET", "/v1/models")[1]["data"][0]
    assert card["capabilities"]["completion_fim"] is True


def test_the_openai_client(server):
    client = server.openai()
    done = client.completions.create(model="default", prompt="count",
                                     max_tokens=50, logprobs=1)
    assert done.choices[0].text == OUTPUT
    assert len(done.choices[0].logprobs.tokens) == \
        done.usage.completion_tokens
    parts = client.completions.create(model="default", prompt="count",
                                      max_tokens=50, stream=True)
    assert "".join(p.choices[0].text for p in parts) == OUTPUT
