"""Files of more than 8 bits: what comes out is what was put in, to the bit, also by other programs."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png

from tests.utils.arrays import array_files
from tests.utils.arrays.array_files import by_pillow, grey16, ramp, read_tiff, tiled
from utils.arrays import RefusedError, fits, npy, png16, tiff

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_png(data):
    return png16.read(lambda: Image.open(io.BytesIO(data)), png16.kind(data[:32]))[0]


@pytest.mark.parametrize("channels", MODES)
def test_a_png_of_16_bits_keeps_every_level(channels):
    pixels = ramp(channels)
    data = png16.encode(pixels, b"profile" * 9, {"parameters": "grün"})
    assert png16.kind(data[:32]) == MODES[channels]
    assert np.array_equal(read_png(data), pixels)
    assert np.array_equal(read_png(array_files.png(pixels)), pixels)
    by_libpng = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    assert np.array_equal(by_libpng.permute(1, 2, 0).numpy(), pixels)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.text["parameters"], image.info["icc_profile"]) == ("grün", b"profile" * 9)
    assert data == png16.encode(pixels, b"profile" * 9, {"parameters": "grün"})


def test_the_filters_of_a_png_change_with_what_is_smaller():
    """Rows that repeat are told by Up, those that go on by Sub; of a large picture band by band."""
    pixels = np.zeros((700, 900, 3), np.uint16)
    pixels[:350] = (np.arange(900) * 70)[None, :, None]
    pixels[350:] = (np.arange(350) * 180)[:, None, None]
    data = png16.encode(pixels, None, {})
    assert np.array_equal(read_png(data), pixels)
    assert len(data) < pixels.nbytes / 100


@pytest.mark.parametrize(("channels", "colour"), [(1, (515,)), (3, (1, 2, 515))])
def test_the_transparent_colour_of_a_png_is_of_16_bits(channels, colour):
    pixels = np.full((2, 2, channels), 516, np.uint16)
    pixels[0, 1] = colour
    found = read_png(array_files.png(pixels, (b"tRNS", struct.pack(f">{channels}H", *colour))))
    assert found.shape == (2, 2, channels + 1)
    assert found[..., -1].tolist() == [[65535, 0], [65535, 65535]]


def test_other_png_files_are_left_to_pillow():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3)).save(buffer, "PNG")
    assert png16.kind(buffer.getvalue()[:32]) is None
    assert png16.kind(b"\x89PNG") is None


@pytest.mark.parametrize("dtype", ["u2", "f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_keeps_every_number(dtype, channels):
    pixels = ramp(channels) if dtype == "u2" else (ramp(channels) / 7000 - 3).astype(dtype)
    data = tiff.encode(pixels, b"profile", "how", b"<xmp/>", "who")
    head = tiff.read_head(io.BytesIO(data))
    assert (head.size, head.channels, head.dtype, head.profile) == ((256, 256), channels, dtype, b"profile")
    assert (head.tags[270], head.tags[305], bytes(head.tags[700])) == ("how", "who", b"<xmp/>")
    assert np.array_equal(read_tiff(data), pixels)
    if channels == 1 and dtype in ("u2", "f4"):
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(np.asarray(image), pixels[..., 0])


def test_a_tiff_with_opacity_and_one_of_8_bits_are_written_as_pillow_reads_them():
    pixels = ramp(4)
    assert np.array_equal(read_tiff(tiff.encode(pixels, None, "", b"", "")), pixels)
    for channels in MODES:
        small = (ramp(channels) // 257).astype(np.uint8)
        data = tiff.encode(small, None, "", b"", "")
        assert tiff.read_head(io.BytesIO(data)) is None
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == MODES[channels]
            assert np.array_equal(np.asarray(image).reshape(small.shape), small)


@pytest.mark.parametrize(
    "packing", [None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "zstd"]
)
@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_what_pillow_packs_is_unpacked(packing, predictor):
    pixels = ramp(1) if predictor < 3 else ramp(1).astype(np.float32) / 3
    has_predictor = packing not in (None, "packbits")
    options = {"tiffinfo": {317: predictor}} if has_predictor else {}
    assert np.array_equal(read_tiff(by_pillow(grey16(pixels), compression=packing, **options)), pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("apart", "big"), [(False, False), (True, False), (False, True)])
def test_tiles_in_either_order_together_or_apart_are_read(order, apart, big):
    order = "<" if big else order
    for dtype in (np.uint16, np.float32):
        pixels = ramp(3)[:50, :70].astype(dtype)
        assert np.array_equal(read_tiff(tiled(pixels, 32, order, apart, big)), pixels)


def test_white_is_zero_is_turned_round_and_weighed_colours_are_weighed_back():
    data = tiff.encode(ramp(1), None, "", b"", "")
    at = data.rindex(struct.pack("<HHI", 262, 3, 1)) + 8
    assert np.array_equal(read_tiff(data[:at] + b"\0" + data[at + 1 :]), 65535 - ramp(1))
    pixels = np.full((1, 2, 4), 20000, np.uint16)
    pixels[..., 3] = 40000, 0
    data = tiff.encode(pixels, None, "", b"", "")
    at = data.rindex(struct.pack("<HHI", 338, 3, 1)) + 8
    found = read_tiff(data[:at] + b"\1" + data[at + 1 :])
    assert found[0, 0].tolist() == [32768, 32768, 32768, 40000]


def test_tiffs_that_are_not_read_say_why():
    grey = Image.fromarray(ramp(1)[..., 0])
    with pytest.raises(RefusedError, match="several pages; save the one to edit"):
        read_tiff(by_pillow(grey, save_all=True, append_images=[grey]))
    with pytest.raises(RefusedError, match="opacity beside floating-point"):
        read_tiff(tiff.encode(ramp(4).astype(np.float32), None, "", b"", ""))
    with pytest.raises(RefusedError, match=r"packed by method 34925.*read are nothing, deflate, LZW"):
        read_tiff(by_pillow(grey, compression="lzma"))
    data = tiff.encode(ramp(3), None, "", b"", "")
    with pytest.raises(RefusedError, match="truncated: some of its pixels"):
        read_tiff(data[:8] + zlib.compress(bytes(100)) + data[8 + len(zlib.compress(bytes(100))) :])
    assert tiff.read_head(io.BytesIO(by_pillow(Image.new("CMYK", (4, 4))))) is None


def test_a_strip_that_unpacks_to_more_than_its_pixels_is_not_unpacked_further():
    data = tiff.encode(np.zeros((1, 8, 1), np.uint16), None, "", b"", "")
    old, bomb = zlib.compress(bytes(16), 3), zlib.compress(bytes(10**7), 9)
    at = data.rindex(struct.pack("<HHII", 273, 4, 1, 8))
    moved = bytearray(data + bomb)
    moved[at + 8 : at + 12] = struct.pack("<I", len(data))
    count = data.rindex(struct.pack("<HHII", 279, 4, 1, len(old)))
    moved[count + 8 : count + 12] = struct.pack("<I", len(bomb))
    assert np.array_equal(read_tiff(bytes(moved)), np.zeros((1, 8, 1)))


def read_npy(data):
    file = io.BytesIO(data)
    return npy.read(file, npy.read_head(file))


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "i4", "f2", "f4", ">f4", "f8"])
def test_an_array_comes_back_in_the_order_of_the_machine(dtype):
    values = np.arange(24).reshape(4, 6).astype(dtype)
    for array in (values, values.reshape(2, 4, 3), np.asfortranarray(values)):
        found = read_npy(saved(array))
        assert found.dtype == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(found.squeeze(), array)
        assert np.array_equal(np.load(io.BytesIO(npy.encode(found))), array)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(5), r"shape \[5\]; give \[H, W\]"),
        (np.zeros((4, 4, 4)), r"shape \[4, 4, 4\]"),
        (np.zeros((0, 4)), "without a pixel"),
        (np.zeros((4, 4), complex), "type complex128"),
        (np.zeros((4, 4), bool), "type bool"),
        (np.zeros((4, 4), np.int64), "type int64"),
        (np.array([[{}]]), "type object"),
    ],
)
def test_arrays_that_are_no_pictures_say_so(array, reason):
    with pytest.raises(RefusedError, match=reason):
        read_npy(saved(array, allow_pickle=True))


def test_a_truncated_array_and_a_broken_header_say_so():
    with pytest.raises(RefusedError, match="truncated: has 31 of 32 bytes"):
        read_npy(saved(np.zeros((2, 2)))[:-1])
    with pytest.raises(ValueError, match="its header is no header of numpy's"):
        read_npy(saved(np.zeros((2, 2))).replace(b"'descr'", b"'decsr'"))
    with pytest.raises(RefusedError, match=r"version 3.0"):
        read_npy(saved(np.zeros((2, 2))).replace(b"NUMPY\1", b"NUMPY\3"))
    assert npy.read_head(io.BytesIO(b"PK\3\4")) is None


def cards(**said):
    lines = [f"{key:<8}= {value:>20}".ljust(80) for key, value in said.items()]
    text = "".join([*lines, "END".ljust(80)]).encode()
    return text + b" " * (-len(text) % 2880)


def unit(dtype, array, **said):
    sizes = {f"NAXIS{i + 1}": size for i, size in enumerate(array.shape[::-1])}
    bits = 8 * array.dtype.itemsize * (-1 if array.dtype.kind == "f" else 1)
    data = array.astype(dtype).tobytes()
    return cards(SIMPLE="T", BITPIX=bits, NAXIS=array.ndim, **sizes, **said) + data + bytes(-len(data) % 2880)


def read_fits(data):
    file = io.BytesIO(data)
    head = fits.read_head(file)
    return head, fits.read(file, head)


def test_fits_comes_back_from_the_top_with_its_header():
    values = np.linspace(-1, 17, 12, dtype=np.float32).reshape(3, 4)
    data = unit(">f4", values, CRVAL1=1.5, OBJECT="'M31'")
    head, found = read_fits(data)
    assert (head.size, head.channels, head.dtype) == ((4, 3), 1, np.float32)
    assert np.array_equal(found[::-1, :, 0], values)
    assert fits.encode(found, head.cards) == data.replace(b"OBJECT", b"OBJECT")
    colours = np.arange(24, dtype=np.float64).reshape(3, 2, 4)
    head, found = read_fits(unit(">f8", colours))
    assert head.dtype == np.float64
    assert np.array_equal(found[::-1].transpose(2, 0, 1), colours)
    assert read_fits(fits.encode(found))[1].tolist() == found.tolist()


def test_fits_of_whole_numbers_is_what_they_stand_for():
    raw = np.array([[-32768, 0, 32767]], np.int16)
    assert read_fits(unit(">i2", raw, BZERO=32768))[1].ravel().tolist() == [0, 32768, 65535]
    assert read_fits(unit(">i2", raw, BSCALE=0.5))[1].ravel().tolist() == [-16384, 0, 16383.5]
    large = np.array([[2**24 + 1]], np.int32)
    assert read_fits(unit(">i4", large))[1].item() == 2**24 + 1
    words = np.array([[0, 1, 40000, 65535]], np.uint16)[..., None]
    assert np.array_equal(read_fits(fits.encode(words))[1], words)


def test_the_first_picture_of_a_fits_file_is_taken():
    table = cards(XTENSION="'BINTABLE'", BITPIX=8, NAXIS=2, NAXIS1=3, NAXIS2=1, PCOUNT=2900, GCOUNT=1)
    data = cards(SIMPLE="T", BITPIX=8, NAXIS=0) + table + bytes(5760)
    picture = unit(">f4", np.ones((2, 2), np.float32)).replace(b"SIMPLE  =", b"XTENSION=", 1)
    assert read_fits(data + picture)[1].shape == (2, 2, 1)
    with pytest.raises(ValueError, match="header has no end"):
        read_fits(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (unit("u1", np.zeros((2, 2, 2, 2), np.uint8)), r"shape \[2, 2, 2, 2\]"),
        (unit("u1", np.zeros(5, np.uint8)), r"shape \[5\]"),
        (cards(SIMPLE="T", BITPIX=9, NAXIS=0), "its FITS header"),
        (cards(SIMPLE="T", BITPIX=8, NAXIS=-1), "its FITS header"),
        (cards(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=10**9), "its FITS header"),
        (unit("u1", np.zeros((2, 2), np.uint8), BZERO="nan"), "its FITS header"),
        (cards(SIMPLE="T", BITPIX=8, NAXIS=2, NAXIS1=9, NAXIS2=9, ZIMAGE="T"), "packed; unpack it first"),
        (unit("u1", np.zeros((99, 99), np.uint8))[:3000], "truncated: has 120 of 9801"),
    ],
)
def test_fits_files_that_are_not_read_say_why(data, reason):
    with pytest.raises(ValueError, match=reason):
        read_fits(data)
