"""Images as mistral-common prepares them: grids, pixels, and what is refused.

Pixels are compared after normalisation, where one step of an 8-bit channel is
0.0145. Lossless files must agree to 1e-4. Lossy ones are decoded by another
build of the same libraries: at most one pixel in a thousand may be off by more
than three steps.
"""

import io
import json
import random
import struct
import subprocess
import sys
import types
import zlib

import pytest

import ctl
import pictures

pytest.importorskip("cv2")
import numpy as np
from mistral_common.tokens.tokenizers.image import (
    ImageConfig, ImageEncoder, SpecialImageIDs, transform_image)
from PIL import Image

PROBE = ctl.BUILD / "tests/golden/image_probe"
STEP = 1 / 255 / 0.27
ABSENT = "this build cannot read"


def probe(lines, spec=(14, 2, 1540), pixels=1 << 26):
    done = subprocess.run([PROBE, *map(str, spec), str(pixels)], text=True,
                          input="".join(f"{x}\n" for x in lines),
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(x) for x in done.stdout.splitlines()]


def encoder(patch, merge, side):
    return ImageEncoder(ImageConfig(patch, side, merge),
                        SpecialImageIDs(10, 12, 13))


@pytest.mark.parametrize("spec", [(14, 2, 1540), (16, 1, 1024), (14, 2, 280)])
def test_grids_of_many_sizes(spec):
    """AC-49"""
    rng = random.Random(1)
    sizes = [(1, 1), (28, 28), (29, 28), (1540, 1540), (1541, 100),
             (20000, 1), (1, 60000), (5000, 100), (3081, 1), (1540 * 4, 2)]
    while len(sizes) < 300:
        scale = rng.choice([40, 400, 1600, 8000])
        sizes.append((rng.randint(1, scale), rng.randint(1, scale)))
    reference = encoder(*spec)
    for (w, h), got in zip(sizes, probe([f"{w} {h}" for w, h in sizes], spec)):
        fake = types.SimpleNamespace(size=(w, h))
        assert (got["cols"], got["rows"]) == \
            reference._image_to_num_tokens(fake), (w, h)


def test_a_side_without_pixels_has_no_grid():
    assert [x["rc"] < 0 for x in probe(["0 5", "5 0", "-1 4"])] == [True] * 3


# --- pixels -------------------------------------------------------------------

