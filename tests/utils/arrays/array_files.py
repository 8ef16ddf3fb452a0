"""Files of more than 8 bits, made by hand or by Pillow: what the project's own writers do not write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from utils.arrays import tiff

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
"""Every level once."""


def ramp(channels):
    """Every level in every channel, [256, 256, C]."""
    return np.stack([np.roll(RAMP, 9000 * i) for i in range(channels)], axis=2)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels, *chunks):
    """A PNG file of 16 bits without a filter, with other chunks before its pixels."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in body)


def by_pillow(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()


def tiled(pixels, side, order="<", apart=False, big=False):
    """A TIFF file of tiles, in either order of bytes, its channels together or apart, small or big."""
    height, width, channels = pixels.shape
    planes = [pixels[..., i : i + 1] for i in range(channels)] if apart else [pixels]
    offsets, counts, data = [], [], bytearray(16)
    for plane in planes:
        for top in range(0, height, side):
            for left in range(0, width, side):
                tile = np.zeros((side, side, plane.shape[2]), plane.dtype)
                part = plane[top : top + side, left : left + side]
                tile[: part.shape[0], : part.shape[1]] = part
                offsets.append(len(data))
                data += tile.astype(tile.dtype.newbyteorder(order)).tobytes()
                counts.append(len(data) - offsets[-1])
    bits, kind = [8 * pixels.dtype.itemsize] * channels, [3 if pixels.dtype.kind == "f" else 1] * channels
    tags = {
        256: [width],
        257: [height],
        258: bits,
        259: [1],
        262: [2 if channels == 3 else 1],
        277: [channels],
    }
    tags |= {284: [2 if apart else 1], 322: [side], 323: [side], 324: offsets, 325: counts, 339: kind}
    start, wide = len(data), struct.calcsize("Q" if big else "I")
    out, behind = struct.pack(order + ("Q" if big else "H"), len(tags)), b""
    at = start + len(out) + len(tags) * (4 + 2 * wide) + wide
    for tag, values in tags.items():
        body = struct.pack(f"{order}{len(values)}I", *values)
        out += struct.pack(order + "HH" + ("Q" if big else "I"), tag, 4, len(values))
        if len(body) > wide:
            out += struct.pack(order + ("Q" if big else "I"), at + len(behind))
            behind += body
        else:
            out += body.ljust(wide, b"\0")
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, start) if big else struct.pack(order + "HI", 42, start)
    data[: len(mark + head)] = mark + head
    return bytes(data) + out + bytes(wide) + behind


def read_tiff(data):
    file = io.BytesIO(data)
    return tiff.read(file, tiff.read_head(file))


def grey16(pixels):
    return Image.fromarray(pixels[..., 0])
