"""Small arithmetic.

With reasoning the model works digit by digit, from the end, inside its
thinking block; without it answers at once.  The same questions are asked in
both modes, so the gain from thinking is there to be seen.
"""

from lexicon import is_held_out
from tasks_text import Turn

ADD = ["What is %d + %d?", "Compute %d + %d.", "%d + %d =", "Add %d and %d.",
       "How much is %d + %d?", "Calculate %d plus %d."]
SUB = ["What is %d - %d?", "Compute %d - %d.", "%d - %d =",
       "How much is %d - %d?", "Calculate %d minus %d."]
MUL = ["What is %d * %d?", "Compute %d * %d.", "%d * %d =",
       "What is %d times %d?", "Multiply %d by %d."]


def _join(steps, written, result):
    return "%s. The digits from the end are %s. The result is %d." % (
        ". ".join(steps), " ".join(str(d) for d in written), result)


def think_add(a, b):
    steps, written, carry = [], [], 0
    left, right = a, b
    while left or right or not steps:
        x, y = left % 10, right % 10
        total = x + y + carry
        text = "%d + %d" % (x, y) + (" + 1" if carry else "")
        text += " = %d, write %d" % (total, total % 10)
        carry = total // 10
        steps.append(text + (", carry 1" if carry else ""))
        written.append(total % 10)
        left, right = left // 10, right // 10
    if carry:
        steps.append("Write 1")
        written.append(1)
    return _join(steps, written, a + b)


def think_sub(a, b):
    """a >= b."""
    steps, written, borrow = [], [], 0
    left, right = a, b
    while left or right or not steps:
        x, y = left % 10, right % 10
        need = y + borrow
        text = "%d - %d" % (x, y) + (" - 1" if borrow else "")
        if x < need:
            text += ", borrow: 1%d - %d = %d" % (x, need, x + 10 - need)
        else:
            text += " = %d" % (x - need)
        digit = (x - need) % 10
        borrow = 1 if x < need else 0
        steps.append(text + ", write %d" % digit)
        written.append(digit)
        left, right = left // 10, right // 10
    return _join(steps, written, a - b)


def think_mul(a, b):
    """b is one digit."""
    steps, written, carry = [], [], 0
    left = a
    while left or not steps:
        x = left % 10
        total = x * b + carry
        text = "%d * %d" % (x, b)
        if carry:
            text += " = %d, + %d" % (x * b, carry)
        text += " = %d, write %d" % (total, total % 10)
        carry = total // 10
        steps.append(text + (", carry %d" % carry if carry else ""))
        written.append(total % 10)
        left //= 10
    if carry:
        steps.append("Write %d" % carry)
        written.append(carry)
    return _join(steps, written, a * b)


def _operands(src, op):
    r = src.rng
    while True:
        if op == "*":
            a, b = r.randint(2, 10 ** r.randint(1, 3) - 1), r.randint(2, 9)
        else:
            a = r.randint(0, 10 ** r.randint(1, 4) - 1)
            b = r.randint(0, 10 ** r.randint(1, 4) - 1)
        if op == "-" and a < b:
            a, b = b, a
        if is_held_out("%d%s%d" % (a, op, b)) == src.held_out:
            return a, b


def _story(src, op, a, b):
    who, thing = src.name(), src.word()
    if op == "+":
        return ("%s has %d %ss and gets %d more. How many %ss has %s now?"
                % (who, a, thing, b, thing, who))
    return ("%s has %d %ss and gives away %d. How many %ss has %s now?"
            % (who, a, thing, b, thing, who))


def arithmetic(src):
    op = src.rng.choice("++--*")
    a, b = _operands(src, op)
    forms, think, result = {"+": (ADD, think_add, a + b),
                            "-": (SUB, think_sub, a - b),
                            "*": (MUL, think_mul, a * b)}[op]
    if op != "*" and src.rng.random() < 0.15:
        user = _story(src, op, a, b)
    else:
        user = src.rng.choice(forms) % (a, b)
    return Turn("arithmetic", user, str(result), think(a, b))
