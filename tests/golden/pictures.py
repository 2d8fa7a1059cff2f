"""Small picture files as data: URLs, made with nothing but the library."""

import base64
import struct
import zlib


def chunk(kind, data):
    return (struct.pack(">I", len(data)) + kind + data
            + struct.pack(">I", zlib.crc32(kind + data)))


def png(width, height, rows=None):
    """An RGB picture; rows are bytes, grey without them."""
    raw = rows or (b"\0" + b"\x80" * (3 * width)) * height
    return (b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0,
                                         0, 0))
            + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))


def gif(width, height):
    """A grey picture in the one type that every build reads: 7-bit codes, a
    clear code often enough that they stay 8 bits wide."""
    bits, n, data = 0, 0, bytearray()
    codes = []
    for i in range(width * height):
        if i % 100 == 0:
            codes.append(128)
        codes.append(64)
    for code in codes + [129]:
        bits |= code << n
        n += 8
        while n >= 8:
            data.append(bits & 255)
            bits >>= 8
            n -= 8
    blocks = b"".join(bytes([len(data[i:i + 255])]) + bytes(data[i:i + 255])
                      for i in range(0, len(data), 255))
    palette = b"".join(bytes([2 * i] * 3) for i in range(128))
    return (b"GIF89a" + struct.pack("<HHBBB", width, height, 0xf6, 0, 0)
            + palette + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0)
            + b"\x07" + blocks + b"\0;")


def data_url(data, kind="gif"):
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def part(width, height):
    return {"type": "image_url",
            "image_url": {"url": data_url(gif(width, height))}}
