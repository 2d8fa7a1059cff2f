"""Agents and chat programs from PyPI, each driven as its users drive it. Where
a program needs a model that knows how to work, the null back end replays one;
the loop around it (prompts, calls, results, streams) is the client's own.
sirocco-api(7) says what each was told."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys

import agents
import openai
import pydantic
import pytest

import serving
from scripted import ARGS, CALLS, END_THINK, THINK, serve

BIN = pathlib.Path(sys.executable).parent


# --- mini-SWE-agent ---------------------------------------------------------

# What the agent's model sees decides what it does: the task, then what the
# failing test says, then what the passing one says.
TASK = "Please mend area.py so that check.py passes."
WRONG = "def area(a, b):\n    return a + b\n"
RIGHT = "def area(a, b):\n    return a * b\n"
CHECK = """from area import area
if area(3, 4) != 12:
    print("the area is wrong:", area(3, 4))
    raise SystemExit(1)
print("the area is right")
"""


def bash(*commands):
    out = []
    for command in commands:
        out += [CALLS, "bash", ARGS, json.dumps({"command": command})]
    return out


CODING = {      # the first text found in the prompt decides
    " area is right": bash("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
    " area is wrong": [
        THINK, "A plus where a product belongs.", END_THINK,
        "I correct the operator and check again."] + bash(
            "sed -i 's/a + b/a * b/' area.py", f"{sys.executable} check.py"),
    TASK: ["First I look."] + bash("cat area.py",
                                   f"{sys.executable} check.py"),
}


@pytest.fixture(scope="module")
def coder(tmp_path_factory):
    server = serve(tmp_path_factory.mktemp("coder"), CODING,
                   tool_grammar="on")
    try:
        yield server
    finally:
        server.stop()


def mini(server, directory, model, base, **settings):
    """A run of the agent in directory: (exit status, output, its record)."""
    (directory / "area.py").write_text(WRONG)
    (directory / "check.py").write_text(CHECK)
    settings = {"model.cost_tracking": "ignore_errors", "agent.step_limit": 8,
                "model.model_kwargs.api_base": base, **settings}
    done = subprocess.run(
        [BIN / "mini", "-m", model, "-t", TASK, "--yolo",
         "--exit-immediately", "-o", directory / "record.json", "-c",
         "mini.yaml"] + [a for k, v in settings.items()
                         for a in ("-c", f"{k}={v}")],
        cwd=directory, capture_output=True, text=True, timeout=100,
        stdin=subprocess.DEVNULL, env={
            **os.environ, "HOME": str(directory), "MSWEA_CONFIGURED": "1",
            "MSWEA_GLOBAL_CONFIG_DIR": str(directory / "conf"),
            "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",     # fetches one else
            "OPENAI_API_KEY": serving.KEY, "ANTHROPIC_API_KEY": serving.KEY})
    record = directory / "record.json"
    return done, json.loads(record.read_text()) if record.exists() else None


@pytest.mark.parametrize("model, path", [
    ("openai/default", "/v1"), ("anthropic/default", "")])
def test_a_coding_agent_mends_a_program(coder, tmp_path, model, path):
    """Reads, runs, edits, runs again and says that it is done."""
    done, record = mini(coder, tmp_path, model, coder.url + path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "area.py").read_text() == RIGHT
    assert record["info"]["exit_status"] == "Submitted"
    turns = [m for m in record["messages"] if m["role"] == "assistant"]
    assert [len(t["tool_calls"]) for t in turns] == [2, 2, 1]
    assert "operator" in turns[1]["content"]
    assert turns[1]["reasoning_content"] == "A plus where a product belongs."
    results = [m["content"] for m in record["messages"]
               if m["role"] == "tool"]
    assert "the area is wrong: 7" in results[1]
    assert "the area is right" in results[3]


# --- the OpenAI Agents SDK --------------------------------------------------


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


WORDS = {
    " 21 degrees": [THINK, "Now I know.", END_THINK,
                    '{"city": "Oslo", "degrees": 21}'],
    " the tool": [THINK, "I should look.", END_THINK, CALLS, "get_weather",
                 ARGS, '{"city": "Oslo"}'],
    " forward": [CALLS, "transfer_to_weatherman", ARGS, "{}"],
}


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    server = serve(tmp_path_factory.mktemp("talker"), WORDS,
                   tool_grammar="on")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["responses", "chat"])
def config(request, talker):
    """How a run reaches the server, by each of the two APIs."""
    client = openai.AsyncOpenAI(base_url=talker.url + "/v1",
                                api_key=serving.KEY)
    return agents.RunConfig(
        tracing_disabled=True,      # it would go to OpenAI
        model_settings=agents.ModelSettings(reasoning={"effort": "high"}),
        model_provider=agents.OpenAIProvider(
            openai_client=client, use_responses=request.param == "responses"))


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"In {city} there are 21 degrees."


WEATHERMAN = agents.Agent(name="weatherman", model="default",
                          instructions="Use the tool.", tools=[get_weather],
                          output_type=Weather)
OSLO = Weather(city="Oslo", degrees=21)


def test_an_agent_calls_a_function_and_answers_in_form(config):
    done = agents.Runner.run_sync(WEATHERMAN, "How is the weather in Oslo?",
                                  run_config=config, max_turns=4)
    assert done.final_output == OSLO
    kinds = [i.type for i in done.new_items]
    assert [k for k in kinds if k != "reasoning_item"] == [
        "tool_call_item", "tool_call_output_item", "message_output_item"]
    assert done.context_wrapper.usage.requests == 2
    assert done.context_wrapper.usage.output_tokens > 20


def test_an_agent_streams(config):
    async def run():
        result = agents.Runner.run_streamed(
            WEATHERMAN, "How is the weather in Oslo?", run_config=config,
            max_turns=4)
        text, calls = "", []
        async for event in result.stream_events():
            if event.type == "raw_response_event" and \
                    event.data.type == "response.output_text.delta":
                text += event.data.delta
            elif event.type == "run_item_stream_event" and \
                    event.name == "tool_called":
                calls.append(event.item.raw_item.arguments)
        return result.final_output, text, calls

    output, text, calls = asyncio.run(run())
    assert output == OSLO
    assert Weather.model_validate_json(text) == OSLO
    assert calls == ['{"city": "Oslo"}']


def test_an_agent_hands_over(config):
    desk = agents.Agent(name="desk", model="default", handoffs=[WEATHERMAN])
    done = agents.Runner.run_sync(desk, "Put me forward to him, please.",
                                  run_config=config, max_turns=5)
    assert done.last_agent.name == "weatherman"
    assert done.final_output == OSLO


# --- llm, the command -------------------------------------------------------

EXTRA_MODELS = """\
- model_id: sirocco
  model_name: default
  api_base: {url}/v1
  api_key_name: sirocco
  supports_tools: true
  supports_schema: true
  vision: true
  reasoning: true
