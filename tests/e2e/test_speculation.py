"""The demo model with its draft head: what clients get is the same, sooner."""

import json

import jsonschema
import pytest

import serving
from scripted import user

HEAD = serving.TOP / "contrib/demo-model/eagle"
DRAFTS = 3

SCHEMA = {"type": "object", "additionalProperties": False,
          "required": ["city", "kind", "days"], "properties": {
              "city": {"type": "string", "maxLength": 12},
              "kind": {"enum": ["sun", "rain", "snow"]},
              "days": {"type": "array", "maxItems": 4, "items": {
                  "type": "integer", "minimum": 0, "maximum": 31}}}}
FORM = {"type": "json_schema",
        "json_schema": {"name": "weather", "schema": SCHEMA}}
TEXTS = ["What is 3 + 4?", "What is the capital of France?",
         "Tell me something about rain.", "Count from 1 to 9."]


def server_of(directory, **conf):
    if not (serving.DEMO / "params.json").exists():
        pytest.skip("the demo model is not in this tree")
    return serving.Server(directory, model=serving.DEMO, served_name="demo",
                          replace=[("burst=40", "burst=100000")], **conf)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    server = server_of(tmp_path_factory.mktemp("plain"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def drafting(tmp_path_factory):
    server = server_of(tmp_path_factory.mktemp("drafting"), draft=HEAD,
                       drafts=DRAFTS)
    try:
        yield server.start()
    finally:
        server.stop()


def ask(server, text, stream=False, **fields):
    """(what was said, why it ended, its usage), streamed or not."""
    fields = {"model": "demo", "messages": user(text), "max_tokens": 120,
              **fields}
    client = server.openai().chat.completions
    if not stream:
        done = client.create(**fields)
        return (done.choices[0].message.content,
                done.choices[0].finish_reason, done.usage)
    said, why, usage = "", None, None
    for chunk in client.create(stream=True, stream_options={
            "include_usage": True}, **fields):
        for choice in chunk.choices:
            said += choice.delta.content or ""
            why = choice.finish_reason or why
        usage = chunk.usage or usage
    return said, why, usage


def gained(server, before):
    """What the counters of speculation have gained."""
    after = server.metrics()
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
    return [after[f'vllm:spec_decode_{n}_total{{engine="0"}}']
            - before[f'vllm:spec_decode_{n}_total{{engine="0"}}']
            for n in names]


def per_position(m):
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    return [m.get(f'{name}{{engine="0",position="{i}"}}', 0)
            for i in range(8)]


WAYS = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.9, "seed": 7},
    "penalties": {"temperature": 0.7, "seed": 8, "presence_penalty": 0.5,
                  "logit_bias": {"300": 2}, "extra_body": {"min_p": 0.02}},
    "form": {"temperature": 1.2, "seed": 9, "response_format": FORM},
    "stop": {"temperature": 0, "stop": [" is", "!"]},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", WAYS)
def test_drafts_change_nothing_but_the_time(plain, drafting, way, stream):
    """Text, reason and usage are those of a server without a draft head."""
    before = drafting.metrics()
    for text in TEXTS:
        want = ask(plain, text, stream, **WAYS[way])
        got = ask(drafting, text, stream, **WAYS[way])
        # The prefix cache knows what was asked before, in either server.
        assert got[:2] == want[:2], text
        assert got[2].completion_tokens == want[2].completion_tokens
        assert got[2].prompt_tokens == want[2].prompt_tokens
    drafts, tokens, accepted = gained(drafting, before)
    assert drafts > 0
    assert drafts <= tokens <= DRAFTS * drafts
    assert 0 < accepted <= tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_forms_hold_behind_drafts(drafting, stream):
    """Hot sampling: nothing but the mask keeps to the form."""
    before = drafting.metrics()
    for seed in range(12):
        said, why, usage = ask(drafting, TEXTS[seed % len(TEXTS)], stream,
                               temperature=1.5, seed=seed, max_tokens=300,
                               response_format=FORM)
        assert why == "stop"
        jsonschema.validate(json.loads(said), SCHEMA)
        assert usage.total_tokens == \
            usage.prompt_tokens + usage.completion_tokens
    assert gained(drafting, before)[2] > 0


def test_tokens_and_logprobs_of_several_a_step(plain, drafting):
    """Each token has its entry, also where a step gave several."""
    fields = {"temperature": 0, "logprobs": True, "top_logprobs": 2,
              "max_tokens": 40, "extra_body": {"return_token_ids": True}}
    replies = [s.openai().chat.completions.create(
        model="demo", messages=user(TEXTS[0]), **fields).choices[0]
        for s in (plain, drafting)]
    assert replies[0].token_ids == replies[1].token_ids
    entries = [r.logprobs.content for r in replies]
    assert len(entries[1]) == len(replies[1].token_ids)
    for a, b in zip(*entries, strict=True):
        assert a.token == b.token
        assert b.logprob == pytest.approx(a.logprob, abs=1e-3)
        assert len(b.top_logprobs) == 2


def test_accepted_by_position(drafting):
    """The counts fall with the place and add up to all."""
    before = drafting.metrics()
    ask(drafting, "What is 5 + 6?", temperature=0)
    after = drafting.metrics()
    by = [b - a for a, b in zip(per_position(before), per_position(after))]
    assert by[0] > 0
    assert by == sorted(by, reverse=True)
    assert by[DRAFTS:] == [0] * (8 - DRAFTS)
    assert sum(by) == gained(drafting, before)[2]


def test_without_a_head_nothing_is_drafted(plain):
    before = plain.metrics()
    ask(plain, TEXTS[0], temperature=0)
    assert gained(plain, before) == [0, 0, 0]
