"""The demo model's files, and the parts of its maker that need no torch."""

import base64
import io
import json
import os
import pathlib
import struct
import subprocess
import sys

import pytest

common = pytest.importorskip("mistral_common.tokens.tokenizers.mistral")
request = pytest.importorskip("mistral_common.protocol.instruct.request")

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
ROOM = TOP / "contrib/demo-model"
sys.path.insert(0, str(ROOM))
sys.dont_write_bytecode = True

import chatfmt          # noqa: E402
import generate         # noqa: E402
import lexicon          # noqa: E402
import tasks_image      # noqa: E402
import tasks_math       # noqa: E402
import tasks_tools      # noqa: E402

WIDTH = {"BF16": 2, "F32": 4, "U8": 1, "F8_E4M3": 1}
MODELS = ["model", "model-nvfp4", "model-fp8"]
ALL = MODELS + ["eagle"]


def header(name):
    """(header, size of the data) of a checkpoint's safetensors file."""
    path = ROOM / name / "consolidated.safetensors"
    with open(path, "rb") as f:
        length, = struct.unpack("<Q", f.read(8))
        entries = json.loads(f.read(length))
    entries.pop("__metadata__", None)
    return entries, path.stat().st_size - 8 - length


def params(name):
    return json.loads((ROOM / name / "params.json").read_text())


@pytest.fixture(scope="module")
def encoder():
    return chatfmt.Encoder(ROOM / "model/tekken.json")


@pytest.fixture(scope="module")
def reference():
    return common.MistralTokenizer.from_file(str(ROOM / "model/tekken.json"))