"""
TOOL = """
def get_weather(city: str) -> str:
    "The weather in a city."
    return f"In {city} there are 21 degrees."
"""
CLOSED = {"type": "object", "properties": {"answer": {
    "type": "integer", "maximum": 99}}, "required": ["answer"],
    "additionalProperties": False}


def llm_command(server, directory):
    """llm(argument, ...) runs the command with a directory of its own."""
    (directory / "extra-openai-models.yaml").write_text(
        EXTRA_MODELS.format(url=server.url))
    (directory / "keys.json").write_text(json.dumps({"sirocco": serving.KEY}))

    def run(*arguments, status=0):
        done = subprocess.run(
            [BIN / "llm", "-m", "sirocco", "-o", "temperature", "0",
             *arguments], capture_output=True, text=True,
            timeout=100, stdin=subprocess.DEVNULL,
            env={**os.environ, "LLM_USER_PATH": str(directory)})
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr
    return run


@pytest.fixture
def llm(demo, tmp_path):
    return llm_command(demo, tmp_path)


def test_the_llm_command_talks(llm):
    first = llm("-u", "What is 3 + 4?")
    assert "7" in first and "Token usage: " in first
    more = llm("-c", "-o", "reasoning_effort", "high", "--no-stream", "-u",
               "What is 5 + 6?")
    assert "11" in more and '"reasoning_tokens"' in more


def test_the_llm_command_takes_a_form(llm):
    answer = llm("--schema", json.dumps(CLOSED), "What is 3 + 4?")
    assert isinstance(json.loads(answer)["answer"], int)


def test_the_llm_command_shows_pictures(llm):
    picture = serving.TOP / "tests/data/images/small.png"
    assert llm("-a", picture, "-o", "max_tokens", "50",
               "What is in the picture?").strip()


def test_the_llm_command_says_what_is_wrong(llm):
    assert "Invalid or missing API key" in llm("--key", "sk-no", "x", status=1)
    assert "maximum context length" in llm("-o", "max_tokens", "100000000",
                                           "x", status=1)


@pytest.mark.parametrize("way", [(), ("--no-stream",)])
def test_the_llm_command_calls_functions(talker, tmp_path, way):
    said = llm_command(talker, tmp_path)(
        "-s", "Use the tool.", "--td", "--functions", TOOL, *way,
        "-o", "reasoning_effort", "high", "How is the weather?")
    assert "Tool call: get_weather({'city': 'Oslo'})" in said
    assert "In Oslo there are 21 degrees." in said
    assert '{"city": "Oslo", "degrees": 21}' in said
