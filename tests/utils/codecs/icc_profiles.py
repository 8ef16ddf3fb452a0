"""Small colour profiles, made by hand: of RGB by its primaries, of grey by its curve, of CMYK by a table."""

import struct

ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""Red, green and blue of Adobe RGB (1998), adapted to D50."""


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78), **tags}
    tags[b"wtpt"] = b"XYZ " + bytes(4) + _fixed(0.9642, 1, 0.8249)
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0\0\0\0"
    table, body = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = bytearray(128)
    head[4:24] = b"\0\0\0\0\x02\x40\0\0" + kind + space + pcs
    head[36:40], head[68:80] = b"acsp", _fixed(0.9642, 1, 0.8249)
    head[:4] = struct.pack(">I", start + len(body))
    return bytes(head) + table + body


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def rgb(gamma: float = 2.19921875, primaries=ADOBE) -> bytes:
    tags = {}
    for letter, color in zip(b"rgb", primaries, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*color)
        tags[bytes([letter]) + b"TRC"] = _curve(gamma)
    return _profile(b"RGB ", b"mntr", b"XYZ ", tags)


def grey(gamma: float) -> bytes:
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk() -> bytes:
    """Without hue: cyan leaves 90 % of the lightness, magenta 60, yellow 95, black none."""
    ramp = bytes(range(256))
    nodes = bytearray()
    for i in range(16):
        light = 0.0 if i & 1 else 255.0
        for bit, factor in ((8, 0.9), (4, 0.6), (2, 0.95)):
            light *= factor if i & bit else 1
        nodes += bytes([round(light), 128, 128])
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + bytes(nodes) + ramp * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": table, b"A2B1": table})
