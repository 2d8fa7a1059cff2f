"""The demo model on the CPU back end: what a real model says to clients."""

import concurrent.futures
import json

import pytest

from scripted import user

WEATHER = [{"type": "function", "function": {
    "name": "get_weather", "description": "Get the current weather for a "
    "city.", "parameters": {"type": "object", "properties": {
        "city": {"type": "string"}}, "required": ["city"]}}}]


def create(demo, text, **fields):
    return demo.openai().chat.completions.create(
        model="demo", messages=user(text), temperature=0, max_tokens=300,
        **fields)


def test_a_thought_on_demand(demo):
    plain = create(demo, "What is 3 + 4?")
    assert "7" in plain.choices[0].message.content
    assert plain.usage.completion_tokens_details.reasoning_tokens == 0
    thought = create(demo, "What is 3 + 4?", reasoning_effort="high")
    assert thought.choices[0].message.reasoning_content
    assert "7" in thought.choices[0].message.content
    assert thought.usage.completion_tokens_details.reasoning_tokens > 0
    with demo.openai().chat.completions.stream(
            model="demo", messages=user("What is 3 + 4?"), temperature=0,
            max_tokens=300, reasoning_effort="high") as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.content == thought.choices[0].message.content
    assert final.reasoning_content == \
        thought.choices[0].message.reasoning_content


def test_a_budget_cuts_the_thought(demo):
    cut = create(demo, "What is 3 + 4?", reasoning_effort="high",
                 extra_body={"thinking_token_budget": 4})
    assert cut.usage.completion_tokens_details.reasoning_tokens <= 4
    assert cut.choices[0].message.content


def test_bad_words_of_several_tokens(demo):
    """In what is generated the tokens do not come in a row any more."""
    def ids(**fields):
        reply = create(demo, "What is the capital of France?",
                       extra_body={"return_token_ids": True, **fields})
        return reply.choices[0].token_ids, reply.choices[0].message.content

    def runs(tokens, n):
        return {tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1)}

    tokens, text = ids()
    cut = {}
    for word in set(text.split()):
        status, body = demo.json("POST", "/tokenize", {
            "prompt": word, "add_special_tokens": False})
        assert status == 200
        if body["count"] > 1 and \
                tuple(body["tokens"]) in runs(tokens, body["count"]):
            cut[word] = tuple(body["tokens"])
    for word in set(text.split()):
        body = demo.json("POST", "/tokenize", {
            "prompt": " " + word, "add_special_tokens": False})[1]
        if body["count"] > 1 and \
                tuple(body["tokens"]) in runs(tokens, body["count"]):
            cut[word] = tuple(body["tokens"])
    assert cut, text
    for word, row in cut.items():
        tokens, _ = ids(bad_words=[word])
        assert row not in runs(tokens, len(row)), word


def test_logprobs_of_given_ids(demo):
    """They are those that the ids have among the likeliest."""
    def entries(**extra):
        body = {"return_tokens_as_token_ids": True, **extra}
        return demo.openai().chat.completions.create(
            model="demo", messages=user("What is 3 + 4?"), temperature=0,
            max_tokens=6, logprobs=True, **{
                "top_logprobs": 0 if extra else 20}, extra_body=body,
        ).choices[0].logprobs.content

    def number(t):
        return int(t.token.removeprefix("token_id:"))

    for entry in entries():
        ids = [number(t) for t in reversed(entry.top_logprobs)]
        break
    first = {number(t): t.logprob for t in entries()[0].top_logprobs}
    asked = entries(logprob_token_ids=ids)[0].top_logprobs
    assert [number(t) for t in asked] == ids
    assert {number(t): t.logprob for t in asked} == first


def test_tool_round_trip(demo):
    first = create(demo, "What is the weather in Paris?", tools=WEATHER)
    call = first.choices[0].message.tool_calls[0]
    assert first.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    history = user("What is the weather in Paris?") + [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id,
         "content": '{"temperature": 21}'}]
    done = demo.openai().chat.completions.create(
        model="demo", messages=history, tools=WEATHER, temperature=0,
        max_tokens=200)
    assert done.choices[0].message.content == "It is 21 degrees in Paris."


