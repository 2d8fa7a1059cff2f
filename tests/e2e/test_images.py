"""Images over HTTP: the demo model answers questions about pictures it is
shown, in any place a picture may stand, and bad pictures are refused."""

import base64
import io
import json
import shutil
import struct
import zlib

import pytest

import serving
from raw import RawChat

PIL = pytest.importorskip("PIL")
from PIL import Image, ImageDraw  # noqa: E402

COLOURS = {"red": (214, 40, 40), "green": (36, 160, 60),
           "blue": (36, 80, 214), "yellow": (240, 214, 40)}


def picture(colour, shape="square", kind="PNG", size=(84, 84)):
    """A shape in the middle of a grey ground."""
    im = Image.new("RGB", size, (200, 200, 200))
    pen = ImageDraw.Draw(im)
    x, y = size[0] / 2, size[1] / 2
    r = min(size) / 6 * 0.85
    box = [x - r, y - r, x + r, y + r]
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    else:
        pen.rectangle(box, fill=COLOURS[colour])
    out = io.BytesIO()
    im.save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


def url(data, kind="png"):
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def part(data, kind="png"):
    return {"type": "image_url", "image_url": {"url": url(data, kind)}}


def text(x):
    return {"type": "text", "text": x}


def ask(server, *messages, **more):
    return server.openai().chat.completions.create(
        model="demo", messages=list(messages), temperature=0, max_tokens=24,
        **more)


def answer(server, *messages, **more):
    return ask(server, *messages, **more).choices[0].message.content


def user(*parts):
    return {"role": "user", "content": list(parts)}


WHAT = "What colour is the shape?"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_model_sees_colours(demo, colour, kind):
    data = picture(colour, kind=kind)
    assert answer(demo, user(part(data, kind.lower()), text(WHAT))) == colour


def test_pictures_in_several_messages(demo):
    said = answer(demo, user(part(picture("red")), text(WHAT)),
                  {"role": "assistant", "content": "red"},
                  user(text("What shape is this?")))
    assert said == "square"


def test_several_pictures_in_a_message(demo):
    shown = [part(picture(c)) for c in ("red", "blue")]
    for which, colour in (("first", "red"), ("second", "blue")):
        assert answer(demo, user(*shown, text(
            f"What colour is the shape in the {which} image?"))) == colour


def test_streams_say_the_same(demo):
    message = user(part(picture("green")), text("Describe the image."))
    whole = answer(demo, message)
    chunks = ask(demo, message, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks
                   if c.choices) == whole
    assert "green" in whole


def test_the_cache_tells_pictures_apart(demo):
    """Prompts that differ in the picture alone share no prefix behind it; the
    same picture again is found in the cache."""
    long = "Look at it closely, please. " * 12
    for colour in ("red", "blue", "red", "yellow"):
        said = ask(demo, user(part(picture(colour)), text(long + WHAT)))
        first = said.choices[0].message.content
        again = ask(demo, user(part(picture(colour)), text(long + WHAT)))
        assert again.choices[0].message.content == first
        assert again.usage.prompt_tokens_details.cached_tokens >= 64
    answers = {c: answer(demo, user(part(picture(c)), text(WHAT)))
               for c in COLOURS}
    assert answers == {c: c for c in COLOURS}


def test_prompt_tokens_count_the_picture(demo):
    def count(*parts):
        return ask(demo, user(*parts)).usage.prompt_tokens
    without = count(text(WHAT))
    # 84 x 84 pixels are 3 x 3 cells: 3 rows of 3 and a break or end.
    assert count(part(picture("red")), text(WHAT)) == without + 12
    status, got = demo.json("POST", "/tokenize", {
        "model": "demo", "messages": [user(part(picture("red")),
                                           text(WHAT))]})
    assert status == 200 and got["count"] == without + 12


def test_usage_tells_the_pictures_tokens(demo):
    """Two choices see the same picture, which counts once."""
    small, large = (picture("red", size=(s, s)) for s in (84, 168))

    def details(*parts, **more):
        body = {"messages": [user(*parts)], "max_tokens": 2, **more}
        return demo.json("POST", "/v1/chat/completions", body)[1]["usage"][
            "prompt_tokens_details"]

    assert "multimodal_tokens" not in details(text("What?"))
    one = details(text("What?"), part(small))["multimodal_tokens"]
    # Rows of a token a tile of 28 pixels, and one that ends each.
    assert one == {"image": 3 * 4}
    both = details(text("What?"), part(small), part(large), n=2)
    assert both["multimodal_tokens"] == {"image": 3 * 4 + 6 * 7}


def test_an_anthropic_client_shows_a_picture(demo):
    status, got = demo.json("POST", "/v1/messages", {
        "model": "demo", "max_tokens": 24, "temperature": 0, "messages": [
            {"role": "user", "content": [
                {"type": "image", "source": {
                    "type": "base64", "media_type": "image/png",
                    "data": base64.b64encode(picture("blue")).decode()}},
                text(WHAT)]}]})
    assert status == 200, got
    assert got["content"][0]["text"] == "blue"


