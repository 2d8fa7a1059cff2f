"""Tokenizer files for tests: any version, byte-level or with real merges."""

import base64
import json
import pathlib

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}"
    r"\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}"
    r"\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMES = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
    "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
]
LATER = {32: "[ARGS]", 33: "[CALL_ID]", 34: "[THINK]", 35: "[/THINK]",
         36: "[MODEL_SETTINGS]", 37: "[/MODEL_SETTINGS]"}
VERSIONS = ["v3", "v7", "v11", "v13", "v15"]
EFFORT = {"type": "enum", "accepts_none": True, "default": "none",
          "values": ["none", "high"]}


def special_tokens():
    names = {**dict(enumerate(NAMES)), **LATER}
    return [{"rank": i, "token_str": names.get(i, f"<SPECIAL_{i}>"),
             "is_control": True} for i in range(38)]


def control_ids():
    return {t["token_str"]: t["rank"] for t in special_tokens()}


def byte_vocabulary():
    return [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(),
             "token_str": None} for i in range(256)]


def real_vocabulary():
    """The 240911 vocabulary that the mistral-common package carries."""
    import mistral_common
    data = pathlib.Path(mistral_common.__file__).parent / "data"
    return json.loads((data / "tekken_240911.json").read_text())["vocab"]


def write(path, version, vocabulary, limit=None, image=(14, 1540, 2)):
    """A file of a version; limit cuts the vocabulary after the bytes."""
    vocabulary = vocabulary[:limit]
    body = {
        "config": {"pattern": PATTERN, "num_vocab_tokens": 150000,
                   "default_vocab_size": 1000 + len(vocabulary),
                   "default_num_special_tokens": 1000, "version": version},
        "vocab": vocabulary,
        "special_tokens": special_tokens(),
        "version": 1, "type": "Tekken",
    }
    if version in ("v3", "v7"):
        del body["special_tokens"]
    if image:
        body["image"] = {"image_patch_size": image[0],
                         "max_image_size": image[1],
                         "spatial_merge_size": image[2]}
    if version == "v15":
        body["model_settings_builder"] = {"reasoning_effort": EFFORT}
    path.write_text(json.dumps(body))
    return path