def tool(name, description=None, **properties):
    """A definition as short as a newcomer writes it."""
    function = {"name": name, "parameters": {
        "type": "object", "properties": {k: {"type": v}
                                         for k, v in properties.items()}}}
    if description:
        function["description"] = description
    return {"type": "function", "function": function}


PLAIN = [
    ("What is the weather in Paris?", tool("get_weather", city="string"),
     {"city": "Paris"}),
    ("What's the weather like in Boston?",
     tool("get_current_weather", "Get the current weather",
          location="string", unit="string"), {"location": "Boston"}),
    ("What time is it in UTC?", tool("get_time", timezone="string"),
     {"timezone": "UTC"}),
    ("What time is it?", tool("get_time"), {}),
    ("Use the calculator for 12 * 7.", tool("calculator",
                                            expression="string"),
     {"expression": "12 * 7"}),
    ("Search for red apples.", tool("search", query="string"),
     {"query": "red apples"}),
    ("Send an email to anna@example.org with the subject lunch: see you soon",
     tool("send_email", to="string", subject="string", body="string"),
     {"to": "anna@example.org", "subject": "lunch", "body": "see you soon"}),
]


@pytest.mark.parametrize("company", ["alone", "among others"])
@pytest.mark.parametrize("text, wanted, args", PLAIN)
def test_plain_tools_are_called(demo, text, wanted, args, company):
    """Nothing asks for the call but the model."""
    name = wanted["function"]["name"]
    others = {t["function"]["name"]: t for _, t, _ in PLAIN}
    tools = ([wanted] if company == "alone" else
             [wanted if n == name else t for n, t in others.items()
              if n == name or "weather" not in n])
    message = create(demo, text, tools=tools).choices[0].message
    calls = message.tool_calls
    assert calls and len(calls) == 1, message.content
    assert calls[0].function.name == name
    assert json.loads(calls[0].function.arguments) == args


def test_what_is_not_there_is_not_made_up(demo):
    for text in ("What is the weather in Paris?", "Call open_door."):
        message = create(demo, text, tools=[
            tool("calculator", expression="string")]).choices[0].message
        assert not message.tool_calls
        assert message.content == "I have no tool for that."
    told = user("Anna's cat is called Tom. What is Anna's phone number?")
    done = demo.openai().chat.completions.create(
        model="demo", messages=told, temperature=0, max_tokens=40)
    assert "not known" in done.choices[0].message.content


def test_structured_answers(demo):
    schema = {"type": "object", "properties": {"answer": {
        "type": "integer"}}, "required": ["answer"],
        "additionalProperties": False}
    done = create(demo, "What is 3 + 4?", response_format={
        "type": "json_schema",
        "json_schema": {"name": "sum", "schema": schema}})
    assert isinstance(json.loads(done.choices[0].message.content)["answer"],
                      int)


@pytest.mark.parametrize("fields", [{}, {"reasoning_effort": "high"}])
def test_parallel_requests_say_what_single_ones_say(demo, fields):
    texts = [f"What is {i} + {i + 1}?" for i in range(8)]

    def answer(text):
        message = create(demo, text, **fields).choices[0].message
        return message.content, getattr(message, "reasoning_content", None)

    alone = [answer(t) for t in texts]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, texts)) == alone


def test_logprobs_are_those_of_a_distribution(demo):
    done = create(demo, "What is 3 + 4?", logprobs=True, top_logprobs=5)
    for entry in done.choices[0].logprobs.content:
        top = [t.logprob for t in entry.top_logprobs]
        assert top == sorted(top, reverse=True)
        assert entry.logprob == pytest.approx(top[0], abs=1e-4)
        assert all(x <= 0 for x in top)
    first = create(demo, "What is 3 + 4?", seed=1, logprobs=True)
    again = create(demo, "What is 3 + 4?", seed=1, logprobs=True)
    assert first.choices[0].logprobs == again.choices[0].logprobs


def test_cached_tokens(demo):
    text = "Tell me something. " * 20
    first = create(demo, text).usage
    again = create(demo, text).usage
    assert again.prompt_tokens == first.prompt_tokens
    cached = again.prompt_tokens_details.cached_tokens
    assert 0 < cached < again.prompt_tokens and cached % 64 == 0
