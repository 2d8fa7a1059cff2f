"""Endpoints beside generation: models, tokens, rendering, health, admin."""

import json
import re
import socket
import struct
import time

import pytest

import serving
from raw import RawChat
from scripted import NO_RATE_LIMIT, TEKKEN, TOOLS, encode, user


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("other")
    server = serving.Server(directory, replace=[NO_RATE_LIMIT],
                            backend="null:rate=50", tokenizer=TEKKEN,
                            served_name="default,a/b",
                            admin_socket=directory / "admin.sock").start()
    try:
        yield server
    finally:
        server.stop()


def record(kind, content):
    return struct.pack("!BBHHBx", 1, kind, 1, len(content), 0) + content


def pair(name, value):
    name, value = name.encode(), value.encode()
    return struct.pack("!I", len(name) | 1 << 31) + \
        struct.pack("!I", len(value) | 1 << 31) + name + value


def fastcgi(path, method, uri, body=None):
    """(status, parsed body) of one FastCGI request on a UNIX socket."""
    body = b"" if body is None else json.dumps(body).encode()
    params = pair("REQUEST_METHOD", method) + pair("DOCUMENT_URI", uri) + \
        pair("CONTENT_TYPE", "application/json") + \
        pair("CONTENT_LENGTH", str(len(body)))
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(path))
        data = record(1, struct.pack("!HB5x", 1, 0)) + record(4, params) + \
            record(4, b"")
        if body:
            data += record(5, body)
        s.sendall(data + record(5, b""))
        raw, out = b"", b""
        while part := s.recv(65536):
            raw += part
    while raw:
        _, kind, _, length, padding = struct.unpack("!BBHHB", raw[:7])
        if kind == 6:
            out += raw[8:8 + length]
        raw = raw[8 + length + padding:]
    head, _, text = out.partition(b"\r\n\r\n")
    status = int(head.split(b"Status: ")[1][:3]) if b"Status" in head else 200
    return status, json.loads(text)


def test_models(server):
    status, body = server.json("GET", "/v1/models")
    assert status == 200
    assert [m["id"] for m in body["data"]] == ["default", "a/b"]
    assert body["data"][0]["max_model_len"] > 0
    assert server.json("GET", "/v1/models/a/b")[1]["id"] == "a/b"
    status, body = server.json("GET", "/v1/models/none")
    assert (status, body["error"]["param"]) == (404, "model")
    assert server.openai().models.list().data[0].id == "default"


def test_tokenize_and_back(server):
    text = "The caf\u00e9 \U0001f600 [INST] x"
    status, body = server.json("POST", "/tokenize", {
        "prompt": text, "add_special_tokens": False})
    assert body["tokens"] == encode([text])[0]
    assert body["count"] == len(body["tokens"])
    assert body["token_strs"] is None
    assert server.json("POST", "/v1/tokenize", {"prompt": text})[1][
        "tokens"][0] == 1
    status, back = server.json("POST", "/detokenize",
                               {"tokens": body["tokens"]})
    assert back == {"prompt": text, "text": text}
    many = server.json("POST", "/tokenize", {
        "prompt": ["one", text], "return_token_strs": True})[1]
    alone = [server.json("POST", "/tokenize", {
        "prompt": p, "return_token_strs": True})[1] for p in ("one", text)]
    for key in ("count", "tokens", "token_strs"):
        assert many[key] == [a[key] for a in alone]
    strings = server.json("POST", "/tokenize", {
        "prompt": "one two", "return_token_strs": True,
        "add_special_tokens": False})[1]["token_strs"]
    assert "".join(strings) == "one two"


@pytest.mark.parametrize("path, body", [
    ("/tokenize", {}), ("/tokenize", {"prompt": 3}),
    ("/tokenize", {"prompt": ["a", 3]}),
    ("/tokenize", {"prompt": "x", "messages": user("x")}),
    ("/tokenize", {"messages": []}),
    ("/tokenize", {"prompt": "x", "add_special_tokens": "no"}),
    ("/detokenize", {}), ("/detokenize", {"tokens": "x"}),
    ("/detokenize", {"tokens": [-1]}), ("/detokenize", {"tokens": [10 ** 9]}),
    ("/detokenize", {"tokens": [1.5]}),
])
def test_bad_token_requests(server, path, body):
    status, answer = server.json("POST", path, body)
    assert status == 400 and answer["error"]["message"]