def test_same_seed_same_chats():
    """Two processes make the same chats, whatever their hash seed."""
    out = [subprocess.run(
        [sys.executable, ROOM / "generate.py", "--seed", "3", "--count",
         "40"], check=True, capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": str(n)}).stdout
        for n in (1, 2)]
    assert out[0] == out[1]
    assert len(out[0].splitlines()) == 40


def test_halves_do_not_mix():
    for held_out in (False, True):
        src = lexicon.make_source(5, held_out)
        for draw in (src.word, src.splice, src.letters, src.syllables,
                     lambda: src.digits(5)):
            assert all(lexicon.is_held_out(draw()) == held_out
                       for _ in range(50))


@pytest.mark.parametrize("held_out", [False, True])
def test_encoding_is_the_reference(encoder, reference, held_out):
    """AC-30c: The generator's fast encoder against mistral-common."""
    def url(scene):
        buffer = io.BytesIO()
        tasks_image.draw(scene).save(buffer, "PNG")
        return ("data:image/png;base64,"
                + base64.b64encode(buffer.getvalue()).decode())
    src = lexicon.make_source(11, held_out)
    kinds = set()
    for n in range(150):
        chat = (generate.image_chat(src, whole=False) if n % 5 == 0
                else generate.short_chat(src))
        kinds.add(generate.group(chat))
        chat["messages"].pop()
        got = reference.encode_chat_completion(
            request.ChatCompletionRequest.from_openai(
                messages=chatfmt.openai_messages(chat, url),
                tools=chat["tools"] or None,
                reasoning_effort=chat["effort"]))
        assert encoder.chat(chat)[0] == got.tokens
    assert kinds == {0, 1, 2}


def test_loss_covers_what_the_model_writes(encoder):
    src = lexicon.make_source(12)
    for _ in range(100):
        chat = generate.tool_chat(src)
        ids, mask, _ = encoder.chat(chat)
        ends = [i for i, t in enumerate(ids) if t == encoder.id["eos"]]
        trained = [m.get("train", True) for m in chat["messages"]
                   if m["role"] == "assistant"]
        assert [mask[i] == 1 for i in ends] == trained
        prompt = {encoder.id[k] for k in ("inst", "inst_end", "tools",
                                          "settings", "result", "system")}
        assert not any(m and t in prompt for t, m in zip(ids, mask))


def test_thoughts_reach_the_result():
    """Each worked sum ends in what Python computes."""
    for a in list(range(0, 300, 7)) + [999, 1000, 9999]:
        for b in (0, 1, 9, 10, 99, 295, 9999):
            assert tasks_math.think_add(a, b).endswith(" %d." % (a + b))
            if a >= b:
                assert tasks_math.think_sub(a, b).endswith(" %d." % (a - b))
            if 1 < b < 10:
                assert tasks_math.think_mul(a, b).endswith(" %d." % (a * b))


def test_arguments_fit_the_schemas():
    schema = pytest.importorskip("jsonschema")
    src = lexicon.make_source(13)
    for _ in range(300):
        needed, _, step = tasks_tools.exchange(src)
        tools = {t["function"]["name"]: t["function"]["parameters"]
                 for t in needed}
        for name, args in step.calls:
            schema.Draft7Validator.check_schema(tools[name])
            schema.validate(args, tools[name])


def test_vocabulary_can_be_learned_again(tmp_path):
    """The trainer gives one file for one seed; what it learns today is most
    of the shipped vocabulary (tools and tasks came after that was fixed)."""
    pytest.importorskip("regex")
    out = [tmp_path / name for name in ("a.json", "b.json")]
    for n, path in enumerate(out):
        subprocess.run([sys.executable, ROOM / "tokenizer.py", "--out", path],
                       check=True, capture_output=True,
                       env={**os.environ, "PYTHONHASHSEED": str(n)})
    assert out[0].read_bytes() == out[1].read_bytes()
    tokens = [{v["token_bytes"] for v in json.loads(p.read_text())["vocab"]}
              for p in (out[0], ROOM / "model/tekken.json")]
    assert len(tokens[0] & tokens[1]) > 0.8 * len(tokens[1])


def test_same_tokenizer_everywhere(reference):
    for name in MODELS:
        assert (ROOM / name / "tekken.json").read_bytes() == \
            (ROOM / "model/tekken.json").read_bytes()
    tekken = reference.instruct_tokenizer.tokenizer
    assert tekken.version.value == "v15"
    assert tekken.n_words == params("model")["vocab_size"]


def test_round_trip_of_any_text(encoder, reference):
    src = lexicon.make_source(14)
    tekken = reference.instruct_tokenizer.tokenizer
    for _ in range(200):
        text = src.odd_text()
        ids = encoder.text(text)
        assert ids == tekken.encode(text, bos=False, eos=False)
        assert encoder.decode(ids) == text


def matrices(p):
    """{native name: shape} of the text model's attention and experts."""
    dim, heads = p["dim"], p["n_heads"]
    kv, rope = p["kv_lora_rank"], p["qk_rope_head_dim"]
    attention = {"wq_a": [p["q_lora_rank"], dim],
                 "wq_b": [heads * p["head_dim"], p["q_lora_rank"]],
                 "wkv_a_with_mqa": [kv + rope, dim],
                 "wkv_b": [heads * (p["qk_nope_head_dim"]
                                    + p["v_head_dim"]), kv],
                 "wo": [dim, heads * p["v_head_dim"]]}
    out = {}
    for layer in range(p["n_layers"]):
        for name, shape in attention.items():
            out["layers.%d.attention.%s" % (layer, name)] = shape
    return out


def expert_matrices(p):
    dim, width = p["dim"], p["moe"]["expert_hidden_dim"]
    stems = ["layers.%d.%s" % (layer, part) for layer in range(p["n_layers"])
             for part in ["experts.%d" % e
                          for e in range(p["moe"]["num_experts"])]
             + ["shared_experts"]]
    return {"%s.%s" % (stem, w): [dim, width] if w == "w2" else [width, dim]
            for stem in stems for w in ("w1", "w2", "w3")}


@pytest.mark.parametrize("name", ALL)
def test_safetensors_has_no_gap(name):
    entries, size = header(name)
    end = 0
    for tensor in sorted(entries.values(), key=lambda t: t["data_offsets"]):
        begin, stop = tensor["data_offsets"]
        count = 1
        for n in tensor["shape"]:
            count *= n
        assert begin == end and stop - begin == count * WIDTH[tensor["dtype"]]
        end = stop
    assert end == size
    assert size < 12 * 2 ** 20


def test_bf16_shapes():
    p, (entries, _) = params("model"), header("model")
    for stem, shape in {**matrices(p), **expert_matrices(p)}.items():
        assert entries[stem + ".weight"]["shape"] == shape
        assert entries[stem + ".weight"]["dtype"] == "BF16"
    for stem in ("tok_embeddings", "output"):
        assert entries[stem + ".weight"]["shape"] == [p["vocab_size"],
                                                      p["dim"]]
    assert {t["dtype"] for t in entries.values()} == {"BF16"}


def test_nvfp4_shapes():
    p, (entries, _) = params("model-nvfp4"), header("model-nvfp4")
    assert p["quantization_config"]["format"] == "nvfp4-pack-quantized"
    for stem, (rows, cols) in expert_matrices(p).items():
        shared = "shared" in stem
        assert stem + ".weight" not in entries
        for last, dtype, shape in (
                ("weight_packed", "U8", [rows, cols // 2]),
                ("weight_scale", "F8_E4M3", [rows, cols // 16]),
                ("weight_global_scale", "F32", [1]),
                ("input_global_scale", "BF16" if shared else "F32", [1])):
            tensor = entries["%s.%s" % (stem, last)]
            assert (tensor["dtype"], tensor["shape"]) == (dtype, shape)
    for stem in matrices(p):
        assert entries[stem + ".weight"]["dtype"] == "BF16"


def test_fp8_shapes():
    p, (entries, _) = params("model-fp8"), header("model-fp8")
    assert p["quantization"] == {"qformat_weight": "fp8_e4m3",
                                 "qscheme_act": "TENSOR"}
    for stem, shape in {**matrices(p), **expert_matrices(p)}.items():
        assert entries[stem + ".weight"]["dtype"] == "F8_E4M3"
        assert entries[stem + ".weight"]["shape"] == shape
        for scale in ("qscale_weight", "qscale_act"):
            assert entries["%s.%s" % (stem, scale)]["shape"] == []


def test_eagle_shapes():
    p, (entries, _) = params("eagle"), header("eagle")
    assert "moe" not in p and p["n_layers"] == 2
    dense = {"layers.%d.feed_forward.%s" % (i, w):
             [p["dim"], p["hidden_dim"]] if w == "w2"
             else [p["hidden_dim"], p["dim"]]
             for i in range(2) for w in ("w1", "w2", "w3")}
    fused = {"eagle_linear": [p["dim"], 2 * p["dim"]]}
    for stem, shape in {**matrices(p), **dense, **fused}.items():
        assert entries[stem + ".weight"]["dtype"] == "F8_E4M3"
        assert entries[stem + ".weight"]["shape"] == shape
    assert not any("embeddings" in n or n.startswith("output")
                   for n in entries)


def test_params_agree():
    """The versions differ in their quantisation only."""
    plain = params("model")
    for name, key in (("model-nvfp4", "quantization_config"),
                      ("model-fp8", "quantization")):
        other = params(name)
        assert other.pop(key) and other == plain
    assert plain["yarn"]["apply_scale"] is False
    assert all(plain[k] % 64 == 0 for k in
               ("dim", "q_lora_rank", "kv_lora_rank", "v_head_dim"))
