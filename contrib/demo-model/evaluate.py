#!/usr/bin/env python3
"""Evaluates a running server with held-out prompts, greedy, over HTTP.

    evaluate.py --url http://127.0.0.1:8080/v1            everything
    evaluate.py --url .. --quick                          under a minute
    evaluate.py --url .. --only tools --only needle

Prints a table and exits with 1 when a task is below its bar.  A reply counts
as right only if its parts are right: the thought in `reasoning_content`, the
answer in `content`, the calls in `tool_calls`; so a wrong prompt format, a
thought that leaks into the answer or a call that stays text fail here.
"""

import argparse
import base64
import concurrent.futures
import http.client
import io
import json
import os
import sys
import threading
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True      # the directory may be read-only

import cases                                            # noqa: E402
import chatfmt                                          # noqa: E402


class Server:
    """Asks a chat completions server; counts what it reports."""

    def __init__(self, url, model, key, limit, timeout):
        self.url = urllib.parse.urlsplit(url.rstrip("/"))
        self.model, self.key, self.limit = model, key, limit
        self.timeout = timeout
        self.lock = threading.Lock()
        self.tokens = {"prompt": 0, "cached": 0, "completion": 0}
        self.longest = 0

    def _post(self, path, body):
        """A reply's JSON; waits and asks again when told to (429, 503)."""
        for _ in range(30):
            status, wait, text = self._send(path, body)
            if status == 200:
                return json.loads(text)
            if status not in (429, 503):
                break
            time.sleep(wait)
        raise RuntimeError("HTTP %d: %s" % (status, text[:300]))

    def _send(self, path, body):
        kind = (http.client.HTTPSConnection if self.url.scheme == "https"
                else http.client.HTTPConnection)
        line = kind(self.url.netloc, timeout=self.timeout)
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = "Bearer " + self.key
        try:
            line.request("POST" if body else "GET", self.url.path + path,
                         json.dumps(body) if body else None, headers)
            reply = line.getresponse()
            text = reply.read().decode("utf-8", "replace")
        finally:
            line.close()
        wait = reply.getheader("Retry-After") or "1"
        return reply.status, float(wait) if wait.isdigit() else 1.0, text

    def find_model(self):
        """The id of the served model, asked once."""
        if not self.model:
            self.model = self._post("/models", None)["data"][0]["id"]
        return self.model

    def answer(self, chat):
        """One chat to a reply as cases.py wants it."""
        body = {"model": self.model, "temperature": 0,
                "max_tokens": self.limit,
                "messages": chatfmt.openai_messages(chat, data_url),
                "reasoning_effort": chat["effort"]}
        if chat["tools"]:
            body["tools"] = chat["tools"]
        out = self._post("/chat/completions", body)
        self._count(out.get("usage") or {})
        message = out["choices"][0]["message"]
        calls = [(c["function"]["name"], c["function"]["arguments"])
                 for c in message.get("tool_calls") or []]
        return {"content": message.get("content") or "", "calls": calls,
                "reasoning": message.get("reasoning_content")
                or message.get("reasoning")}

    def _count(self, usage):
        details = usage.get("prompt_tokens_details") or {}
        with self.lock:
            n = usage.get("prompt_tokens", 0)
            self.longest = max(self.longest, n)
            self.tokens["prompt"] += n
            self.tokens["cached"] += details.get("cached_tokens") or 0
            self.tokens["completion"] += usage.get("completion_tokens", 0)


def data_url(scene):
    """A scene as a PNG data URL."""
    import tasks_image
    buffer = io.BytesIO()
    tasks_image.draw(scene).save(buffer, "PNG")
    return ("data:image/png;base64,"
            + base64.b64encode(buffer.getvalue()).decode())


def run_task(server, todo, jobs, show):
    """List of booleans; a request that fails counts as wrong."""
    def one(case):
        last = {}

        def answer(chat):
            last["chat"] = chat
            last["reply"] = server.answer(chat)
            return last["reply"]
        try:
            right = cases.run_one(case, answer)
        except (RuntimeError, OSError, KeyError, ValueError) as problem:
            last["reply"], right = str(problem), False
        if not right and show:
            print("  wrong: %s -> %s" % (
                str(last["chat"]["messages"][-1]["content"])[-200:],
                last["reply"]))
        return right

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, todo))


def tokenizer_file():
    """tekken.json in the source tree, or where it is installed."""
    path = os.path.join(HERE, "model", "tekken.json")
    return path if os.path.exists(path) else os.path.join(HERE,
                                                          "tekken.json")


def options():
    parser = argparse.ArgumentParser(
        description="evaluate a server of the demo model over HTTP")
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--model", help="default: the first one served")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--tokenizer",
                        default=tokenizer_file(),
                        help="only to make long texts of a known length")
    parser.add_argument("--quick", action="store_true",
                        help="a small fixed part, without the long texts")
    parser.add_argument("--only", action="append", metavar="TASK",
                        choices=sorted(cases.BARS))
    parser.add_argument("--no-images", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=4,
                        help="requests at a time")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--show", action="store_true",
                        help="print wrong answers")
    return parser.parse_args()


def main():
    opt = options()
    encoder = chatfmt.Encoder(opt.tokenizer)
    server = Server(opt.url, opt.model, opt.key, opt.max_tokens, opt.timeout)
    print("model %s at %s" % (server.find_model(), opt.url))
    low, together = [], []
    print("%-12s %6s %8s %7s %8s" % ("task", "cases", "right", "bar",
                                     "seconds"))
    for task, (full, quick, bar) in cases.BARS.items():
        count = quick if opt.quick else full
        if (not count or (opt.only and task not in opt.only)
                or (opt.no_images and task == "images")):
            continue
        begin = time.time()
        todo = cases.cases(task, opt.seed, count,
                           lambda t: len(encoder.text(t)))
        right = run_task(server, todo, opt.jobs, opt.show)
        share = 100.0 * sum(right) / len(right)
        if share < (bar if not opt.quick else min(bar, 75)):
            low.append(task)
        if task in cases.TOGETHER:
            together += right
        print("%-12s %6d %6.1f %% %7s %8.1f" % (
            task, len(right), share, "%d %%" % bar,
            time.time() - begin), flush=True)
    if together:
        share = 100.0 * sum(together) / len(together)
        bar = cases.TOGETHER_BAR if not opt.quick else 85
        if share < bar:
            low.append("instructions")
        print("%-12s %6d %6.1f %% %5d %%   (%s)" % (
            "instructions", len(together), share, bar,
            ", ".join(t for t in cases.TOGETHER)))
    print("%(prompt)d prompt tokens (%(cached)d cached), "
          "%(completion)d written" % server.tokens
          + ", longest prompt %d" % server.longest)
    if low:
        print("below the bar: " + ", ".join(low))
    sys.exit(1 if low else 0)


if __name__ == "__main__":
    main()