def test_render(server):
    fields = {"messages": user("hi"), "tools": TOOLS,
              "reasoning_effort": "low"}
    status, body = server.json("POST", "/v1/chat/completions/render", fields)
    assert status == 200
    assert body["prompt"].startswith("<s>[AVAILABLE_TOOLS]")
    assert '{"reasoning_effort": "high"}' in body["prompt"]
    chat = server.json("POST", "/v1/chat/completions",
                       {**fields, "max_tokens": 1,
                        "return_token_ids": True})[1]
    assert body["prompt_token_ids"] == chat["prompt_token_ids"]
    tokens = server.json("POST", "/tokenize", fields)[1]["tokens"]
    assert tokens == body["prompt_token_ids"]
    status, body = server.json("POST", "/v1/completions/render",
                               {"prompt": ["a", "b"]})
    assert [p["prompt"] for p in body] == ["<s>a", "<s>b"]


def test_health_version_load(server):
    for path in ("/health", "/ping"):
        status, _, data = server.request("GET", path)
        assert (status, data) == (200, b"")
    assert server.request("POST", "/ping", b"")[0] == 200
    assert server.json("GET", "/version")[1]["version"]
    assert server.json("GET", "/load")[1]["server_load"] == 0


def test_what_sglang_clients_ask(server):
    for path in ("/model_info", "/get_model_info"):
        status, body = server.json("GET", path)
        assert status == 200 and body["is_generation"] is True
        assert body["model_path"] == "default" and "/" not in \
            body["tokenizer_path"]
    for path in ("/server_info", "/get_server_info"):
        status, body = server.json("GET", path)
        assert status == 200 and body["status"] == "ready"
        assert body["version"] == server.json("GET", "/version")[1]["version"]
        assert body["context_length"] == server.json(
            "GET", "/v1/models")[1]["data"][0]["max_model_len"]
        assert body["max_running_requests"] >= 1
    running = RawChat(server, max_tokens=1000)
    running.read_events(2)
    for loads in (server.json("GET", "/get_load")[1],
                  server.json("GET", "/v1/loads")[1]["loads"],
                  server.json("GET", "/server_info")[1]["internal_states"]):
        assert len(loads) == 1
        assert loads[0]["num_reqs"] == loads[0]["num_running_reqs"] >= 1
        assert loads[0]["num_tokens"] >= 64
    running.close()


def test_what_a_request_adds_to_the_metrics(server):
    before = server.metrics()
    status, body = server.json("POST", "/v1/chat/completions", {
        "messages": user("hi"), "n": 2, "max_tokens": 7})
    assert status == 200
    after = server.metrics()

    def gained(name):
        name = f'vllm:{name}{{engine="0"}}'
        return after[name] - before[name]

    assert gained("request_params_n_sum") == 2
    assert gained("request_params_n_count") == 1
    # Each choice is a request of its own to the engine.
    assert gained("request_params_max_tokens_sum") == 14
    assert gained("request_inference_time_seconds_count") == 2
    assert gained("request_time_per_output_token_seconds_count") == 2
    # 20 ms a token: six of them behind the first, in both.
    assert gained("request_time_per_output_token_seconds_sum") > 0.02
    # The longest choice of a prompt counts once.
    assert gained("request_max_num_generation_tokens_count") == 1
    assert gained("request_max_num_generation_tokens_sum") == 7
    computed = gained("request_prefill_kv_computed_tokens_sum")
    assert 0 < computed <= 2 * body["usage"]["prompt_tokens"]
    assert gained("time_per_output_token_seconds_count") == \
        gained("inter_token_latency_seconds_count") > 0

    def by_source(source):
        name = "vllm:prompt_tokens_by_source_total"
        name += f'{{engine="0",source="{source}"}}'
        return after[name] - before[name]

    assert by_source("local_compute") == computed
    assert by_source("local_compute") + by_source("local_cache_hit") == \
        gained("prompt_tokens_total")

    assert server.json("POST", "/v1/completions", {
        "prompt": ["a b", "c d"], "n": 2, "max_tokens": 3})[0] == 200
    after = server.metrics()
    assert gained("request_max_num_generation_tokens_count") == 3
    assert gained("request_max_num_generation_tokens_sum") == 7 + 3 + 3


