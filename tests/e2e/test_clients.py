"""Clients other than OpenAI's, as they come from PyPI."""

import json
import os

import pytest

import serving
from scripted import ARGS, CALLS, END_THINK, THINK, TOOLS, serve, user

# Else it asks GitHub for prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from mistralai.client import Mistral  # noqa: E402

OUTPUTS = {
    "thought": [THINK, "Why not?", END_THINK, "Yes."],
    "two calls": [THINK, "hm", END_THINK, CALLS, "get_time", ARGS, "{}",
                  CALLS, "get_weather", ARGS, '{"a": "Oslo"}'],
}
CALLED = [("get_time", {}), ("get_weather", {"a": "Oslo"})]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = serve(tmp_path_factory.mktemp("clients"), OUTPUTS)
    try:
        yield server
    finally:
        server.stop()


class TestMistral:
    @pytest.fixture
    def client(self, server):
        return Mistral(api_key=serving.KEY, server_url=server.url)

    def test_chat(self, client):
        done = client.chat.complete(model="default", messages=user("thought"),
                                    random_seed=5, safe_prompt=False)
        assert done.choices[0].message.content == "Yes."
        assert done.choices[0].finish_reason == "stop"

    def test_stream(self, client):
        text = "".join(e.data.choices[0].delta.content or ""
                       for e in client.chat.stream(
                           model="default", messages=user("thought")))
        assert text == "Yes."

    @pytest.mark.parametrize("choice", ["auto", "any"])
    def test_tools(self, client, choice):
        done = client.chat.complete(model="default", tools=TOOLS,
                                    tool_choice=choice,
                                    messages=user("two calls"))
        message = done.choices[0].message
        assert [(c.function.name, json.loads(c.function.arguments))
                for c in message.tool_calls] == CALLED
        assert done.choices[0].finish_reason == "tool_calls"
        history = user("two calls") + [message] + [
            {"role": "tool", "tool_call_id": c.id, "name": c.function.name,
             "content": "42"} for c in message.tool_calls]
        again = client.chat.complete(model="default", tools=TOOLS,
                                     messages=history)
        assert again.choices[0].message

    def test_models(self, client):
        assert "default" in [m.id for m in client.models.list().data]


class TestLitellm:
    @pytest.fixture
    def ask(self, server):
        def ask(text, provider="openai", **fields):
            base = server.url + ("/v1" if provider != "anthropic" else "")
            return litellm.completion(
                model=f"{provider}/default", api_base=base,
                api_key=serving.KEY, messages=user(text), **fields)
        return ask

    @pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
    def test_thought(self, ask, provider):
        """AC-22, AC-23"""
        message = ask("thought", provider).choices[0].message
        assert (message.content, message.reasoning_content) == \
            ("Yes.", "Why not?")
        content, thought = "", ""
        for chunk in ask("thought", provider, stream=True):
            delta = chunk.choices[0].delta
            content += delta.content or ""
            thought += getattr(delta, "reasoning_content", None) or ""
        assert (content, thought) == ("Yes.", "Why not?")

    def test_tools(self, ask):
        done = ask("two calls", tools=TOOLS)
        assert [(c.function.name, json.loads(c.function.arguments))
                for c in done.choices[0].message.tool_calls] == CALLED

    def test_anthropic_shape(self, ask):
        done = ask("two calls", "anthropic", max_tokens=50, tools=TOOLS)
        assert [(c.function.name, json.loads(c.function.arguments))
                for c in done.choices[0].message.tool_calls] == CALLED
