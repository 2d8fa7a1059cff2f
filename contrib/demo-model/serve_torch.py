#!/usr/bin/env python3
"""A chat completions server on the PyTorch module, for tests of evaluate.py.

One request at a time, no streaming, no limits: it exists so that the
evaluation itself can be tested without the daemon.

    python3 serve_torch.py --model model --port 8099
"""

import argparse
import base64
import io
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import threading

from PIL import Image

import chatfmt
import checkpoint
import decode


class Picture:
    """A decoded image in the place of a scene."""

    def __init__(self, url):
        data = base64.b64decode(url.split(",", 1)[1])
        self.image = Image.open(io.BytesIO(data)).convert("RGB")
        self.width, self.height = self.image.size


def chat_of(body):
    """The OpenAI request as a chat of chatfmt.py."""
    chat = {"system": None, "tools": body.get("tools") or [], "scenes": [],
            "effort": body.get("reasoning_effort") or "none", "messages": []}
    for m in body["messages"]:
        if m["role"] == "system":
            chat["system"] = m["content"]
            continue
        out = {"role": m["role"], "content": m.get("content") or ""}
        if isinstance(out["content"], list):
            out["content"] = [_part(chat, p) for p in out["content"]]
        if m["role"] == "assistant":
            out["think"] = m.get("reasoning_content")
            out["calls"] = [
                (c["function"]["name"], json.loads(c["function"]["arguments"]))
                for c in m.get("tool_calls") or []]
        chat["messages"].append(out)
    return chat


def _part(chat, part):
    if part["type"] == "text":
        return ("text", part["text"])
    chat["scenes"].append(Picture(part["image_url"]["url"]))
    return ("image", len(chat["scenes"]) - 1)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def _send(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self._send({"object": "list", "data": [{"id": "demo"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(
            self.headers["Content-Length"])))
        chat = chat_of(body)
        decoder = self.server.decoder
        ids, _, used = decoder.encoder.chat(chat)
        with self.server.lock:
            new = decoder.generate([(ids, [chat["scenes"][i] for i in used])],
                                   body.get("max_tokens", 256))[0]
        reply = decode.parse(decoder.encoder, new)
        message = {"role": "assistant", "content": reply["content"] or None,
                   "reasoning_content": reply["reasoning"],
                   "tool_calls": [
                       {"id": "call%05d" % n, "type": "function",
                        "function": {"name": name, "arguments": args}}
                       for n, (name, args) in enumerate(reply["calls"])]}
        self._send({"choices": [{"index": 0, "message": message}],
                    "usage": {"prompt_tokens": len(ids),
                              "completion_tokens": len(new)}})


def main():
    parser = argparse.ArgumentParser(description="test server")
    parser.add_argument("--model", default="model")
    parser.add_argument("--port", type=int, default=8099)
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    server.decoder = decode.Decoder(
        checkpoint.load(options.model),
        chatfmt.Encoder(options.model + "/tekken.json"))
    server.lock = threading.Lock()
    server.serve_forever()


if __name__ == "__main__":
    main()