def test_what_the_cache_and_the_process_are(server):
    status, _, data = server.request("GET", "/metrics")
    assert status == 200
    infos = [line for line in data.decode().splitlines()
             if line.startswith("vllm:cache_config_info{")]
    assert len(infos) == 1
    labels = dict(re.findall(r'([a-z_]+)="([^"]*)"', infos[0]))
    total = server.json("GET", "/load")[1]["blocks_total"]
    assert int(labels["num_gpu_blocks"]) == total > 0
    assert labels["block_size"] == "64"
    assert labels["enable_prefix_caching"] == "True"
    m = server.metrics()
    assert abs(m["process_resident_memory_bytes"] - server.daemon.rss()) \
        < 64 << 20


def test_abort_and_cache_reset(server):
    admin = server.daemon.conf["admin_socket"]
    status, body = fastcgi(admin, "POST", "/abort_request", {})
    assert status == 400
    assert fastcgi(admin, "POST", "/abort_request", {"rid": "none"}) == \
        (200, {"aborted": 0})
    chats = [RawChat(server, max_tokens=5000, request_id=f"r{i}")
             for i in range(3)]
    for chat in chats:
        chat.read_events(2)
    assert fastcgi(admin, "GET", "/flush_cache")[0] == 400
    assert fastcgi(admin, "POST", "/abort_request", {"rid": "r1"}) == \
        (200, {"aborted": 1})
    assert chats[1].read_until(b"[DONE]", 5)
    assert b'"finish_reason":"abort"' in chats[1].data
    assert b"[DONE]" not in chats[0].data
    assert fastcgi(admin, "POST", "/abort_request", {"abort_all": True}) == \
        (200, {"aborted": 2})
    for chat in chats:
        assert chat.read_until(b"[DONE]", 5)
        chat.close()
    serving.wait_for("nothing runs", lambda: server.json(
        "GET", "/load")[1]["server_load"] == 0, 5)
    status, body = fastcgi(admin, "POST", "/reset_prefix_cache")
    assert status == 200 and body["blocks_freed"] >= 0
    assert fastcgi(admin, "GET", "/flush_cache")[0] == 200
    assert fastcgi(admin, "GET", "/abort_request")[0] == 405
    assert fastcgi(admin, "POST", "/v1/chat/completions", {})[0] == 404


def test_admin_endpoints_are_not_on_the_main_socket(server):
    for path in ("/abort_request", "/reset_prefix_cache", "/flush_cache"):
        assert fastcgi(server.daemon.socket, "POST", path, {})[0] == 404


def test_health_generate(server):
    started = time.monotonic()
    status, body = fastcgi(server.daemon.socket, "GET", "/health_generate")
    assert status == 200
    assert body["usage"]["completion_tokens"] == 1
    assert time.monotonic() - started < 5


def test_requests_by_path_in_the_metrics(server):
    path = "/v1/chat/completions"
    name = "http_requests_total{handler=\"%s\",method=\"%s\",status=\"%s\"}"
    wanted = {name % (path, "POST", "2xx"): 2, name % (path, "POST", "4xx"): 1,
              name % (path, "GET", "4xx"): 1, name % ("none", "PUT", "4xx"): 1}
    before = server.metrics()
    hello = {"messages": user("hi"), "max_tokens": 10}
    assert server.json("POST", path, hello)[0] == 200
    assert server.request("POST", path, {**hello, "stream": True})[0] == 200
    assert server.json("POST", path, {})[0] == 400
    assert server.request("GET", path)[0] == 405
    assert server.request("PUT", "/v1/nothing")[0] == 404

    # A reply is counted when it is over, a moment after its last byte.
    serving.wait_for("all are counted", lambda: wanted == {
        key: server.metrics().get(key, 0) - before.get(key, 0)
        for key in wanted})
    after = server.metrics()
    took = "http_request_duration_seconds_%s{handler=\"%s\",method=\"POST\"%s}"

    def gained(of, more=""):
        key = took % (of, path, more)
        return after[key] - before.get(key, 0)

    assert gained("count") == gained("bucket", ',le="+Inf"') == 3
    # 20 ms a token, to the end of the stream too.
    assert gained("sum") > 0.3
    assert gained("bucket", ',le="0.1"') == 1


def test_who_leaves_before_the_reply_is_counted(server):
    name = 'http_requests_total{handler="/v1/chat/completions",' \
        'method="POST",status="4xx"}'
    before = server.metrics().get(name, 0)
    chat = RawChat(server, max_tokens=5000, stream=False)
    serving.wait_for("it runs", lambda: server.metrics()[
        "sirocco_requests_running"] == 1)
    chat.close()
    serving.wait_for("it is counted",
                     lambda: server.metrics().get(name, 0) == before + 1)
