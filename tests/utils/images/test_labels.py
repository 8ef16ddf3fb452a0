"""Lists of classes that are not as they should be end in a message."""

from dataclasses import dataclass

import pytest

from utils.config import Config, DiffusionConfig
from utils.images.labels import read_classes


@dataclass(frozen=True)
class Net:
    num_classes: int = 3


CONFIG = Config(
    model=Net(), diffusion=DiffusionConfig(num_timesteps=9, schedule="cosine"), classes=("cat", "dog", "hen")
)


@pytest.fixture
def read(tmp_path):
    def read(data, names=("a.png", "b/c.png")):
        path = tmp_path / "classes.csv"
        path.write_bytes(data)
        return read_classes("class_A", str(path), CONFIG, tmp_path, list(names))

    return read


def test_a_list_names_the_class_of_each_input(read):
    assert read(b"a.png,cat\n\nb/c.png, 2 \nother.png,bear\n") == {"a.png": 0, "b/c.png": 2}
    assert read(b"\xef\xbb\xbfa.png,cat\r\nb/c.png,dog\r\n") == {"a.png": 0, "b/c.png": 1}
    assert read('"ä,\n.png",hen\n'.encode(), ["ä,\n.png"]) == {"ä,\n.png": 2}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"a.png,cat\0\nb/c.png,dog", "line 1 is not path,class; found .*x00"),
        (b"a.png," + b"x" * 200_000, "cannot be read: field larger than field limit"),
        (
            b"a.png," + b"x" * 100_000 + b"\nb/c.png,cat",
            "unknown class 'xxx.*allowed is an index from 0 to 2",
        ),
        (b"a.png,cat,\x1b[2J" + b"y" * 5000, "line 1 is not path,class; found"),
        ("a.png,cat".encode("utf-16"), "cannot be read: 'utf-8' codec"),
        ("ä.png,cat".encode("latin-1"), "cannot be read: 'utf-8' codec"),
        (b"a.png,cat\nb/c.png,dog\na.png,hen", "'a.png' is 'cat' and 'hen'"),
        (b"a.png,cat", "no line for b/c.png; add"),
        (b"", "no line for a.png, b/c.png; add"),
        (b'"a.png,cat\nb/c.png,dog', "line 1 is not path,class"),
    ],
)
def test_other_lists_are_refused(read, data, match):
    with pytest.raises(ValueError, match=match) as caught:
        read(data)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


def test_names_in_messages_move_no_cursor(read):
    with pytest.raises(ValueError, match=r"no line for \\x1b\[2J.png and|no line for \\x1b\[2J.png;"):
        read(b"a.png,cat", ["\x1b[2J.png"])
