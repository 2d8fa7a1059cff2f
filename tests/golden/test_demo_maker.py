"""What makes the demo model: its tools, its facts, its training streams, the
number formats of the files it wrote; and the whole of it with a tiny model,
where there is a Python with torch."""

import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tiktoken")
pytest.importorskip("PIL")

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
ROOM = TOP / "contrib/demo-model"
sys.path.insert(0, str(ROOM))
sys.dont_write_bytecode = True

import batches          # noqa: E402
import chatfmt          # noqa: E402
import lexicon          # noqa: E402
import tasks_text       # noqa: E402
import tasks_tools      # noqa: E402
import tool_catalogue   # noqa: E402

TEKKEN = str(ROOM / "model/tekken.json")


def test_a_tool_comes_in_many_guises():
    """No kind of tool insists on a name, a parameter or a description."""
    src = lexicon.make_source(21)
    kind = tool_catalogue.KINDS[0]
    drawn = [tool_catalogue.draw(src, kind) for _ in range(300)]
    functions = [t.definition["function"] for t in drawn]
    assert {f["name"] for f in functions} == set(kind.names)
    assert "" in {f["description"] for f in functions}
    sets = {tuple(sorted(t.slots)) for t in drawn}
    assert sets == {("city",), ("city", "unit")}
    assert len({t.slots["city"] for t in drawn}) > 4
    plain = [f for f in functions if f["name"] == "get_weather"
             and list(f["parameters"]["properties"]) == ["city"]]
    assert len(plain) > 10


def test_a_wish_is_for_what_the_definition_has():
    src = lexicon.make_source(22)
    for kind in tool_catalogue.KINDS:
        for _ in range(40):
            tool = tool_catalogue.draw(src, kind)
            schema = tool.definition["function"]["parameters"]
            user, args, _, answer = tool_catalogue.ask(src, tool)
            assert user and answer and "%" not in user
            assert set(schema.get("required", [])) <= set(args)
            assert set(args) <= set(schema.get("properties", {}))
            for value in args.values():
                if isinstance(value, (str, int)) and value not in (True,
                                                                   False):
                    assert str(value) in user


def test_names_belong_to_one_purpose():
    names = [n for k in tool_catalogue.KINDS for n in set(k.names)]
    assert len(names) == len(set(names))
    assert set(tool_catalogue.GROUPS) <= {k.purpose
                                          for k in tool_catalogue.KINDS}


def test_a_missing_tool_is_missing():
    src = lexicon.make_source(23)
    named = 0
    for _ in range(300):
        _, forbidden, step = tasks_tools.exchange(src, "none")
        tools = tasks_tools.tool_list(src, [], forbidden, 4)
        assert not step.calls and step.answer == tasks_tools.NO_TOOL
        purposes = [tool_catalogue.purpose(t) for t in tools]
        assert len(set(purposes)) == 4
        assert tool_catalogue.purpose(forbidden[0]) not in purposes
        named += forbidden[0]["function"]["name"] in step.user
    assert named > 60           # in plain words and by name


def test_a_fact_is_given_or_said_to_be_unknown():
    src = lexicon.make_source(24)
    missing = 0
    for _ in range(500):
        turns = tasks_text.facts(src, 2)
        for turn in turns:
            ends = " is not known to me."
            given = [f for f in turns[0].facts
                     if f.replace("My ", "Your ") == turn.answer]
            if turn.task == "unknown-fact":
                missing += 1
                assert turn.answer.endswith(ends) and not given
                start = turn.answer[:-len(ends)].replace("Your ", "My ")
                assert not any(f.startswith(start + " is ")
                               for f in turns[0].facts)
            else:
                assert len(given) == 1
    assert 200 < missing < 400


