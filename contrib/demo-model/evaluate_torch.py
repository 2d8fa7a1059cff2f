"""Evaluates a checkpoint with the PyTorch module, without a server.

    python3 evaluate_torch.py model model-nvfp4 model-fp8
"""

import argparse
import sys
import time

import torch

import cases
import chatfmt
import checkpoint
import decode


def run_all(todo, answer_many, show=0):
    """Runs many cases round by round; returns a list of booleans.  Prints
    up to `show` of those that end wrong."""
    result = [None] * len(todo)
    waiting = []
    for n, case in enumerate(todo):
        waiting.append((n, case, next(case)))
    while waiting:
        replies = answer_many([chat for _, _, chat in waiting])
        rest = []
        for (n, case, chat), reply in zip(waiting, replies):
            try:
                rest.append((n, case, case.send(reply)))
            except StopIteration as end:
                result[n] = bool(end.value)
                if not end.value and show:
                    show -= 1
                    print("  wrong:", str(chat["messages"][-1]["content"])
                          [-200:], "->", reply)
        waiting = rest
    return result


def answerer(decoder, size, limit):
    """answer_many() over a Decoder, `size` prompts at a time, each answered
    with up to `limit` tokens."""
    encoder = decoder.encoder

    def answer_many(chats):
        replies = [None] * len(chats)
        prompts = []
        for n, chat in enumerate(chats):
            ids, _, used = encoder.chat(chat)
            prompts.append((n, ids, [chat["scenes"][i] for i in used]))
        prompts.sort(key=lambda p: len(p[1]))
        while prompts:
            take = size if len(prompts[0][1]) < 4096 else max(1, size // 16)
            part, prompts = prompts[:take], prompts[take:]
            out = decoder.generate([(ids, s) for _, ids, s in part], limit)
            for (n, _, _), new in zip(part, out):
                replies[n] = decode.parse(encoder, new)
        return replies
    return answer_many


def options():
    parser = argparse.ArgumentParser(description="evaluate checkpoints")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--only", action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--times", type=int, default=1,
                        help="multiply the number of cases")
    parser.add_argument("--show", type=int, default=0,
                        help="print so many wrong answers of each task")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    return parser.parse_args()


def evaluate(directory, opt):
    """{task: (right, cases)} of one checkpoint."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    encoder = chatfmt.Encoder(directory + "/tekken.json")
    decoder = decode.Decoder(checkpoint.load(directory), encoder, device,
                             dtype)
    out = {}
    for task, (full, quick, _) in cases.BARS.items():
        count = (quick if opt.quick else full) * opt.times
        if not count or (opt.only and task not in opt.only):
            continue
        todo = cases.cases(task, opt.seed, count,
                           lambda t: len(encoder.text(t)))
        right = run_all(todo, answerer(decoder, opt.batch, opt.max_tokens),
                        opt.show)
        out[task] = (sum(right), len(right))
    return out


def main():
    opt = options()
    begin = time.time()
    low = 0
    results = {d: evaluate(d, opt) for d in opt.models}
    sums = {d: [0, 0] for d in opt.models}
    print("%-12s" % "task" + "".join("%16s" % d[-15:] for d in opt.models))
    for task in results[opt.models[0]]:
        line = "%-12s" % task
        for d in opt.models:
            right, n = results[d][task]
            share = 100.0 * right / n
            low += share < cases.BARS[task][2]
            if task in cases.TOGETHER:
                sums[d][0] += right
                sums[d][1] += n
            line += "%9.1f %% %4d" % (share, n)
        print(line)
    line = "%-12s" % "instructions"
    for right, n in sums.values():
        share = 100.0 * right / max(n, 1)
        low += n > 0 and share < cases.TOGETHER_BAR
        line += "%9.1f %% %4d" % (share, n)
    print(line)
    print("%.0f seconds, %d below the bar" % (time.time() - begin, low))
    sys.exit(1 if low else 0)


if __name__ == "__main__":
    main()
