"""What goes wrong, as the classes of exceptions that clients know, and what
their retries and timeouts make of it."""

import asyncio
import os
import threading

import anthropic
import openai
import pytest
from mistralai.client import Mistral, utils
from mistralai.client.errors import SDKError

import serving
from raw import RawChat
from scripted import NO_RATE_LIMIT, TEKKEN, user

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

MESSAGES = user("Go on.")


def null(rate, **conf):
    return {"backend": f"null:{rate}", "tokenizer": TEKKEN,
            "served_name": "default", "replace": [NO_RATE_LIMIT], **conf}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One request at a time, none waits, twenty tokens a second."""
    server = serving.Server(tmp_path_factory.mktemp("errors"),
                            **null("rate=20", max_running=1, max_queue=0,
                                   max_body="64K", max_context=2048))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def busy(server):
    chat = RawChat(server, max_tokens=1500)
    chat.read_events(2)
    yield
    chat.close()
    serving.wait_for("nothing runs", lambda: server.metrics()[
        "sirocco_requests_running"] == 0, 5)


def by_openai(server, model="default", key=serving.KEY, timeout=20, retries=0,
              stream=False, messages=MESSAGES, **fields):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=key,
                           timeout=timeout, max_retries=retries)
    done = client.chat.completions.create(
        model=model, messages=messages, stream=stream,
        **{"max_tokens": 2, **fields})
    return list(done) if stream else done


def by_responses(server, model="default", key=serving.KEY, timeout=20,
                 retries=0, stream=False, messages=MESSAGES, max_tokens=2,
                 **fields):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=key,
                           timeout=timeout, max_retries=retries)
    done = client.responses.create(
        model=model, input=messages, stream=stream,
        max_output_tokens=max_tokens, **fields)
    return list(done) if stream else done


def by_anthropic(server, model="default", key=serving.KEY, timeout=20,
                 retries=0, stream=False, messages=MESSAGES, max_tokens=2,
                 **fields):
    client = anthropic.Anthropic(base_url=server.url, api_key=key,
                                 timeout=timeout, max_retries=retries)
    done = client.messages.create(
        model=model, messages=messages, stream=stream, max_tokens=max_tokens,
        extra_body=fields)
    return list(done) if stream else done


def by_mistral(server, model="default", key=serving.KEY, timeout=20, retries=0,
               stream=False, messages=MESSAGES, **fields):
    config = utils.RetryConfig(
        "backoff", utils.BackoffStrategy(100, 1000, 1.5, 10000),
        True) if retries else None
    client = Mistral(api_key=key, server_url=server.url,
                     timeout_ms=int(timeout * 1000), retry_config=config)
    ask = client.chat.stream if stream else client.chat.complete
    done = ask(model=model, messages=messages,
               **{"max_tokens": 2, **fields})
    return list(done) if stream else done


def by_litellm(server, model="default", key=serving.KEY, timeout=20, retries=0,
               stream=False, messages=MESSAGES, **fields):
    done = litellm.completion(
        model="openai/" + model, api_base=server.url + "/v1", api_key=key,
        timeout=timeout, num_retries=retries, messages=messages,
        stream=stream, **{"max_tokens": 2, **fields})
    return list(done) if stream else done


CLIENTS = {"openai": (by_openai, openai), "responses": (by_responses, openai),
           "anthropic": (by_anthropic, anthropic),
           "litellm": (by_litellm, litellm)}
every = pytest.mark.parametrize("name", CLIENTS)


@every
def test_classes(server, name):
    ask, library = CLIENTS[name]
    assert ask(server)
    for fields, error, said in (
            ({"model": "none"}, library.NotFoundError, "none"),
            ({"key": "sk-wrong"}, library.AuthenticationError, "key"),
            ({"temperature": 7}, library.BadRequestError, "temperature"),
            ({"max_tokens": 3000}, library.BadRequestError,
             "maximum context length"),
            ({"messages": user("x" * 9000)}, library.BadRequestError,
             "maximum context length")):
        for stream in (False, True):
            with pytest.raises(error, match=said):
                ask(server, stream=stream, **fields)


@pytest.mark.parametrize("fields", [
    {"max_tokens": 3000}, {"messages": user("x" * 9000)}])
def test_litellm_knows_a_context_that_is_too_long(server, fields):
    """By the words of the message; agents shorten their history then."""
    with pytest.raises(litellm.ContextWindowExceededError):
        by_litellm(server, **fields)


def test_mistrals_class(server):
    assert by_mistral(server)
    for fields, status, said in (
            ({"model": "none"}, 404, "none"), ({"key": "sk-wrong"}, 401, "key"),
            ({"temperature": 7}, 400, "temperature"),
            ({"max_tokens": 3000}, 400, "maximum context length")):
        for stream in (False, True):
            with pytest.raises(SDKError, match=said) as e:
                by_mistral(server, stream=stream, **fields)
            assert e.value.status_code == status


@every
def test_a_body_that_is_too_long(server, name):
    ask, library = CLIENTS[name]
    with pytest.raises(library.APIError if name == "litellm"
                       else library.APIStatusError) as e:
        ask(server, messages=user("x" * 100000))
    assert e.value.status_code == 413


@every
def test_a_full_queue(server, busy, name):
    ask, library = CLIENTS[name]
    for stream in (False, True):
        with pytest.raises(library.RateLimitError):
            ask(server, stream=stream)


@every
def test_timeouts(server, name):
    """The client gives up, and the server gives the request up."""
    ask, library = CLIENTS[name]
    with pytest.raises(library.Timeout if name == "litellm"
                       else library.APITimeoutError):
        ask(server, timeout=0.5, max_tokens=500)
    serving.wait_for("nothing runs", lambda: server.metrics()[
        "sirocco_requests_running"] == 0, 5)


def test_mistrals_timeout(server):
    with pytest.raises(Exception, match="timed out"):
        by_mistral(server, timeout=0.5, max_tokens=500)
    serving.wait_for("nothing runs", lambda: server.metrics()[
        "sirocco_requests_running"] == 0, 5)


@pytest.mark.parametrize("name", [*CLIENTS, "mistral"])
def test_retries(make_server, name):
    """What is refused while the daemon is away succeeds when it is back."""
    ask = CLIENTS[name][0] if name in CLIENTS else by_mistral
    # A client waits as long as it is told.
    server = make_server(**null("rate=0", replace=[
        NO_RATE_LIMIT, ("Retry-After 5", "Retry-After 1")]))
    server.daemon.stop()
    back = threading.Timer(0.3, server.daemon.start)
    back.start()
    try:
        assert ask(server, retries=4)
    finally:
        back.join()


@pytest.fixture
def failing(make_server):
    """A device that dies with the first tokens of a request."""
    server = make_server(**null("rate=50,fail=10"))
    yield server
    if server.daemon.process.poll() is None:
        server.daemon.process.kill()
    server.daemon.process.wait()
    server.daemon.process = None


@pytest.mark.parametrize("stream", [False, True])
@every
def test_a_device_that_dies(failing, name, stream):
    """No client takes the beginning for the whole."""
    ask, library = CLIENTS[name]
    if name == "responses" and stream:
        last = ask(failing, stream=stream, max_tokens=500)[-1]
        assert last.type == "response.failed"
        assert "failed at step" in last.response.error.message
        return
    with pytest.raises((library.APIError, openai.APIError),
                       match="failed at step"):
        ask(failing, stream=stream, max_tokens=500)


def test_many_at_once(make_server):
    """Asynchronous clients, one connection pool each."""
    server = make_server(**null("rate=100"))

    async def run():
        one = openai.AsyncOpenAI(base_url=server.url + "/v1",
                                 api_key=serving.KEY, max_retries=0)
        two = anthropic.AsyncAnthropic(base_url=server.url,
                                       api_key=serving.KEY, max_retries=0)

        async def first(n):
            stream = await one.chat.completions.create(
                model="default", messages=MESSAGES, max_tokens=n, stream=True,
                stream_options={"include_usage": True})
            return [c async for c in stream][-1].usage.completion_tokens

        async def second(n):
            async with two.messages.stream(
                    model="default", messages=MESSAGES, max_tokens=n) as s:
                return (await s.get_final_message()).usage.output_tokens

        counts = await asyncio.gather(
            *(ask(n) for n in range(1, 21) for ask in (first, second)))
        await one.close()
        await two.close()
        return counts

    assert asyncio.run(run()) == [n for n in range(1, 21) for _ in "ab"]
