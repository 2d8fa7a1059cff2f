"""Streams that end early, stall, or are many. The null back end gives tokens
at a set rate; everything else is the real path."""

import asyncio
import json
import random
import statistics
import time

import pytest

import serving
from raw import RawChat

TEKKEN = serving.DEMO / "tekken.json"
ABORTED = 'sirocco_requests_total{reason="abort"}'


def null_server(make_server, spec, **options):
    return make_server(backend=f"null:{spec}", tokenizer=TEKKEN,
                       served_name="default", **options)


def idle(server):
    m = server.metrics()
    return m["sirocco_requests_running"] == 0 and \
        m["sirocco_requests_waiting"] == 0


def test_a_client_that_leaves_is_cancelled_within_100_ms(make_server):
    server = null_server(make_server, "rate=50", max_running=4)
    took = []
    for n in range(1, 8):
        chat = RawChat(server, max_tokens=5000)
        chat.read_events(5)
        assert server.metrics()["sirocco_requests_running"] == 1
        chat.close()
        start = time.monotonic()
        serving.wait_for("the request is cancelled",
                         lambda: server.metrics()[ABORTED] == n, 5)
        took.append(time.monotonic() - start)
        serving.wait_for("nothing runs", lambda: idle(server), 5)
    # Half of the time at least, on a machine that does other things too.
    assert statistics.median(took) < 0.1, took


def test_the_openai_client_can_leave_too(make_server):
    server = null_server(make_server, "rate=50")
    stream = server.openai().chat.completions.create(
        model="default", stream=True, max_tokens=5000,
        messages=[{"role": "user", "content": "Go on."}])
    for _, chunk in zip(range(5), stream):
        assert chunk.object == "chat.completion.chunk"
    stream.close()
    serving.wait_for("the request is cancelled",
                     lambda: server.metrics()[ABORTED] == 1, 5)


def test_leaving_without_a_stream_and_from_the_queue(make_server):
    server = null_server(make_server, "rate=50", max_running=1)
    running = RawChat(server, max_tokens=5000, stream=False)
    serving.wait_for(
        "one runs",
        lambda: server.metrics()["sirocco_requests_running"] == 1, 5)
    waiting = RawChat(server, max_tokens=5000, stream=False)
    serving.wait_for(
        "one waits",
        lambda: server.metrics()["sirocco_requests_waiting"] == 1, 5)
    waiting.close()
    serving.wait_for("it left the queue",
                     lambda: server.metrics()[ABORTED] == 1, 5)
    assert server.metrics()["sirocco_requests_running"] == 1
    running.close()
    serving.wait_for("nothing runs", lambda: idle(server), 5)
    assert server.metrics()[ABORTED] == 2


def test_a_client_that_does_not_read_costs_little_and_stalls_nobody(
        make_server):
    # A pace that the reply thread keeps: what piles up is the client's.
    server = null_server(make_server, "rate=20000", stream_buffer="256K",
                         max_running=8,
                         replace=[("rate=20r/s", "rate=100000r/s"),
                                  ("burst=40", "burst=100000")])
    RawChat(server, max_tokens=200).read_all()
    before = server.daemon.rss()
    stalled = RawChat(server, receive_buffer=4096, max_tokens=200000)
    most = before
    gaps = []
    for _ in range(4000):
        start = time.monotonic()
        chat = RawChat(server, max_tokens=20)
        assert b"[DONE]" in chat.read_all()
        gaps.append(time.monotonic() - start)
        most = max(most, server.daemon.rss())
        if server.metrics()[ABORTED] == 1:
            break
    # nginx and the kernel take some megabytes, then the daemon gives it up.
    assert server.metrics()[ABORTED] == 1
    assert most - before < 4 << 20, (before, most)
    assert max(gaps) < 10, max(gaps)
    serving.wait_for("nothing runs", lambda: idle(server), 5)
    stalled.close()


def test_pings_keep_a_silent_stream_open(make_server):
    server = null_server(make_server, "rate=1", ping="200ms")
    chat = RawChat(server, max_tokens=3)
    data = chat.read_all()
    assert data.count(b": ping") >= 3
    assert b"[DONE]" in data


