"""What an operator meets: keys, limits, errors of the gateway, reload, drain,
failures. The null back end keeps them quick."""

import gzip
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request

import openai
import pytest

import serving
from raw import RawChat

TEKKEN = serving.DEMO / "tekken.json"


def null_conf(spec="rate=0", **conf):
    return {"backend": f"null:{spec}", "tokenizer": TEKKEN,
            "served_name": "default", **conf}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    s = serving.Server(tmp_path_factory.mktemp("ops"),
                       **null_conf(max_body="1M"))
    try:
        yield s.start()
    finally:
        s.stop()


MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "default", "max_tokens": 4, "messages": MESSAGES}


def error_of(data):
    """The error object of a reply in OpenAI's shape."""
    error = json.loads(data)["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    return error


# --- keys ---------------------------------------------------------------------


def test_a_key_is_needed(server):
    for key in (None, "sk-wrong", serving.KEY + "0", serving.KEY[:-1]):
        status, headers, data = server.request("POST", "/v1/chat/completions",
                                               CHAT, key=key)
        assert status == 401
        assert error_of(data)["code"] == "invalid_api_key"
        assert "Bearer" in headers["WWW-Authenticate"]
    with pytest.raises(openai.AuthenticationError):
        server.openai(key="sk-wrong").models.list()
    assert [m.id for m in server.openai().models.list()] == ["default"]
    assert [m.id for m in server.openai(serving.OTHER_KEY).models.list()] \
        == ["default"]


def test_other_ways_to_give_the_key(server):
    status, _, _ = server.request("GET", "/v1/models", key=None,
                                  headers={"X-Api-Key": serving.KEY})
    assert status == 200
    status, _, _ = server.request("GET", f"/v1/models?api_key={serving.KEY}",
                                  key=None)
    assert status == 401


def test_health_and_metrics_need_no_key_here(server):
    for path in ("/health", "/metrics"):
        status, _, _ = server.request("GET", path, key=None)
        assert status == 200


def test_preflight_needs_no_key(server):
    status, headers, _ = server.request("OPTIONS", "/v1/chat/completions",
                                        key=None)
    assert status == 204
    assert "POST" in headers["Access-Control-Allow-Methods"]


# --- requests that cannot be served ---------------------------------------------


def test_unknown_routes(server):
    for path in ("/", "/v2/models", "/v1/nothing"):
        status, _, data = server.request("GET", path)
        assert status == 404
        error_of(data)


def raw(server, data, port=None):
    """Status and body of what a broken request gets."""
    with socket.create_connection(
            ("127.0.0.1", port or server.nginx.port), 10) as s:
        s.sendall(data)
        reply = b""
        while part := s.recv(65536):
            reply += part
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("line, want", [
    (b"GET /v1/../../etc/passwd", 400), (b"GET /v1/%00", 400),
    (b"GET /v1/" + b"x" * 20000, 414), (b"TRACE /v1/models", 405),
    (b"GET /v1/models?" + b"x" * 20000, 414)])
def test_requests_that_nginx_itself_refuses(server, line, want):
    status, body = raw(server, line + b" HTTP/1.1\r\nHost: x\r\n"
                       b"Connection: close\r\n\r\n")
    assert status == want
    assert error_of(body)["code"] == want


def test_headers_that_are_too_long(server):
    status, body = raw(server, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: "
                       + b"x" * 100000 + b"\r\nConnection: close\r\n\r\n")
    assert status == 400
    error_of(body)


def test_a_gateway_without_room_for_a_body(make_server):
    """As on a full disk: what does not fit into memory has no place."""
    server = make_server(**null_conf())
    shutil.rmtree(server.nginx.dir / "body")
    (server.nginx.dir / "body").write_text("")
    big = {**CHAT, "user": "x" * (3 << 20)}
    status, _, data = server.request("POST", "/v1/chat/completions", big)
    assert status == 500
    error_of(data)
    assert server.json("POST", "/v1/chat/completions", CHAT)[0] == 200


def test_a_log_that_cannot_be_written(make_server, tmp_path):
    """A full disk under the log stops nothing."""
    server = make_server(**null_conf())
    server.daemon.stop()
    with open("/dev/full", "wb") as full:
        server.daemon.process = subprocess.Popen(
            [serving.BUILD / "siroccod", "-c", server.daemon.conf_path],
            stdin=subprocess.DEVNULL, stdout=full, stderr=full)
    serving.wait_for("it listens", server.daemon.socket.exists, 10)
    assert server.json("POST", "/v1/chat/completions", CHAT)[0] == 200
    assert server.daemon.stop() == 0


def test_plain_http_to_the_tls_port(server):
    status, body = raw(server, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
                       server.nginx.tls_port)
    assert status == 400
    error_of(body)


def test_paths_with_slips(server):
    """A slash too many is harmless, a path too many is named."""
    for path in ("/v1/models/", "//v1/models"):
        assert server.json("GET", path)[1]["object"] == "list"
    status, body = server.json("POST", "/v1/v1/messages", CHAT)
    assert status == 404 and "/v1/v1/messages" in body["error"]["message"]
    status, body = server.json("POST", "/chat/completions", CHAT)
    assert status == 404 and "/v1/" in body["error"]["message"]
    assert server.json("GET", "/v1/" + "x" * 4000)[0] == 404


def test_a_compressed_body_is_refused_as_such(server):
    status, body = server.json(
        "POST", "/v1/chat/completions", gzip.compress(json.dumps(CHAT).encode()),
        headers={"Content-Encoding": "gzip"})
    assert status == 400 and "Content-Encoding" in body["error"]["message"]


def test_the_probe_that_generates_needs_a_key(server):
    assert server.request("GET", "/health_generate")[0] == 200
    assert server.request("GET", "/health_generate", key=None)[0] == 401


def test_bodies_over_the_limit(server):
    # The daemon's own limit is 1M here, nginx's 32M.
    big = json.dumps({**CHAT, "messages": [
        {"role": "user", "content": "x" * (2 << 20)}]}).encode()
    status, _, data = server.request("POST", "/v1/chat/completions", big)
    assert status == 413
    error_of(data)
    status, _, data = server.request("POST", "/v1/chat/completions",
                                     b"x" * (33 << 20))
    assert status == 413
    error_of(data)
    # A short body can be a large tree.
    many = json.dumps({**CHAT, "metadata": [{}] * 120_000}).encode()
    assert len(many) < 1 << 20
    status, _, data = server.request("POST", "/v1/chat/completions", many)
    assert status == 400
    assert "too many values" in error_of(data)["message"]
    assert error_of(data)["type"] == "Bad Request"
    # And the next one is served.
    assert server.json("POST", "/v1/chat/completions", CHAT)[0] == 200


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'{"model": "default",}', b"\xff\xfe",
    b'{"model": "default", "messages": [' + b"[" * 5000,
    b"{'model': 'default'}", b'{"messages": "\x01"}',
])
def test_bodies_that_are_not_json(server, body):
    status, _, data = server.request("POST", "/v1/chat/completions", body)
    assert status == 400
    assert error_of(data)["type"]