def test_pictures_side_by_side_with_text(demo):
    """Requests with and without pictures in one batch keep their answers."""
    import concurrent.futures
    jobs = [(c, user(part(picture(c)), text(WHAT))) for c in COLOURS] * 3
    alone = answer(demo, user(text("What is 2 + 3?")))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda j: answer(demo, j[1]), jobs))
        plain = pool.submit(answer, demo, user(text("What is 2 + 3?")))
        assert plain.result() == alone
    assert said == [c for c, _ in jobs]


# --- what is refused ------------------------------------------------------------

def bomb():
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(
        ">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


REFUSED = {
    "broken": (url(picture("red")[:90]), "PNG"),
    "no image": (url(b"hello"), "not an image"),
    "bomb": (url(bomb()), "at most"),
    "base64": ("data:image/png;base64,@@@@", "base64"),
    "no payload": ("data:image/png,xyz", "base64"),
    "file": ("file:///etc/passwd", "http"),
    "fetched": ("http://127.0.0.1:9/x.png", "fetches no images"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_bad_pictures_are_refused(demo, name):
    link, words = REFUSED[name]
    status, got = demo.json("POST", "/v1/chat/completions", {
        "model": "demo", "messages": [user(
            {"type": "image_url", "image_url": {"url": link}}, text(WHAT))]})
    assert status == 400, got
    assert words in got["error"]["message"]
    assert got["error"]["param"] == "messages.0.content.0.image_url"


def test_the_guard_stands_before_the_own_network(make_server):
    server = make_server(model=serving.DEMO, served_name="demo",
                         image_hosts="localhost, .example", max_images=2,
                         max_context=2048)
    try:
        for link, words in (
                (f"http://localhost:{server.nginx.port}/metrics", "public"),
                ("http://169.254.169.254/latest/meta-data/", "may not"),
                ("http://other.test/x.png", "may not")):
            status, got = server.json("POST", "/v1/chat/completions", {
                "model": "demo", "messages": [user(
                    {"type": "image_url", "image_url": link}, text(WHAT))]})
            assert status == 400 and words in got["error"]["message"], got
        status, got = server.json("POST", "/v1/chat/completions", {
            "model": "demo", "messages": [user(
                *[part(picture("red"))] * 3, text(WHAT))]})
        assert status == 400 and "2 images" in got["error"]["message"], got
        status, got = server.json("POST", "/v1/chat/completions", {
            "model": "demo", "messages": [user(
                part(picture("red", size=(1540, 1540))), text(WHAT))]})
        assert status == 400 and "context" in got["error"]["message"], got
    finally:
        assert json.loads(server.request("GET", "/v1/models")[2])["data"]


def without_vision(directory):
    """The demo model without its tower."""
    shutil.copytree(serving.DEMO, directory)
    params = json.loads((directory / "params.json").read_text())
    del params["vision_encoder"]
    (directory / "params.json").write_text(json.dumps(params))
    path = directory / "consolidated.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    head, tensors = {}, b""
    for name, t in json.loads(data[8:8 + size]).items():
        if "vision" in name or "patch_merger" in name or "pre_mm" in name \
                or name == "__metadata__":
            continue
        begin, end = (8 + size + x for x in t["data_offsets"])
        t["data_offsets"] = [len(tensors), len(tensors) + end - begin]
        tensors += data[begin:end]
        head[name] = t
    head = json.dumps(head).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + tensors)
    return directory


def test_text_needs_no_vision(make_server, tmp_path):
    """AC-30b, AC-47: a model without a tower serves text and says what it
    cannot take."""
    server = make_server(model=without_vision(tmp_path / "model"),
                         served_name="demo")
    assert answer(server, user(text("Hello")))
    status, got = server.json("POST", "/v1/chat/completions", {
        "messages": [user(part(picture("red")), text(WHAT))]})
    assert status == 400 and "image" in got["error"]["message"]


def test_the_memory_of_all_pictures_is_bounded(make_server):
    """While one request has most of it, another with pictures is put off, one
    without is served; when it is over, so are pictures."""
    server = make_server(model=serving.DEMO, served_name="demo",
                         max_context=30000, image_memory="1M")
    large = part(picture("red", size=(308, 280)))  # 1.03 MB of floats
    body = {"model": "demo", "max_tokens": 2, "messages": [
        user(part(picture("blue")), text(WHAT))]}
    try:
        running = RawChat(server, model="demo", max_tokens=28000,
                          ignore_eos=True, messages=[user(large, text(WHAT))])
        running.read_events(2)
        status, headers, data = server.request("POST", "/v1/chat/completions",
                                               body)
        assert status == 503 and headers["Retry-After"]
        assert "images" in json.loads(data)["error"]["message"]
        plain = {**body, "messages": [user(text("What is 2 + 3?"))]}
        assert server.json("POST", "/v1/chat/completions", plain)[0] == 200
        running.close()
        serving.wait_for("room for pictures", lambda: server.json(
            "POST", "/v1/chat/completions", body)[0] == 200)
    finally:
        server.stop()
