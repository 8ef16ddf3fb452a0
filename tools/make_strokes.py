"""Turn photos into stroke paintings, as guides for SDEdit: a median filter, then few colours."""

import sys
from pathlib import Path

if not __package__:  # python tools/make_strokes.py, in place of python -m tools.make_strokes
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from PIL import Image, ImageFilter

from tools.parser import make_parser
from utils import codecs, images
from utils.files import write_atomically

KERNEL, SIDE, COLORS = 23, 256, 6  # Meng et al. 2022, appendix: 23 pixels at 256x256, 6 colours


def to_strokes(photo: Image.Image, colors: int, kernel: int, side: int) -> Image.Image:
    """Simplify a photo as a person would paint it.

    Args:
        photo: RGB image of any size; a larger one is brought to `side` at its shorter side.
        colors: How many colours are left, 2 to 256.
        kernel: Width of the median filter, in pixels of a picture of `side`; smaller ones take less.
        side: Shorter side of the result at most, in pixels.

    Returns:
        RGB image with the aspect of the photo.
    """
    shorter = min(photo.size)
    if shorter > side:
        size = tuple(max(1, round(length * side / shorter)) for length in photo.size)
        photo = photo.resize(size, Image.Resampling.LANCZOS)
    width = round(kernel * min(photo.size) / side)
    smooth = photo.filter(ImageFilter.MedianFilter(width | 1))  # the filter takes odd widths
    return smooth.quantize(colors, dither=Image.Dither.NONE).convert("RGB")


def main(argv: list[str] | None = None) -> None:
    """Read the options and convert a folder."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--input_dir", type=Path, required=True, help="folder of photos, searched recursively")
    add("--save_dir", type=Path, required=True, help="folder for the paintings, one PNG a photo")
    add("--colors", type=int, choices=range(2, 257), metavar="2..256", default=COLORS, help="colours left")
    add("--kernel", type=int, default=KERNEL, help="width of the median filter, in pixels of --size")
    add("--size", type=int, default=SIDE, help="shorter side of the paintings, at most")
    args = parser.parse_args(argv)
    if args.kernel < 1 or args.size < 1:
        parser.error("--kernel and --size must be at least 1")
    try:
        names = images.find_images(args.input_dir, args.save_dir)
    except ValueError as error:
        parser.error(str(error))
    for name, target in images.result_names(names).items():
        try:
            photo = codecs.decode(args.input_dir / name)
        except ValueError as error:
            print(f"failed: {name}: {error}")
            continue
        painting = to_strokes(photo, args.colors, args.kernel, args.size)
        write_atomically(args.save_dir / target, codecs.encode_png(painting, {}))


if __name__ == "__main__":
    main()
