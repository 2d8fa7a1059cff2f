"""Scripted model outputs: the null back end replays them, so that a test can
put any output through the real path.

An output is a list of strings, encoded as text, and of Token names."""

import json
import subprocess

import serving

TEKKEN = serving.DEMO / "tekken.json"
# A test asks faster than a client may.
NO_RATE_LIMIT = ("burst=40", "burst=100000")


class Token(str):
    """A control token, by name."""


THINK, END_THINK = Token("[THINK]"), Token("[/THINK]")
CALLS, ARGS = Token("[TOOL_CALLS]"), Token("[ARGS]")
END = Token("</s>")

_special = {t["token_str"]: t["rank"]
            for t in json.loads(TEKKEN.read_text())["special_tokens"]}


def encode(texts):
    """Ids of many texts, by siroccoctl."""
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    out = subprocess.run(
        [serving.BUILD / "siroccoctl", "tokenize", "--tokenizer", TEKKEN],
        input=lines, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def ids_of(output):
    """Ids of one output."""
    texts = [p for p in output if not isinstance(p, Token)]
    encoded = iter(encode(texts) if texts else [])
    ids = []
    for part in output:
        ids += [_special[part]] if isinstance(part, Token) else next(encoded)
    return ids


def write(path, outputs):
    """A script file: {text of the user's message: output}. Outputs end with
    the end of sequence by themselves."""
    with open(path, "w") as f:
        for text, output in outputs.items():
            f.write(json.dumps({"find": encode([text])[0],
                                "ids": ids_of(output)}) + "\n")


def user(text):
    return [{"role": "user", "content": text}]


def serve(directory, outputs, **conf):
    """A server that answers each text with its output, also one that the
    tools' grammar would not let a model give."""
    conf.setdefault("tool_grammar", "off")
    directory.mkdir(parents=True, exist_ok=True)
    script = directory / "script"
    write(script, outputs)
    server = serving.Server(directory, replace=[NO_RATE_LIMIT],
                            backend=f"null:rate=0,script={script}",
                            tokenizer=TEKKEN, served_name="default,other",
                            **conf)
    return server.start()


TOOLS = [
    {"type": "function", "function": {
        "name": name, "description": "A tool.",
        "parameters": {"type": "object", "properties": {
            "a": {"type": "string"}}}}}
    for name in ("get_weather", "get_time")
]


def joined(chunks):
    """The message that a client joins from the chunks of one choice, with its
    finish reason."""
    message = {"content": None, "reasoning": None, "tool_calls": []}
    reason = None
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            assert reason is None, "a chunk behind the finish reason"
            if delta.get("content") is not None:
                message["content"] = (message["content"] or "") + \
                    delta["content"]
            assert delta.get("reasoning") == delta.get("reasoning_content")
            if delta.get("reasoning") is not None:
                message["reasoning"] = (message["reasoning"] or "") + \
                    delta["reasoning"]
            for call in delta.get("tool_calls", []):
                calls = message["tool_calls"]
                if call.get("id"):
                    assert call["index"] == len(calls)
                    assert call["type"] == "function"
                    calls.append({"id": call["id"], **call["function"]})
                else:
                    assert "name" not in call["function"]
                    calls[call["index"]]["arguments"] += \
                        call["function"]["arguments"]
            reason = choice["finish_reason"]
    return message, reason