def test_the_client_sees_a_bad_request(server):
    with pytest.raises(openai.BadRequestError):
        server.openai().chat.completions.create(
            model="default", messages=MESSAGES, max_tokens=-1)
    with pytest.raises(openai.NotFoundError):
        server.openai().chat.completions.create(
            model="no-such-model", messages=MESSAGES)


def test_requests_over_the_rate_are_told_to_wait(make_server):
    server = make_server(**null_conf())
    replies = [server.request("GET", "/v1/models") for _ in range(80)]
    refused = [r for r in replies if r[0] == 429]
    assert refused and len(refused) < 60
    for _, headers, data in refused:
        assert error_of(data)["code"] == "rate_limit_exceeded"
        assert headers["Retry-After"] == "1"
    # Another key has a budget of its own.
    assert server.request("GET", "/v1/models", key=serving.OTHER_KEY)[0] == 200


def test_a_full_queue_is_told_to_wait(make_server):
    server = make_server(**null_conf("rate=5", max_running=1, max_queue=1))
    chats = [RawChat(server, max_tokens=1000) for _ in range(2)]
    serving.wait_for(
        "one waits",
        lambda: server.metrics()["sirocco_requests_waiting"] == 1, 5)
    with pytest.raises(openai.RateLimitError):
        server.openai().chat.completions.create(**CHAT)
    for chat in chats:
        chat.close()


