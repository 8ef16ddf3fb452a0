"""Colour profiles of a matrix and curves (ICC.1:2010, F.3), as screens and editors have them, in numbers.

LittleCMS is what brings pictures of 8 bits to sRGB; as Pillow has it, it takes and gives 8 bits of colours.
"""

import functools
import struct
from dataclasses import dataclass

import numpy as np

_PLACES = np.linspace(0, 1, 2**16)
"""Where curves are worked out; between these they are lines."""
_SRGB = np.array(
    [
        [0.43606567, 0.38514709, 0.14306641],
        [0.22248840, 0.71687317, 0.06060791],
        [0.01391602, 0.09707642, 0.71409607],
    ]
)
"""Of linear red, green and blue in XYZ, adapted to D50 (IEC 61966-2-1 as its profile has it)."""
_TABLES = (b"A2B0", b"A2B1")
"""Tags of what is no matrix."""
_MAX_TAGS = 100
_NUM_PARAMETERS = (1, 3, 4, 5, 7)


@dataclass(frozen=True)
class Curves:
    """How values of a profile become linear light in XYZ."""

    curves: tuple[np.ndarray, ...]
    """Of each channel, at _PLACES, float64, rising from 0 to 1."""
    matrix: np.ndarray | None
    """Of red, green and blue; None for grey."""

    def to_srgb(self, colours: np.ndarray) -> np.ndarray:
        """Bring values in [0, 1], [H, W, C], to sRGB; what it has not is cut off."""
        light = _each(colours, [(_PLACES, curve) for curve in self.curves])
        if self.matrix is not None:
            light = light @ np.linalg.solve(_SRGB, self.matrix).T
        light = light.clip(0, 1)
        shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        return shown.astype(np.float32)

    def from_srgb(self, colours: np.ndarray) -> np.ndarray:
        """The way back."""
        shown = colours.astype(np.float64).clip(0, 1)
        light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
        if self.matrix is not None:
            light = light @ np.linalg.solve(self.matrix, _SRGB).T
        return _each(light.clip(0, 1), [(curve, _PLACES) for curve in self.curves]).astype(np.float32)


def _each(values: np.ndarray, lines: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([np.interp(values[..., i], *line) for i, line in enumerate(lines)], axis=-1)


@functools.lru_cache(maxsize=8)
def read_curves(profile: bytes) -> Curves | None:
    """Read a profile; None where it holds something else, or is broken."""
    try:
        tags = _tags(profile)
        if any(name in tags for name in _TABLES):
            return None
        if profile[16:20] == b"GRAY":
            return Curves((_curve(tags[b"kTRC"]),), None)
        curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        matrix = np.array(columns).T / 65536
        return Curves(curves, matrix) if abs(np.linalg.det(matrix)) > 1e-4 else None
    except (KeyError, struct.error, ValueError, ArithmeticError):
        return None


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * i) for i in range(min(count, _MAX_TAGS))]
    return {name: profile[start : start + size] for name, start, size in entries}


def _curve(tag: bytes) -> np.ndarray:
    """Return a curve at _PLACES.

    Raises:
        ValueError: It is none that rises from 0 to 1.
    """
    kind = tag[:4]
    if kind == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        points = np.frombuffer(tag, ">u2", count, 12)
        if count <= 1:
            curve = _PLACES ** (points[0] / 256 if count else 1)
        else:
            curve = np.interp(_PLACES, np.linspace(0, 1, count), points / 65535)
    elif kind == b"para":
        (form,) = struct.unpack_from(">H", tag, 8)
        if form >= len(_NUM_PARAMETERS):
            raise ValueError("no such curve")
        num = _NUM_PARAMETERS[form]
        curve = _parametric(form, [x / 65536 for x in struct.unpack_from(f">{num}i", tag, 12)])
    else:
        raise ValueError("no curve")
    if not np.isfinite(curve).all() or abs(curve[0]) > 1e-3 or abs(curve[-1] - 1) > 1e-3:
        raise ValueError("no curve from 0 to 1")
    return np.maximum.accumulate(curve.clip(0, 1))


def _parametric(form: int, given: list[float]) -> np.ndarray:
    """Work out a parametric curve (ICC.1:2010, table 65)."""
    g, a, b, c, d, e, f = {
        0: lambda g: (g, 1, 0, 0, -1, 0, 0),
        1: lambda g, a, b: (g, a, b, 0, -b / a, 0, 0),
        2: lambda g, a, b, c: (g, a, b, 0, -b / a, c, c),
        3: lambda g, a, b, c, d: (g, a, b, c, d, 0, 0),
        4: lambda *all_of_them: all_of_them,
    }[form](*given)
    with np.errstate(all="ignore"):
        return np.where(d <= _PLACES, (a * _PLACES + b).clip(0) ** g + e, c * _PLACES + f)
