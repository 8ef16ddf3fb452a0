"""Damaged configs: one that works or a message, never a crash, a delay or a flood of text.

The full run: `pytest tests/faults/test_hostile_configs.py --hostile_configs 200`; another draw of damages
with HOSTILE_SEED=1 in the environment.
"""

import copy
import os
import random
import time
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from models import CONFIG_CLASSES, build_model
from tests.faults.mutations import mutate
from utils import sampling
from utils.config import load_config

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
SECONDS, MAX_MESSAGE = 10, 4000
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))
VALUES = [
    *(0, 1, -1, 2, 3, 7, 31, 10**3, 10**6, 10**12, 2**31, 2**63, 10**400, -(10**12)),
    *(0.0, -0.5, 0.3, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "linear", "cosine", "ve", "score", "null", "\x1b[2J", "é" * 500, "y" * 5000, "2001-01-01"),
    *(True, False, None, [], {}, [[]], [1, 2], [0], [-1], ["a"], {"a": {"b": 1}}, [1] * 500, list(range(99))),
]
TEXTS = [
    *(
        "&a ",
        "*a",
        "!!python/object/apply:os.system [ls]",
        "!!python/name:os.system",
        "!!binary x",
        "!!int x",
    ),
    *(
        "!!timestamp x",
        "!!bool x",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!float .",
        "0x_",
        "0b",
        "1:60:70",
        "2000-99-99",
    ),
    *(
        "<<: {a: 1}",
        "? [a]\n: 1",
        "{[1]: 2}",
        "{{}: 1}",
        "\t",
        "%YAML 9",
        "---\n",
        "...",
        "\0",
        "\ufeff",
        "|",
        ">",
    ),
    *("[" * 500, "{" * 500, "[" * 200 + "]" * 200, "- " * 300, "? " * 300, "'" * 3, '"\\x', "1" * 6000),
]


def _sections(tree):
    return [tree, *(value for value in tree.values() if isinstance(value, dict))]


def _drop(rng, tree):
    section = rng.choice(_sections(tree))
    if section:
        del section[rng.choice(list(section))]


def _rename(rng, tree):
    section = rng.choice(_sections(tree))
    if section:
        key = rng.choice(list(section))
        section[rng.choice((key[1:], key + "x", key.upper(), rng.choice(("x" * 3000, "\x1b]", "1"))))] = (
            section.pop(key)
        )


def _replace(rng, tree):
    section = rng.choice(_sections(tree))
    if section:
        key = rng.choice(list(section))
        if isinstance(section[key], list) and section[key] and rng.random() < 0.5:
            section[key][rng.randrange(len(section[key]))] = rng.choice(VALUES)
        else:
            section[key] = rng.choice(VALUES)


def _scale(rng, tree):
    section = rng.choice(_sections(tree)[1:] or [tree])
    keys = [key for key, value in section.items() if type(value) in (int, float)]
    if keys:
        key = rng.choice(keys)
        section[key] *= rng.choice((-1, 2, 3, 10, 1000, 10**9, 0))


def _lengthen(rng, tree):
    section = rng.choice(_sections(tree))
    lists = [key for key, value in section.items() if isinstance(value, list) and value]
    if lists:
        section[rng.choice(lists)] *= rng.choice((2, 10, 1000))


def _nest(rng, tree):
    section, depth = rng.choice(_sections(tree)), rng.choice((3, 30, 300))
    inner = {}
    for _ in range(depth):
        inner = {"a": inner}
    section[rng.choice([*section, "deep"])] = inner


def _crowd(rng, tree):
    rng.choice(_sections(tree)).update({f"key{i}": i for i in range(rng.choice((20, 1000)))})


def _insert_text(rng, text):
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    piece = rng.choice(TEXTS)
    lines[at] = rng.choice((f"{key}{colon} {piece}", f"{lines[at]} {piece}", f"{piece}{lines[at]}", piece))
    return "\n".join(lines)


def _repeat_line(rng, text):
    lines = text.split("\n")
    line = rng.choice(lines)
    lines[rng.randrange(len(lines))] += "\n" + "\n".join([line] * rng.choice((1, 1, 100)))
    return "\n".join(lines)


TREE = (_drop, _rename, _replace, _replace, _replace, _scale, _scale, _lengthen, _nest, _crowd)


def damage(rng, data):
    """Damage a config in one to three ways: its values, its text or its bytes."""
    how = rng.choice(("tree", "tree", "tree", "text", "bytes"))
    if how == "bytes":
        return mutate(rng, data)
    if how == "text":
        text = data.decode()
        for _ in range(rng.choice((1, 1, 2))):
            text = rng.choice((_insert_text, _insert_text, _repeat_line))(rng, text)
        return text.encode()
    tree = yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(TREE)(rng, tree)
    # a copy without shared parts, which would be written as an alias
    return yaml.safe_dump(copy.deepcopy(tree), sort_keys=False, allow_unicode=rng.random() < 0.5).encode()