def noise(width, height, channels=3, seed=0):
    """Smooth colours with edges and noise on top."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin((x + 3 * c) / 17.0 + y / (23.0 + c))
              for c in range(channels)]
    a = np.stack(planes, -1) + rng.normal(0, 12, (height, width, channels))
    a[height // 3:height // 2, width // 4:width // 2] = 255
    return np.clip(a, 0, 255).astype(np.uint8)


def rgb(width=100, height=70, seed=0):
    return Image.fromarray(noise(width, height, seed=seed))


def rgba(width=90, height=60):
    return Image.fromarray(noise(width, height, 4))


def palette(transparent=None):
    im = rgb(64, 50).quantize(40)
    if transparent is not None:
        im.info["transparency"] = transparent
    return im


def saved(im, kind, **options):
    out = io.BytesIO()
    im.save(out, kind, **options)
    return out.getvalue()


def grey_alpha():
    return rgba().convert("LA")


LOSSLESS = {
    "rgb": lambda: saved(rgb(), "PNG"),
    "rgb_up": lambda: saved(rgb(20, 15), "PNG"),
    "rgb_down": lambda: saved(rgb(1700, 333), "PNG"),
    "rgb_one": lambda: saved(rgb(1, 1), "PNG"),
    "rgb_thin": lambda: saved(rgb(3000, 2), "PNG"),
    "rgb_exact": lambda: saved(rgb(56, 84), "PNG"),
    "rgba": lambda: saved(rgba(), "PNG"),
    "grey": lambda: saved(rgb().convert("L"), "PNG"),
    "grey_alpha": lambda: saved(grey_alpha(), "PNG"),
    "bits": lambda: saved(rgb().convert("1"), "PNG"),
    "palette": lambda: saved(palette(), "PNG"),
    "palette_2": lambda: saved(rgb().quantize(3), "PNG", bits=2),
    "palette_transparent": lambda: saved(palette(5), "PNG", transparency=5),
    "grey_transparent": lambda: saved(rgb().convert("L"), "PNG",
                                      transparency=255),
    "rgb_transparent": lambda: saved(rgb(), "PNG",
                                     transparency=(255, 255, 255)),
    "gif": lambda: saved(palette(), "GIF"),
    "gif_flat": lambda: saved(palette(), "GIF", interlace=0),
    "gif_large": lambda: saved(rgb(700, 500).quantize(256), "GIF"),
    "gif_transparent": lambda: saved(palette(), "GIF", transparency=3),
    "gif_grey": lambda: saved(rgb().convert("L"), "GIF"),
    "gif_animated": lambda: saved(
        palette(), "GIF", save_all=True, duration=50,
        append_images=[rgb(64, 50, seed=5).quantize(30)]),
    "webp_lossless": lambda: saved(rgb(), "WEBP", lossless=True),
    "webp_lossless_alpha": lambda: saved(rgba(), "WEBP", lossless=True,
                                         exact=True),
    "apng": lambda: saved(rgb(40, 40), "PNG", save_all=True,
                          append_images=[rgb(40, 40, seed=2)]),
}

LOSSY = {
    "jpeg": lambda: saved(rgb(300, 200), "JPEG", quality=85),
    "jpeg_444": lambda: saved(rgb(99, 55), "JPEG", subsampling=0),
    "jpeg_progressive": lambda: saved(rgb(301, 207), "JPEG",
                                      progressive=True),
    "jpeg_grey": lambda: saved(rgb().convert("L"), "JPEG"),
    "jpeg_cmyk": lambda: saved(rgb().convert("CMYK"), "JPEG"),
    "jpeg_large": lambda: saved(rgb(2000, 1500), "JPEG"),
    "webp": lambda: saved(rgb(300, 200), "WEBP", quality=80),
    "webp_alpha": lambda: saved(rgba(200, 100), "WEBP", quality=80),
}


def compare(tmp_path, makers):
    reference = encoder(14, 2, 1540)
    paths, want = [], []
    for name, make in makers.items():
        data = make()
        path = tmp_path / name
        path.write_bytes(data)
        paths.append(path)
        im = Image.open(io.BytesIO(data))
        w, h = reference._image_to_num_tokens(im)
        want.append(transform_image(im, (w * 28, h * 28)))
    for path, w, got in zip(paths, want, probe(paths)):
        if ABSENT in got.get("error", ""):
            continue
        assert got["rc"] == 0, (path.name, got)
        assert (got["height"], got["width"]) == w.shape[1:], path.name
        pixels = np.fromfile(f"{path}.f32", np.float32).reshape(w.shape)
        yield path.name, np.abs(pixels - w)


def test_pixels_of_lossless_files(tmp_path):
    worst = {n: float(d.max()) for n, d in compare(tmp_path, LOSSLESS)}
    assert max(worst.values()) < 1e-4, worst


def test_pixels_of_lossy_files(tmp_path):
    off = {n: float((d > 3 * STEP).mean()) for n, d in compare(tmp_path,
                                                              LOSSY)}
    assert max(off.values(), default=0) < 1e-3, off


def png16(colour, channels, interlace=0):
    """16-bit or interlaced files, which Pillow cannot write."""
    a = noise(40, 30, channels).astype(np.uint16) * 257
    raw = b"".join(b"\0" + r.astype(">u2").tobytes() for r in a)
    head = struct.pack(">IIBBBBB", 40, 30, 16, colour, 0, 0, interlace)
    return (b"\x89PNG\r\n\x1a\n" + pictures.chunk(b"IHDR", head)
            + pictures.chunk(b"IDAT", zlib.compress(raw))
            + pictures.chunk(b"IEND", b""))


def adam7():
    a = noise(37, 29)
    raw = b""
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8),
                           (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
                           (0, 1, 1, 2)):
        raw += b"".join(b"\0" + r.tobytes() for r in a[y0::dy, x0::dx])
    head = struct.pack(">IIBBBBB", 37, 29, 8, 2, 0, 0, 1)
    return (b"\x89PNG\r\n\x1a\n" + pictures.chunk(b"IHDR", head)
            + pictures.chunk(b"IDAT", zlib.compress(raw))
            + pictures.chunk(b"IEND", b""))


def test_rare_png_files(tmp_path):
    makers = {"rgb16": lambda: png16(2, 3), "rgba16": lambda: png16(6, 4),
              "adam7": adam7}
    worst = {n: float(d.max()) for n, d in compare(tmp_path, makers)}
    assert max(worst.values(), default=0) < 1e-4, worst


# --- what is refused -------------------------------------------------------------

def gif_frame_off_canvas():
    data = bytearray(saved(palette(), "GIF"))
    at = data.index(b"\x2c", 13 + 3 * 64)
    data[at + 5:at + 7] = b"\xff\x7f"
    return bytes(data)


def empty_png(width, height):
    return (b"\x89PNG\r\n\x1a\n" + pictures.chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + pictures.chunk(b"IDAT", zlib.compress(b"\0" * 50)))


def patched_jpeg(width, height):
    data = bytearray(saved(rgb(64, 64), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


REFUSED = {
    "empty": (lambda: b"", "not an image"),
    "text": (lambda: b"hello, this is text", "not an image"),
    "bmp": (lambda: saved(rgb(), "BMP"), "not an image"),
    "tiff": (lambda: saved(rgb(), "TIFF"), "not an image"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "not an image"),
    "png_cut": (lambda: saved(rgb(), "PNG")[:3000], "PNG"),
    "png_crc": (lambda: saved(rgb(), "PNG")[:60] + b"x"
                + saved(rgb(), "PNG")[61:], "PNG"),
    "png_magic": (lambda: b"\x89PNG\r\n\x1a\n", "PNG"),
    "png_bomb": (lambda: empty_png(60000, 60000), "at most"),
    "png_wide": (lambda: empty_png(2**31 - 1, 2**31 - 1), "PNG"),
    "jpeg_cut": (lambda: saved(rgb(300, 200), "JPEG")[:4000], "cut short"),
    "jpeg_magic": (lambda: b"\xff\xd8\xff\xd9", "JPEG"),
    "jpeg_bomb": (lambda: patched_jpeg(65500, 65500), "at most"),
    "gif_cut": (lambda: saved(palette(), "GIF")[:900], "GIF"),
    "gif_head": (lambda: b"GIF89a", "cut short"),
    "gif_empty": (lambda: b"GIF89a\x05\0\x05\0\0\0\0;", "no picture"),
    "gif_bomb": (lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,", "at most"),
    "gif_off": (gif_frame_off_canvas, "canvas"),
    "webp_cut": (lambda: saved(rgb(), "WEBP")[:400], "WebP"),
    "webp_animated": (lambda: saved(rgb(), "WEBP", save_all=True,
                                    append_images=[rgb(seed=3)]), "animated"),
    "webp_magic": (lambda: b"RIFF\0\0\0\0WEBP", "WebP"),
}


def test_broken_huge_and_foreign_files(tmp_path):
    paths = []
    for name, (make, _) in REFUSED.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(make())
    for path, got in zip(paths, probe(paths)):
        assert got["rc"] < 0, path.name
        assert REFUSED[path.name][1] in got["error"] \
            or ABSENT in got["error"], (path.name, got)


def test_memory_stays_bounded(tmp_path):
    """A file of few bytes that claims many pixels allocates nothing."""
    paths = []
    for name in ("png_bomb", "jpeg_bomb", "gif_bomb"):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(REFUSED[name][0]())
    code = ("import resource, subprocess, sys; resource.setrlimit("
            "resource.RLIMIT_AS, (1 << 28, 1 << 28)); subprocess.run("
            "sys.argv[1:], check=True)")
    done = subprocess.run([sys.executable, "-c", code, PROBE, "14", "2",
                           "1540", str(1 << 26)], text=True,
                          input="".join(f"{p}\n" for p in paths),
                          capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all("at most" in x or ABSENT in x
               for x in done.stdout.splitlines())