def test_tls(server):
    context = ssl.create_default_context(
        cafile=server.nginx.dir / "cert.pem")
    request = urllib.request.Request(
        f"https://localhost:{server.nginx.tls_port}/v1/models",
        headers={"Authorization": f"Bearer {serving.KEY}"})
    with urllib.request.urlopen(request, context=context) as reply:
        assert json.loads(reply.read())["data"][0]["id"] == "default"


def test_http2_streams(server):
    out = subprocess.run(
        ["curl", "-sN", "--http2", "--cacert", server.nginx.dir / "cert.pem",
         "-w", "%{http_version}", "-H", f"Authorization: Bearer {serving.KEY}",
         "-H", "Content-Type: application/json",
         "-d", json.dumps({**CHAT, "stream": True}),
         f"https://localhost:{server.nginx.tls_port}/v1/chat/completions"],
        capture_output=True, check=True).stdout
    assert out.endswith(b"data: [DONE]\n\n2"), out[-100:]


# --- the daemon comes and goes ----------------------------------------------------


def test_without_the_daemon_nginx_answers_503(make_server):
    server = make_server(**null_conf())
    assert server.daemon.stop() == 0
    for path in ("/v1/models", "/health"):
        status, headers, data = server.request("GET", path)
        assert status == 503
        assert error_of(data)["code"] == "engine_unavailable"
        assert headers["Retry-After"] == "5"
    with pytest.raises(openai.InternalServerError):
        server.openai().models.list()
    server.daemon.start()
    assert server.request("GET", "/health")[0] == 200


def test_ready_means_that_a_token_was_drawn(make_server):
    """AC-45: the socket is there only after the first one."""
    server = make_server(**null_conf())
    assert server.metrics()["sirocco_generation_tokens_total"] == 1


def test_a_daemon_that_hangs_is_not_healthy(make_server):
    server = make_server(**null_conf(), replace=[
        ("fastcgi_read_timeout 5s", "fastcgi_read_timeout 1s")])
    server.daemon.process.send_signal(signal.SIGSTOP)
    try:
        status, _, data = server.request("GET", "/health", timeout=20)
        assert status == 504
        assert error_of(data)["code"] == "engine_timeout"
    finally:
        server.daemon.process.send_signal(signal.SIGCONT)
    assert server.request("GET", "/health")[0] == 200


def test_reload_takes_new_values_over(make_server):
    server = make_server(**null_conf("rate=20"))
    chat = RawChat(server, max_tokens=40)
    chat.read_events(3)

    def reload(**conf):
        server.daemon.conf.update(conf)
        server.daemon.write_conf()
        server.daemon.process.send_signal(signal.SIGHUP)

    def names():
        time.sleep(0.1)     # nginx lets 20 a second pass
        return [m["id"] for m in server.json("GET", "/v1/models")[1]["data"]]

    reload(served_name="fresh,other")
    serving.wait_for("the new names", lambda: names() == ["fresh", "other"])
    reload(served_name="bad", temperature="hot")
    serving.wait_for("the complaint",
                     lambda: "nothing is changed" in server.daemon.log())
    assert names() == ["fresh", "other"]
    reload(served_name="again", temperature="0.5", max_running="7")
    serving.wait_for("the third names", lambda: names() == ["again"])
    assert "max_running" in server.daemon.log()
    # The stream went on through all of it.
    assert b"[DONE]" in chat.read_all()


def test_nginx_reload_cuts_no_stream(make_server):
    server = make_server(**null_conf("rate=20"))
    chats = [RawChat(server, max_tokens=30) for _ in range(5)]
    for chat in chats:
        chat.read_events(3)
    server.nginx.process.send_signal(signal.SIGHUP)
    for chat in chats:
        assert b"[DONE]" in chat.read_all()
    assert server.request("GET", "/v1/models")[0] == 200


