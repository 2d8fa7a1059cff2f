"""Clients as they come from PyPI, each with what its users do with it. Chat,
Responses and Messages have files of their own."""

import asyncio
import json
import os
import re

import pydantic
import pytest

import openai
import serving
from scripted import ARGS, CALLS, END_THINK, THINK, TOOLS, serve, user

# Else it asks GitHub for prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
from mistralai.client import Mistral  # noqa: E402


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


OSLO = Weather(city="Oslo", degrees=21)
OUTPUTS = {
    "in form": ['{"city": "Oslo", "degrees": 21}'],
    "thought over": [THINK, "Oslo, so cold.", END_THINK,
                     '{"city": "Oslo", "degrees": 21}'],
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


class TestOpenai:
    """Helpers of the OpenAI client beside plain requests."""

    @pytest.mark.parametrize("text, thought", [
        ("in form", None), ("thought over", "Oslo, so cold.")])
    def test_parse(self, server, text, thought):
        effort = "high" if thought else "none"
        chat = server.openai().chat.completions
        done = chat.parse(model="default", messages=user(text),
                          response_format=Weather, reasoning_effort=effort)
        assert done.choices[0].message.parsed == OSLO
        with chat.stream(model="default", messages=user(text),
                         response_format=Weather,
                         reasoning_effort=effort) as stream:
            kinds = [e.type for e in stream]
            final = stream.get_final_completion().choices[0].message
        assert final.parsed == OSLO
        assert getattr(final, "reasoning_content", None) == thought
        assert "content.done" in kinds

    @pytest.mark.parametrize("effort, text", [
        ("none", "in form"), ("high", "thought over")])
    def test_responses_parse(self, server, effort, text):
        responses = server.openai().responses
        done = responses.parse(model="default", input=text,
                               text_format=Weather,
                               reasoning={"effort": effort})
        assert done.output_parsed == OSLO
        with responses.stream(model="default", input=text,
                              text_format=Weather,
                              reasoning={"effort": effort}) as stream:
            for _ in stream:
                pass
            assert stream.get_final_response().output_parsed == OSLO

    def test_a_loop_of_typed_tools(self, server):
        class get_weather(pydantic.BaseModel):
            """The weather in a city."""
            a: str

        class get_time(pydantic.BaseModel):
            """The time."""

        tools = [openai.pydantic_function_tool(t)
                 for t in (get_weather, get_time)]
        history = user("two calls")
        chat = server.openai().chat.completions
        message = chat.parse(model="default", messages=history,
                             tools=tools).choices[0].message
        assert [c.function.parsed_arguments for c in message.tool_calls] == \
            [get_time(), get_weather(a="Oslo")]
        history += [message] + [
            {"role": "tool", "tool_call_id": c.id, "content": "42"}
            for c in message.tool_calls]
        assert chat.create(model="default", messages=history,
                           tools=tools).choices[0].message.role == "assistant"

    def test_raw_replies_and_ids(self, server):
        raw = server.openai().chat.completions.with_raw_response.create(
            model="default", messages=user("thought"))
        assert raw.headers["x-request-id"] == raw.request_id
        assert raw.parse().id.endswith(raw.request_id)


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

    def test_fim(self, client):
        asked = dict(model="default", prompt="thought", suffix="\n",
                     max_tokens=20, random_seed=3)
        done = client.fim.complete(**asked)
        text = done.choices[0].message.content
        assert text and done.choices[0].finish_reason == "stop"
        parts = [e.data.choices[0].delta.content or ""
                 for e in client.fim.stream(**asked)]
        assert "".join(parts) == text

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

    def test_streamed_tools(self, client):
        """Each call in one chunk, as Mistral sends them."""
        calls, reason = [], None
        for event in client.chat.stream(model="default", tools=TOOLS,
                                        messages=user("two calls")):
            choice = event.data.choices[0]
            calls += choice.delta.tool_calls or []
            reason = choice.finish_reason or reason
        assert [(c.function.name, json.loads(c.function.arguments))
                for c in calls] == CALLED
        assert [c.index for c in calls] == [0, 1]
        assert all(re.fullmatch("[A-Za-z0-9]{9}", c.id) for c in calls)
        assert reason == "tool_calls"

    def test_parse(self, client):
        done = client.chat.parse(Weather, model="default",
                                 messages=user("in form"))
        assert done.choices[0].message.parsed == OSLO

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

    def test_streamed_tools(self, ask):
        calls = {}
        for provider in ("openai", "anthropic"):
            calls = {}
            for chunk in ask("two calls", provider, tools=TOOLS, stream=True,
                             max_tokens=50):
                for call in chunk.choices[0].delta.tool_calls or []:
                    name, text = calls.get(call.index, ("", ""))
                    calls[call.index] = (
                        name + (call.function.name or ""),
                        text + (call.function.arguments or ""))
            assert [(n, json.loads(a)) for n, a in calls.values()] == CALLED

    def test_forms(self, ask):
        done = ask("in form", response_format=Weather)
        assert Weather.model_validate_json(
            done.choices[0].message.content) == OSLO

    def test_effort(self, ask):
        """Passed on, also to a provider that litellm does not know well."""
        done = ask("thought over", "hosted_vllm",
                   response_format=Weather, reasoning_effort="high")
        message = done.choices[0].message
        assert message.reasoning_content == "Oslo, so cold."
        assert Weather.model_validate_json(message.content) == OSLO

    def test_other_calls(self, server):
        fields = {"api_base": server.url + "/v1", "api_key": serving.KEY}
        done = litellm.responses(model="openai/default", input="thought",
                                 **fields)
        assert [i.type for i in done.output] == ["reasoning", "message"]
        done = litellm.text_completion(model="text-completion-openai/default",
                                       prompt="x", max_tokens=3, **fields)
        assert done.usage.completion_tokens == 3

    def test_asynchronous(self, server):
        async def run():
            stream = await litellm.acompletion(
                model="openai/default", api_base=server.url + "/v1",
                api_key=serving.KEY, messages=user("thought"), stream=True)
            return "".join([c.choices[0].delta.content or ""
                            async for c in stream])
        assert asyncio.run(run()) == "Yes."

    def test_tools(self, ask):
        done = ask("two calls", tools=TOOLS)
        assert [(c.function.name, json.loads(c.function.arguments))
                for c in done.choices[0].message.tool_calls] == CALLED

    def test_anthropic_shape(self, ask):
        done = ask("two calls", "anthropic", max_tokens=50, tools=TOOLS)
        assert [(c.function.name, json.loads(c.function.arguments))
                for c in done.choices[0].message.tool_calls] == CALLED