async def one_of_many(server, request, n):
    """Reads one stream; seconds from its first to its last token event."""
    reader, writer = await asyncio.open_connection("127.0.0.1",
                                                   server.nginx.port)
    writer.write(request)
    seen, tail, first, data = 0, b"", None, b""
    while data := await reader.read(1 << 16):
        seen += (tail + data).count(b'"delta":{"content":') \
            - tail.count(b'"delta":{"content":')
        tail = data[-64:]
        if first is None and seen:
            first = time.monotonic()
        if b"[DONE]" in data or b"[DONE]" in tail:
            break
    writer.close()
    assert first is not None
    return seen, time.monotonic() - first


@pytest.mark.parametrize("n, rate, tokens", [(1000, 4, 12)])
def test_a_thousand_streams(make_server, n, rate, tokens):
    server = null_server(
        make_server, f"rate={rate}", max_running=n, backlog=4096,
        replace=[("rate=20r/s", "rate=100000r/s"),
                 ("burst=40", "burst=100000"),
                 ("limit_conn sirocco_conn 128",
                  "limit_conn sirocco_conn 60000")])
    body = json.dumps({
        "model": "default", "stream": True, "max_tokens": tokens,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Go on."}]}).encode()
    request = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
               f"Authorization: Bearer {serving.KEY}\r\n"
               f"Connection: close\r\nContent-Type: application/json\r\n"
               f"Content-Length: {len(body)}\r\n\r\n"
               ).encode() + body

    async def all_of_them():
        tasks = [asyncio.create_task(one_of_many(server, request, i))
                 for i in range(n)]
        most = 0
        while not all(t.done() for t in tasks):
            await asyncio.sleep(0.5)
            most = max(most, server.daemon.rss())
        return [t.result() for t in tasks], most

    results, rss = asyncio.run(all_of_them())
    # Some chunks may carry no text of their own (a held byte), most do.
    assert min(seen for seen, _ in results) >= tokens - 2
    want = (tokens - 1) / rate
    slow = sorted(took for _, took in results)
    # A stream that starves would take many times as long.
    assert slow[-1] < want * 4 + 10, slow[-1]
    assert rss < 64 << 20, rss
    serving.wait_for("nothing runs", lambda: idle(server), 10)
    m = server.metrics()
    assert m['sirocco_requests_total{reason="length"}'] == n + 1  # the probe
    assert m["sirocco_generation_tokens_total"] == n * tokens + 1  # the probe


def test_clients_that_leave_at_any_moment(make_server):
    """Hundreds of requests of all kinds, each dropped at a random time or
    read to its end; afterwards nothing is left of them."""
    server = null_server(
        make_server, "rate=100", max_running=16, max_queue=64,
        replace=[("rate=20r/s", "rate=100000r/s"),
                 ("burst=40", "burst=100000"),
                 ("limit_conn sirocco_conn 128",
                  "limit_conn sirocco_conn 60000")])
    dice = random.Random(7)

    def request():
        body = json.dumps({
            "model": "default", "stream": dice.random() < 0.7,
            "max_tokens": dice.choice([1, 5, 40]), "n": dice.choice([1, 1, 3]),
            "messages": [{"role": "user", "content": "x" * dice.choice(
                [5, 500, 20000])}]}).encode()
        if dice.random() < 0.1:
            body = body[:len(body) // 2]
        return (f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {serving.KEY}\r\nConnection: close\r\n"
                f"Content-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode() + body

    async def client(data, start, patience):
        await asyncio.sleep(start)
        reader, writer = await asyncio.open_connection("127.0.0.1",
                                                       server.nginx.port)
        writer.write(data)
        try:
            answer = await asyncio.wait_for(reader.read(), patience)
            return int(answer.split(b" ", 2)[1])
        except asyncio.TimeoutError:
            return 0
        finally:
            writer.transport.abort()

    async def everybody():
        return await asyncio.gather(*(
            client(request(), dice.random() * 4,
                   dice.choice([0.002, 0.05, 0.3, 30])) for _ in range(600)))

    statuses = asyncio.run(everybody())
    assert set(statuses) <= {0, 200, 400, 429, 503}, set(statuses)
    assert statuses.count(0) > 100 and statuses.count(200) > 100
    serving.wait_for("nothing runs", lambda: idle(server), 10)
    serving.wait_for(
        "no connection is left",
        lambda: server.metrics()["sirocco_open_streams"] == 0, 10)
    chat = RawChat(server, max_tokens=3)
    assert b"[DONE]" in chat.read_all()
    assert server.stop() == 0