def test_drain_finishes_what_runs(make_server):
    """AC-46"""
    server = make_server(**null_conf("rate=20"))
    chat = RawChat(server, max_tokens=60)
    chat.read_events(3)
    whole = RawChat(server, max_tokens=30, stream=False)
    serving.wait_for(
        "both run",
        lambda: server.metrics()["sirocco_requests_running"] == 2, 5)
    server.daemon.process.send_signal(signal.SIGTERM)
    serving.wait_for("the socket goes",
                     lambda: not server.daemon.socket.exists(), 5)
    assert server.request("GET", "/v1/models")[0] == 503
    assert b"[DONE]" in chat.read_all()
    assert b'"finish_reason":"length"' in whole.read_all()
    assert server.daemon.process.wait(5) == 0


def test_drain_has_an_end(make_server):
    """AC-46"""
    server = make_server(**null_conf("rate=20", drain_timeout="500ms"))
    chat = RawChat(server, max_tokens=10000)
    chat.read_events(3)
    start = time.monotonic()
    assert server.daemon.stop() == 0
    assert 0.4 < time.monotonic() - start < 4
    data = chat.read_all()
    assert b'"error"' in data    # told, not just cut off
    assert b"finish_reason\":\"stop" not in data


def test_a_second_signal_ends_the_drain(make_server):
    server = make_server(**null_conf("rate=20", drain_timeout="60s"))
    chat = RawChat(server, max_tokens=10000)
    chat.read_events(3)
    process = server.daemon.process
    process.send_signal(signal.SIGTERM)
    serving.wait_for("the drain", lambda: "draining" in server.daemon.log())
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    chat.close()


def test_a_dead_device_ends_the_daemon(make_server):
    server = make_server(**null_conf("rate=50,fail=60"))
    chat = RawChat(server, max_tokens=10000)
    data = chat.read_all()
    assert b'"error"' in data
    assert server.daemon.process.wait(10) == 4
    server.daemon.process = None


@pytest.mark.parametrize("stream", [True, False])
def test_a_killed_daemon_is_no_end_of_a_reply(make_server, stream):
    """What came so far has neither a reason nor the mark of an end; the next
    daemon takes the socket over."""
    server = make_server(**null_conf("rate=20"))
    chat = RawChat(server, max_tokens=1000, stream=stream)
    serving.wait_for("it runs", lambda: server.metrics()[
        "sirocco_requests_running"] == 1, 5)
    if stream:
        chat.read_events(3)
    server.daemon.process.kill()
    data = chat.read_all()
    if stream:
        assert b"[DONE]" not in data and b'"finish_reason":"' not in data
    else:
        assert data.startswith(b"HTTP/1.1 503 ")
    server.daemon.process.wait()
    assert server.daemon.socket.exists()
    server.daemon.socket.unlink()       # for start() to see the new one
    server.daemon.start()
    assert server.json("POST", "/v1/chat/completions", CHAT)[0] == 200


def test_two_daemons_do_not_share_a_socket(server, tmp_path):
    other = serving.Daemon(tmp_path, **null_conf(socket=server.daemon.socket))
    other.write_conf()
    done = subprocess.run([serving.BUILD / "siroccod", "-c", other.conf_path],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "another server listens" in done.stderr
    assert server.request("GET", "/health")[0] == 200


def test_parallel_requests_get_their_own_answers(server):
    """Each of many at once gets the tokens of its own seed."""
    def ask(seed):
        reply = server.openai().chat.completions.create(
            model="default", messages=MESSAGES, max_tokens=16, seed=seed)
        return reply.choices[0].message.content

    alone = [ask(seed) for seed in range(8)]
    assert len(set(alone)) > 1
    together = [None] * 8

    def work(seed):
        together[seed] = ask(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert together == alone


@pytest.mark.parametrize("chunk", [0, 16, 100])
def test_prefill_chunk(make_server, chunk):
    """A prompt alone takes as many steps as the key says."""
    server = make_server(backend="null:rate=0", tokenizer=TEKKEN,
                         prefill_chunk=chunk)
    before = server.metrics()["sirocco_step_tokens_count"]
    status, body = server.json("POST", "/v1/completions", {
        "prompt": list(range(100, 350)), "max_tokens": 1})
    assert status == 200
    steps = server.metrics()["sirocco_step_tokens_count"] - before
    assert body["usage"]["prompt_tokens"] == 250
    assert steps == (-(-250 // chunk) if chunk else 1)
