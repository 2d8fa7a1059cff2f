"""The v15 prompt format: a chat becomes token ids and a loss mask.

A chat is a dict with `system` (text or None), `tools` (list of OpenAI tool
definitions), `effort` ("none" or "high") and `messages`.  A message is a dict:

    {"role": "user", "content": text or [("text", t) | ("image", i), ..]}
    {"role": "assistant", "think": text or None, "content": text,
     "calls": [(name, args dict), ..], "train": bool}
    {"role": "tool", "content": text}

and `scenes` lists the images by index.  The encoder writes exactly what the
reference encoder writes (the tests compare them); it exists because it also
marks the tokens that carry loss and because it is fast.
"""

import base64
import json

import tiktoken

NAMES = {"bos": "<s>", "eos": "</s>", "inst": "[INST]", "inst_end": "[/INST]",
         "tools": "[AVAILABLE_TOOLS]", "tools_end": "[/AVAILABLE_TOOLS]",
         "result": "[TOOL_RESULTS]", "result_end": "[/TOOL_RESULTS]",
         "call": "[TOOL_CALLS]", "img": "[IMG]", "img_break": "[IMG_BREAK]",
         "img_end": "[IMG_END]", "system": "[SYSTEM_PROMPT]",
         "system_end": "[/SYSTEM_PROMPT]", "args": "[ARGS]",
         "think": "[THINK]", "think_end": "[/THINK]",
         "settings": "[MODEL_SETTINGS]", "settings_end": "[/MODEL_SETTINGS]"}


class Encoder:
    """Encodes text and chats with one tekken.json."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
        config = data["config"]
        self.n_special = config["default_num_special_tokens"]
        self.vocab_size = config["default_vocab_size"]
        ranks = {base64.b64decode(v["token_bytes"]): v["rank"]
                 for v in data["vocab"][:self.vocab_size - self.n_special]}
        self.bpe = tiktoken.Encoding("demo", pat_str=config["pattern"],
                                     mergeable_ranks=ranks, special_tokens={})
        ids = {t["token_str"]: t["rank"] for t in data["special_tokens"]}
        self.id = {k: ids[v] for k, v in NAMES.items()}
        self.piece = {v: k for k, v in ranks.items()}
        self.special = {t["rank"]: t["token_str"]
                        for t in data["special_tokens"]}
        image = data["image"]
        self.cell = image["image_patch_size"] * image["spatial_merge_size"]

    def text(self, text):
        n = self.n_special
        return [n + t for t in self.bpe.encode_ordinary(text)]

    def decode(self, ids, keep_special=True):
        out, run = [], []
        for i in list(ids) + [-1]:
            if i >= self.n_special:
                run.append(self.piece[int(i) - self.n_special])
                continue
            out.append(b"".join(run).decode("utf-8", "replace"))
            run = []
            if keep_special and i >= 0:
                out.append(self.special.get(int(i), "<%d>" % i))
        return "".join(out)

    def image_grid(self, width, height):
        """(rows, columns) of merged patches; nothing here is over the
        largest size, so no image is ever scaled down."""
        return (height - 1) // self.cell + 1, (width - 1) // self.cell + 1

    def _image(self, scene):
        rows, cols = self.image_grid(scene.width, scene.height)
        line = [self.id["img"]] * cols + [self.id["img_break"]]
        out = line * rows
        out[-1] = self.id["img_end"]
        return out

    def _user(self, content, scenes):
        if isinstance(content, str):
            return self.text(content), []
        parts = content
        if (len(parts) >= 2 and parts[-1][0] == "image"
                and all(p[0] == "text" for p in parts[:-1])):
            parts = [parts[-1]] + list(parts[:-1])
        out, used = [], []
        for kind, value in parts:
            if kind == "text":
                out += self.text(value)
            else:
                out += self._image(scenes[value])
                used.append(value)
        return out, used

    def _assistant(self, message):
        out = []
        if message.get("think") is not None:
            out += ([self.id["think"]] + self.text(message["think"])
                    + [self.id["think_end"]])
        if message.get("content"):
            out += self.text(message["content"])
        for name, args in message.get("calls") or []:
            out += ([self.id["call"]] + self.text(name) + [self.id["args"]]
                    + self.text(json.dumps(args, ensure_ascii=False)))
        return out + [self.id["eos"]]

    def chat(self, chat):
        """(ids, mask, image indices in the order of their tokens).

        mask[i] is 1 when token i was written by the model and is trained.
        """
        i = self.id
        ids, mask, images = [i["bos"]], [0], []

        def put(tokens, loss=0):
            ids.extend(tokens)
            mask.extend([loss] * len(tokens))

        if chat.get("system") is not None:
            put([i["system"]] + self.text(chat["system"])
                + [i["system_end"]])
        first = True
        for message in chat["messages"]:
            role = message["role"]
            if role == "user":
                if first:
                    self._head(chat, put)
                first = False
                tokens, used = self._user(message["content"],
                                          chat.get("scenes"))
                put([i["inst"]] + tokens + [i["inst_end"]])
                images += used
            elif role == "tool":
                put([i["result"]] + self.text(message["content"])
                    + [i["result_end"]])
            else:
                put(self._assistant(message),
                    1 if message.get("train", True) else 0)
        return ids, mask, images

    def _head(self, chat, put):
        if chat.get("tools"):
            put([self.id["tools"]]
                + self.text(json.dumps(chat["tools"], ensure_ascii=False))
                + [self.id["tools_end"]])
        settings = json.dumps({"reasoning_effort": chat["effort"]})
        put([self.id["settings"]] + self.text(settings)
            + [self.id["settings_end"]])


def openai_messages(chat, image_url=None):
    """The chat as OpenAI request messages.  image_url(scene) makes the URL."""
    out, calls = [], 0
    waiting = []
    if chat.get("system") is not None:
        out.append({"role": "system", "content": chat["system"]})
    for message in chat["messages"]:
        role = message["role"]
        if role == "user":
            content = message["content"]
            if not isinstance(content, str):
                content = [
                    {"type": "text", "text": v} if k == "text" else
                    {"type": "image_url",
                     "image_url": {"url": image_url(chat["scenes"][v])}}
                    for k, v in content]
            out.append({"role": "user", "content": content})
        elif role == "tool":
            out.append({"role": "tool", "tool_call_id": waiting.pop(0),
                        "content": message["content"]})
        else:
            item = {"role": "assistant",
                    "content": message.get("content") or None}
            if message.get("think") is not None:
                item["reasoning_content"] = message["think"]
            if message.get("calls"):
                item["tool_calls"] = []
                for name, args in message["calls"]:
                    calls += 1
                    waiting.append("call%05d" % calls)
                    item["tool_calls"].append(
                        {"id": waiting[-1], "type": "function",
                         "function": {"name": name, "arguments":
                                      json.dumps(args, ensure_ascii=False)}})
            out.append(item)
    return out
