"""Small pictures of coloured shapes, and questions about them.

Pictures are drawn with Pillow.  A picture is described by a Scene; the same
scene always gives the same pixels.  Sides are multiples of 28 pixels for
training; the evaluation also asks for other sizes, which the image
preprocessing then resizes.
"""

from dataclasses import dataclass

from PIL import Image, ImageDraw

from lexicon import is_held_out
from tasks_text import Turn

PALETTE = {"red": (214, 40, 40), "green": (36, 160, 60),
           "blue": (36, 80, 214), "yellow": (240, 214, 40),
           "purple": (140, 50, 170), "orange": (242, 136, 30),
           "white": (250, 250, 250), "black": (16, 16, 16)}
GROUNDS = [(200, 200, 200), (120, 120, 120), (232, 226, 206),
           (190, 220, 230), (70, 78, 88)]
SHAPES = ["circle", "square", "triangle", "cross", "ring", "diamond"]
ROWS = ["top", "middle", "bottom"]
COLUMNS = ["left", "middle", "right"]


@dataclass(frozen=True)
class Mark:
    colour: str
    shape: str
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    width: int
    height: int
    ground: tuple
    marks: tuple
    shade: int           # brightness change of every mark, -12 .. 12
    scale: float         # mark size in cells, 0.6 .. 0.95


def place(mark):
    """The words for a position in the 3 x 3 grid."""
    if mark.row == 1 and mark.column == 1:
        return "in the middle"
    if mark.row == 1:
        return "on the " + COLUMNS[mark.column]
    if mark.column == 1:
        return "at the " + ROWS[mark.row]
    return "at the %s %s" % (ROWS[mark.row], COLUMNS[mark.column])


def _phrase(mark):
    article = "an" if mark.colour == "orange" else "a"
    return "%s %s %s %s" % (article, mark.colour, mark.shape, place(mark))


def _polygon(shape, x, y, r):
    if shape == "square":
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + r), (x - r, y + r)]
    if shape == "diamond":
        return [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
    t = r * 0.36
    return [(x - t, y - r), (x + t, y - r), (x + t, y - t), (x + r, y - t),
            (x + r, y + t), (x + t, y + t), (x + t, y + r), (x - t, y + r),
            (x - t, y + t), (x - r, y + t), (x - r, y - t), (x - t, y - t)]


def draw(scene):
    """The scene as an RGB Pillow image."""
    image = Image.new("RGB", (scene.width, scene.height), scene.ground)
    pen = ImageDraw.Draw(image)
    cell_w, cell_h = scene.width / 3, scene.height / 3
    r = min(cell_w, cell_h) / 2 * scene.scale
    for mark in scene.marks:
        x = (mark.column + 0.5) * cell_w
        y = (mark.row + 0.5) * cell_h
        fill = tuple(max(0, min(255, c + scene.shade))
                     for c in PALETTE[mark.colour])
        if mark.shape == "circle":
            pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif mark.shape == "ring":
            pen.ellipse([x - r, y - r, x + r, y + r], outline=fill,
                        width=max(2, int(r * 0.4)))
        else:
            pen.polygon(_polygon(mark.shape, x, y, r), fill=fill)
    return image


def cell_labels(scene):
    """What each 28 x 28 cell of the picture shows, row by row: (shape + 1 or
    0, colour + 1 or 0, row of the 3 x 3 grid, column of it).  Only training
    uses this, to teach the vision tower directly."""
    rows, cols = -(-scene.height // 28), -(-scene.width // 28)
    marks = {(m.row, m.column): m for m in scene.marks}
    colours = sorted(PALETTE)
    out = []
    for i in range(rows):
        for j in range(cols):
            at = (int((i + 0.5) / rows * 3), int((j + 0.5) / cols * 3))
            mark = marks.get(at)
            out.append((SHAPES.index(mark.shape) + 1 if mark else 0,
                        colours.index(mark.colour) + 1 if mark else 0, *at))
    return out


LABELS = (len(SHAPES) + 1, len(PALETTE) + 1, 3, 3)


def _mark(src, taken):
    while True:
        mark = Mark(src.rng.choice(sorted(PALETTE)), src.rng.choice(SHAPES),
                    src.rng.randrange(3), src.rng.randrange(3))
        words = "%s %s %d %d" % (mark.colour, mark.shape, mark.row,
                                 mark.column)
        if is_held_out(words) != src.held_out:
            continue
        if all(mark.colour != t.colour and mark.shape != t.shape
               and (mark.row, mark.column) != (t.row, t.column)
               for t in taken):
            return mark


def scene(src, marks=1, whole=True):
    """A random scene.  whole: sides are multiples of 28."""
    r = src.rng
    taken = []
    for _ in range(marks):
        taken.append(_mark(src, taken))
    def side():
        cells = r.choice([3, 3, 3, 4, 5, 6, 6])
        return 28 * cells - (0 if whole else r.randint(0, 8))

    width = side()
    height = width if r.random() < 0.6 else side()
    return Scene(width, height, r.choice(GROUNDS), tuple(taken),
                 r.randint(-12, 12), r.uniform(0.65, 0.95))


def _one(src, shown):
    """A question about one mark among those shown in one image."""
    mark = src.rng.choice(shown.marks)
    alone = len(shown.marks) == 1
    kind = src.rng.randrange(5)
    colour = src.rng.choice(["colour", "color"])
    if kind == 0:
        what = "shape" if alone and src.rng.random() < 0.7 else mark.shape
        return "What %s is the %s?" % (colour, what), mark.colour
    if kind == 1:
        if alone:
            return src.rng.choice(["What shape is this?", "What shape is in "
                                   "the image?"]), mark.shape
        return "What shape is %s?" % mark.colour, mark.shape
    if kind == 2:
        what = "shape" if alone and src.rng.random() < 0.5 else mark.shape
        return "Where is the %s?" % what, place(mark)
    text = " and ".join(_phrase(m) for m in sorted(
        shown.marks, key=lambda m: (m.row, m.column)))
    return (src.rng.choice(["Describe the image.", "What do you see?",
                            "What is in the image?"]),
            text[0].upper() + text[1:] + ".")


ORDER = ["first", "second", "third"]


def look(src, whole=True):
    """(scenes, Turns): one to three images, then some questions."""
    r = src.rng
    n = r.choices([1, 2, 3], [6, 3, 1])[0]
    scenes = [scene(src, r.choices([1, 2], [3, 1])[0] if n == 1 else 1, whole)
              for _ in range(n)]
    turns = []
    for _ in range(r.randint(2, 6)):
        if n == 1:
            question, answer = _one(src, scenes[0])
        elif r.random() < 0.4:
            question = r.choice(["Describe the images.",
                                 "What do you see in the images?"])
            answer = " ".join("%s." % (_phrase(s.marks[0])[0].upper()
                                       + _phrase(s.marks[0])[1:])
                              for s in scenes)
        else:
            i = r.randrange(n)
            mark = scenes[i].marks[0]
            question, answer = r.choice([
                ("What colour is the shape in the %s image?", mark.colour),
                ("What shape is in the %s image?", mark.shape),
                ("Where is the shape in the %s image?", place(mark))])
            question %= ORDER[i]
        turns.append(Turn("images", question, answer,
                          "I look at the image."))
    return scenes, turns
