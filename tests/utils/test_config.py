"""Configs are read strictly, and every mistake is reported at once."""

from dataclasses import dataclass

import pytest

from utils.config import class_index, load_config


@dataclass(frozen=True, kw_only=True)
class Net:
    width: int
    scale: float = 1.0
    name_of: str = "x"
    wide: bool = False
    mult: tuple[int, ...] = (1,)
    num_classes: int | None = None

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width {self.width}: allowed is at least 1")


GOOD = """
model: {name: net, width: 8, scale: 1e-4, mult: [1, 2], num_classes: 4}
diffusion: {num_timesteps: 1000, schedule: cosine, prediction: v}
classes: [red_apple, green_apple, pear]
null_class: 3
"""


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return load_config(path, {"net": Net}, list(overrides))

    return read


def test_a_good_config_has_typed_values(read):
    config = read(GOOD)
    assert config.model == Net(width=8, scale=1e-4, mult=(1, 2), num_classes=4)
    assert config.diffusion.num_timesteps == 1000
    assert config.diffusion.beta_start is None
    assert config.classes == ("red_apple", "green_apple", "pear")
    assert config.null_class == 3


def test_a_whole_number_serves_as_a_number_but_a_bool_does_not(read):
    assert read(GOOD.replace("1e-4", "2")).model.scale == 2.0
    with pytest.raises(ValueError, match=r"model.scale: expected number, got True \(bool\)"):
        read(GOOD.replace("1e-4", "true"))


def test_all_mistakes_are_reported_at_once(read):
    text = GOOD.replace("width: 8", "widht: 8").replace("[1, 2]", "[1, x]") + "diffusionn: 3\n"
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (every line is checked below)
        read(text.replace("num_timesteps: 1000", "num_timesteps: '1000'"))
    message = str(caught.value)
    assert "5 problem(s)" in message
    assert "model.widht: unknown key, did you mean width?" in message
    assert "model.width: missing, expected whole number" in message
    assert "model.mult[1]: expected whole number, got 'x' (str)" in message
    assert "diffusionn: unknown key, did you mean diffusion?" in message
    assert "diffusion.num_timesteps: expected whole number, got '1000' (str)" in message


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected 'key: value' lines"),
        ("- 1", "expected 'key: value' lines"),
        ("model: [", "not a readable YAML file"),
        (GOOD + "null_class: 2\n", "duplicate key 'null_class'"),
        (GOOD.replace("width: 8", "width: 8, width: 9"), "duplicate key 'width'"),
        (GOOD.replace("name: net", "name: nett"), "model.name: found 'nett', allowed are net"),
        (GOOD.replace("width: 8", "width: 0"), "model: width 0: allowed is at least 1"),
        ("model: 3\ndiffusion: 4", "diffusion: expected 'key: value' lines, got 4"),
        ("x: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("x: !!python/name:os.system", "could not determine a constructor"),
        ("x: !!python/module:os", "could not determine a constructor"),
        ("x: &a 1", "anchors and aliases .* line 1, column 4"),
        ("x: &a [1]\ny: *a", "anchors and aliases"),
        ("{[1]: 2}", "a list or a section as a key"),
        ("x: 2000-99-99", "not a readable YAML file: month must be in 1..12"),
        ("x: !!bool maybe", "not a readable YAML file: KeyError"),
        ("x: !!timestamp soon", "not a readable YAML file: AttributeError"),
        ("x: 0b_", "not a readable YAML file: invalid literal"),
        ("x: " + "9" * 900, "unknown key"),
        ("x: \0", "not a readable YAML file"),
        ("[" * 999, "more than 10 sections within one another, line 1"),
        ("x: " + "y" * 1001, "more than 1000 characters"),
        ("x: " + "[1, " * 9 + "]" * 9, "not a readable YAML file"),
        (GOOD.replace("scale: 1e-4", "scale: .nan"), r"model.scale: expected number of at most .* got nan"),
        (GOOD.replace("scale: 1e-4", "scale: -.inf"), r"model.scale: expected number of at most .* got -inf"),
        (GOOD.replace("1e-4", "9" * 400), "model.scale: .* got a whole number of 1329 bits"),
        (GOOD.replace("width: 8", "width: 1000000000000"), "width: expected whole number of at most"),
        (GOOD.replace("num_timesteps: 1000", "num_timesteps: 100001"), "num_timesteps 100001: allowed"),
        (GOOD.replace("num_timesteps: 1000", "num_timesteps: 0"), "num_timesteps 0: allowed are 1 to"),
        (GOOD.replace("null_class: 3", "null_class: 4"), "null_class 4: allowed .* an index from 0 to 3"),
        (GOOD.replace("null_class: 3", "null_class: -1"), "null_class -1: allowed"),
        (GOOD.replace("num_classes: 4", "num_classes: 2"), "classes: 3 names, and the network has 2"),
        (GOOD.replace(", num_classes: 4", ""), "null_class 3: allowed .* none, it has no classes"),
        (GOOD.replace("name: net", "name: [net]"), r"model.name: found \['net'\]"),
    ],
    ids=lambda text: text[:20],
)
def test_broken_configs_are_refused(read, text, match):
    with pytest.raises(ValueError, match=match):
        read(text)