@pytest.fixture(scope="module")
def damaged(request):
    rng = random.Random(SEED)
    sources = [(path, path.read_bytes()) for path in CONFIGS]
    found = []
    for i in range(request.config.getoption("--hostile_configs")):
        path, data = rng.choice(sources)
        found.append((f"{i} {path.name}", damage(rng, data)))
    return found


def build_or_message(path):
    """Read a config as a run does, schedule and network included; return the error's message, or None."""
    start = time.process_time()
    message = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            config = sampling.read_config(path)
            with torch.device("meta"):
                build_model(config.model)
        except ValueError as error:
            message = str(error)
            assert 5 < len(message) < MAX_MESSAGE
            assert message.replace("\n", "").isprintable()
    assert time.process_time() - start < SECONDS
    return message


def test_damaged_configs_work_or_are_refused_with_a_message(tmp_path, damaged, capfd):
    path, num_refused = tmp_path / "c.yaml", 0
    for name, data in damaged:
        path.write_bytes(data)
        try:
            num_refused += build_or_message(path) is not None
        except BaseException:
            path.rename(tmp_path / f"failed {name}")
            raise
    assert len(damaged) / 3 < num_refused
    assert capfd.readouterr() == ("", "")


def test_whole_configs_work(tmp_path):
    for path in CONFIGS:
        if "classifier" not in path.name or "free" in path.name:
            assert build_or_message(path) is None, path


GOOD = yaml.safe_load((ROOT / "configs/demo/fruits64.yaml").read_text())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("diffusion.num_timesteps", value) for value in (10**12, 10**30, 0, -5, 2**31 - 1)],
        *[("diffusion.beta_end", value) for value in (float("nan"), float("inf"), -1.0, 2)],
        *[("model.image_size", value) for value in (-1, 0, 10**9, 63)],
        *[("model.channel_mult", value) for value in ([], [0, 1], [1] * 99, [10**6], [1, -1])],
        *[("model.num_res_blocks", value) for value in (-1, 0, 10**6)],
        *[("model.model_channels", value) for value in (-32, 0, 10**8)],
        *[("model.in_channels", value) for value in (0, 2, 10**9)],
        *[("model.attention_resolutions", value) for value in (list(range(1, 10**4)), [-1])],
        *[("model.num_heads", value) for value in (0, -1, 10**9)],
        *[("model.num_head_channels", value) for value in (0, 7, 10**9)],
        *[("model.dropout", value) for value in (-0.1, 2.0, float("nan"))],
        *[("model.num_classes", value) for value in (0, -3, 10**12)],
        *[("null_class", value) for value in (-1, 10**6)],
        ("classes", ["a"] * 10**4),
    ],
)
def test_absurd_numbers_are_refused_by_name(tmp_path, key, value):
    tree = copy.deepcopy(GOOD)
    *parents, last = key.split(".")
    section = tree[parents[0]] if parents else tree
    section[last] = value
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    message = build_or_message(tmp_path / "c.yaml")
    assert message
    assert "head" in message if "num_head" in key else last in message


def test_heads_share_the_channels_evenly(tmp_path):
    tree = copy.deepcopy(GOOD)
    del tree["model"]["num_head_channels"]
    tree["model"]["num_heads"] = 7
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    assert "cannot be shared by 7 heads" in build_or_message(tmp_path / "c.yaml")
    del tree["model"]["num_heads"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    assert "num_heads and num_head_channels: found neither" in build_or_message(tmp_path / "c.yaml")


def test_a_small_file_that_unfolds_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for this, last in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"{this}: &{this} [{', '.join([f'*{last}'] * 9)}]\n"
    for text, match in (
        (bomb, "anchors and aliases"),
        ("a: [" + "1," * 400_000 + "]", "more than 50000 values"),
        ("# " + "x" * 1_000_000, "more than 1000000 bytes"),
        ("a: " + "[" * 10_000, "sections within one another"),
        ("a: " + "1" * 5000, "more than 1000 characters"),
        ("a: " + "1:" * 400 + "1", "model.name"),
    ):
        path.write_text(text)
        start = time.process_time()
        with pytest.raises(ValueError, match=match):
            load_config(path, CONFIG_CLASSES)
        assert time.process_time() - start < SECONDS


def test_an_impossible_schedule_names_its_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text((ROOT / "configs/demo/fruits64.yaml").read_text().replace("cosine", "linear"))
    with pytest.raises(ValueError, match=r"c\.yaml: the linear schedule needs beta_start and beta_end"):
        sampling.read_config(path)