@pytest.mark.parametrize("step", [0, 4])
def test_a_stream_is_whole_chats(step):
    """Step 4 is one of the long texts."""
    encoder = chatfmt.Encoder(TEKKEN)
    maker = batches.Maker(TEKKEN, 3, 16384, 2048, 2)
    assert batches.is_long(4, 2) and not batches.is_long(0, 2)
    out = maker.stream(step)
    again = batches.Maker(TEKKEN, 3, 16384, 2048, 2).stream(step)
    assert all((out[k] == again[k]).all() for k in out)
    bos, eos = encoder.id["bos"], encoder.id["eos"]
    starts = np.flatnonzero(out["tokens"] == bos)
    assert len(starts) >= (10 if step == 0 else 1)
    assert set(starts) <= set(out["cu"]) and (out["pos"][starts] == 0).all()
    # A token's target is the next one, and only inside its chat.
    at = np.flatnonzero(out["target"] >= 0)
    assert len(at) and (out["target"][at] == out["tokens"][at + 1]).all()
    assert not (out["tokens"][at] == eos).any()
    assert (out["target"][at] == eos).sum() >= len(starts)
    # Every [IMG] token has a vector, in order.
    images = np.flatnonzero(out["tokens"] == encoder.id["img"])
    assert (out["image_at"][:len(images)] == images).all()
    assert (len(images) > 0) == (step == 0)


def tensors(name):
    """{name: (dtype, array of the stored numbers)} of a checkpoint."""
    data = (ROOM / name / "consolidated.safetensors").read_bytes()
    length, = struct.unpack("<Q", data[:8])
    kinds = {"BF16": "<u2", "F32": "<f4", "U8": "u1", "F8_E4M3": "u1"}
    out = {}
    for key, t in json.loads(data[8:8 + length]).items():
        if key == "__metadata__":
            continue
        begin, end = t["data_offsets"]
        array = np.frombuffer(data[8 + length + begin:8 + length + end],
                              kinds[t["dtype"]]).reshape(t["shape"])
        out[key] = numbers(t["dtype"], array)
    return out


def numbers(dtype, array):
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        code = np.arange(256)
        exponent, mantissa = code >> 3 & 15, code & 7
        value = np.where(exponent, (8 + mantissa) * 2.0 ** (exponent - 10.0),
                         mantissa * 2.0 ** -9)
        return np.where(code < 128, value, -value)[array]
    return array


def test_fp8_holds_the_weights():
    plain, packed = tensors("model"), tensors("model-fp8")
    scaled = [n for n in packed if n.endswith("qscale_weight")]
    assert len(scaled) > 100
    for name in scaled:
        stem = name[:-len("qscale_weight")]
        want = plain[stem + "weight"]
        got = packed[stem + "weight"] * packed[name]
        # Half a step of three mantissa bits, or of the smallest numbers.
        bound = np.maximum(np.abs(want) / 16, 2.0 ** -10 * packed[name])
        assert (np.abs(got - want) <= bound * 1.01).all(), name


def test_nvfp4_holds_the_weights():
    plain, packed = tensors("model"), tensors("model-nvfp4")
    level = np.array([0, .5, 1, 1.5, 2, 3, 4, 6])
    level = np.concatenate((level, -level))
    stems = [n[:-len("weight_packed")] for n in packed
             if n.endswith("weight_packed")]
    assert len(stems) == 3 * 9 * 5
    for stem in stems:
        want = plain[stem + "weight"]
        code = packed[stem + "weight_packed"]
        code = np.stack((code & 15, code >> 4), -1).reshape(want.shape)
        scale = packed[stem + "weight_scale"] / packed[
            stem + "weight_global_scale"]
        blocks = level[code].reshape(len(want), -1, 16)
        got = (blocks * scale[..., None]).reshape(want.shape)
        # The widest gap is 2 steps, and a scale is rounded by 1/16.
        most = np.abs(want.reshape(blocks.shape)).max(-1) / 6
        bound = 1.2 * np.maximum(most, scale)[..., None]
        far = np.abs(got - want).reshape(blocks.shape)
        assert (far <= bound).all(), stem
        assert np.sqrt((far ** 2).mean() / (want ** 2).mean()) < 0.12, stem


def torch_python():
    """A Python that has torch: SIROCCO_TORCH_PYTHON, or the present one."""
    program = os.environ.get("SIROCCO_TORCH_PYTHON", sys.executable)
    found = subprocess.run([program, "-c", "import torch, safetensors, regex"],
                           capture_output=True)
    return program if found.returncode == 0 else None


def test_smoke():
    """Every stage from the generator to the draft head."""
    program = torch_python()
    if program is None:
        pytest.skip("no torch (SIROCCO_TORCH_PYTHON=PYTHON names a Python "
                    "that has it)")
    done = subprocess.run([ROOM / "smoke", program], capture_output=True,
                          text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smoke: passed" in done.stdout