def test_overrides_are_as_strict_as_the_file(read):
    config = read(
        GOOD, "model.width=16", "diffusion.schedule=linear", "classes=[a]", "diffusion.beta_end=2e-2"
    )
    assert (config.model.width, config.diffusion.schedule, config.classes) == (16, "linear", ("a",))
    assert config.diffusion.beta_end == 0.02
    for override, match in [
        ("model.widht=3", "did you mean width"),
        ("model.width=x", "expected whole number, got 'x'"),
        ("modell.width=3", "no section 'modell'"),
        ("model.width", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
    ]:
        with pytest.raises(ValueError, match=match):
            read(GOOD, override)


def test_classes_are_found_by_name_and_index(read):
    config = read(GOOD)
    assert [class_index(config, label) for label in ("pear", "0", "3")] == [2, 0, 3]
    for label in ("4", "-1", "1.0", "peer", "²"):
        with pytest.raises(ValueError, match="allowed is an index from 0 to 3 or one of red_apple"):
            class_index(config, label)
    with pytest.raises(ValueError, match="did you mean pear"):
        class_index(config, "peer")
    with pytest.raises(ValueError, match="has no classes"):
        class_index(read(GOOD.replace(", num_classes: 4", "").replace("null_class: 3", "")), "0")
    with pytest.raises(ValueError, match="unknown class '99999"):
        class_index(config, "9" * 5000)


def test_messages_are_short_and_hold_no_control_characters(read):
    many = "\n".join(f'key{i}: "\\e[2J{"x" * 900}"' for i in range(500))
    for text in (
        GOOD + many,
        GOOD.replace("num_classes: 4", 'num_classes: "\\e[2J\\n"'),
        GOOD.replace("width: 8", f'"\\e]{"w" * 700}": 8'),
        GOOD.replace("[1, 2]", f"[{', '.join(['x'] * 9999)}]"),
        GOOD.replace("prediction: v", f"process: {'p' * 900}"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (its text is checked below)
            read(text)
        assert len(str(caught.value)) < 4000
        assert str(caught.value).replace("\n", "").isprintable()
    with pytest.raises(ValueError, match="and 489 more"):
        read(GOOD + "\n".join(f"key{i}: 1" for i in range(500)) + "\n1: 2")


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    for data, match in (
        (b"#" * 1_000_001, "more than 1000000 bytes"),
        (GOOD.encode("utf-16"), "'utf-8' codec can't decode"),
        (b"x: [" + b"1, " * 60_000 + b"]", "more than 50000 values"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=match):
            load_config(path, {"net": Net})
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml", {"net": Net})


def test_many_classes_are_not_all_named(read):
    names = ", ".join(f"class{i}" for i in range(999))
    config = read(
        GOOD.replace("red_apple, green_apple, pear", names).replace("_classes: 4", "_classes: 1000")
    )
    with pytest.raises(ValueError, match=r"class19 and 979 more in the config$"):
        class_index(config, "other")
