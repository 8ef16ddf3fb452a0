"""What others wrote, for people: command lines to be copied, and addresses without secrets."""

import os
import subprocess

import pytest

from utils import quote


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://me:pass@host.org/a/x.pt?token=1#part", "https://host.org/a/x.pt"),
        ("--weights=HTTPS://key@host/x.pt", "--weights=HTTPS://host/x.pt"),
        ("https://me:p@ss@host/x.pt", "https://host/x.pt"),
        ("http://host:8080?key=1", "http://host:8080"),
        ("https://host/@me/x.pt", "https://host/@me/x.pt"),
        ("hf://owner/name@main/x.pt", "hf://owner/name@main/x.pt"),
        ("demo/fruits64", "demo/fruits64"),
        ("what?#1.png", "what?#1.png"),
        ("https://a:b@c/d?e\nhttps://f:g@h/i?j", "https://c/d\nhttps://h/i"),
    ],
)
def test_an_address_is_without_secrets(text, kept):
    assert quote.without_secrets(text) == kept


WORDS = [
    "python",
    "a b",
    "it's",
    "",
    "$HOME `x`",
    "--set",
    "a.b=1",
    "line\nbreak",
    "b\udcff\u202e'\\",
    "\u6a9e",
]


def test_a_command_line_can_be_copied():
    line = quote.command_line(WORDS)
    assert line.isprintable()
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert printed.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]


def test_a_command_line_is_without_secrets():
    line = quote.command_line(["python", "x.py", "--weights", "https://me:pass@host/x.pt?token=1"])
    assert line == "python x.py --weights https://host/x.pt"


def test_a_huge_word_takes_no_time():
    assert quote.without_secrets("a" * 100_000) == "a" * 100_000
