"""Strokes from photos: few flat colours, the aspect kept, small pictures filtered less."""

import numpy as np
import pytest
from PIL import Image

from tools.make_strokes import main, to_strokes


def photo(width, height):
    generator = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3))
    pixels[:, : width // 2] = (200, 40, 40)
    pixels[:, width // 2 :] = (40, 60, 200)
    return Image.fromarray((pixels + generator.normal(0, 25, pixels.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("size", "expected"), [((600, 400), (384, 256)), ((90, 60), (90, 60))])
def test_flat_colours_where_the_photo_had_noise(size, expected):
    painting = to_strokes(photo(*size), colors=2, kernel=23, side=256)
    assert painting.size == expected
    pixels = np.asarray(painting).astype(int)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 2
    for x, colour in ((5, (200, 40, 40)), (-5, (40, 60, 200))):
        assert abs(pixels[:, x] - colour).max() < 12


def test_a_folder(tmp_path, capsys):
    (tmp_path / "in/deep").mkdir(parents=True)
    photo(80, 60).save(tmp_path / "in/deep/a.jpg")
    (tmp_path / "in/b.png").write_text("no picture")
    main(["--input_dir", str(tmp_path / "in"), "--save_dir", str(tmp_path / "out"), "--colors", "3"])
    assert capsys.readouterr().out.startswith("failed: b.png: not an image")
    painting = Image.open(tmp_path / "out/deep/a.png")
    assert len(painting.getcolors()) == 3
    assert [p.name for p in (tmp_path / "out").rglob("*.*")] == ["a.png"]
