"""Results of other sizes than the model's: as a whole or in tiles, by both commands and from Python."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

import sample_ddib
import sample_sdedit
from models import build_model
from models.adm import ADMClassifierConfig
from tests.commands.command_case import CONFIG, MODEL, result_bytes
from tests.commands.test_run import pixels
from utils import codecs
from utils.assemble import Editor, Translator

EDIT = ["--respace_steps", "10", "--t0", "0.4"]
DDIB = ["--respace_steps", "4", "--class_A", "cat", "--class_B", "dog"]
OWN = {"a.png": (16, 16), "b.png": (40, 24), "deep/c.png": (16, 33), "deep/d.png": (20, 20)}
"""Of the inputs, without the one that is smaller than a tile."""
TILES = {"a.png": 1, "b.png": 4 * 2, "deep/c.png": 4, "deep/d.png": 4}
"""Of 16x16, each half over the next."""


@pytest.fixture
def case(case):
    """The tiny network with weights so small that it is smooth, and inputs no smaller than it."""
    save_file({key: tensor * 0.3 for key, tensor in load_file(case.weights).items()}, case.weights)
    (case.input_dir / "e.PNG").unlink()
    return case


def run(case, folder, *words, command=sample_sdedit, code=0):
    """Run and return the pixels of every picture."""
    first = EDIT if command is sample_sdedit else DDIB
    assert command.main([*case.words(folder), *first, *map(str, words)]) == code
    return {name: pixels(data) for name, data in result_bytes(folder).items() if name.endswith(".png")}


def sizes(found):
    return {name: picture.shape[1::-1] for name, picture in found.items()}


@pytest.mark.parametrize("command", [sample_sdedit, sample_ddib])
@pytest.mark.parametrize("way", [["--size", "input"], ["--tiles"]])
def test_results_have_the_size_of_their_inputs_in_any_batch_and_share(case, tmp_path, command, way):
    alone = run(case, tmp_path / "1", *way, "--micro_batch", 1, command=command)
    assert sizes(alone) == OWN
    for name, words in {"many": ["--micro_batch", 5], "two": ["--shard", "0/2"]}.items():
        found = run(case, tmp_path / name, *way, *words, command=command)
        if name == "two":
            found = run(case, tmp_path / name, *way, "--shard", "1/2", command=command)
        assert max(abs(found[x] - alone[x]).max() for x in OWN) <= 1


def test_one_size_for_all(case, tmp_path, capsys):
    for i, way in enumerate((["--size", "23x18"], ["--size", "23x18", "--tiles"])):
        found = run(case, tmp_path / str(i), *way, "--fit", "pad")
        assert sizes(found) == dict.fromkeys(OWN, (23, 18))
        notes = json.loads(Image.open(tmp_path / str(i) / "a.png").text["parameters"])
        assert (notes["size"], notes.get("tiles", False)) == ("23x18", i == 1)
        page = (tmp_path / str(i) / "report.html").read_text()
        assert '"size":[23,18]' in page
    said = capsys.readouterr().err
    assert said.count("note: this network knows 16x16; run on 23x18 as a whole it") == 1
    assert run(case, tmp_path / "0", "--size", "23x18", "--fit", "pad", "--verify")  # done before


def test_the_model_s_own_size_gives_what_is_given_without_options(case, tmp_path):
    plain = run(case, tmp_path / "plain", "--micro_batch", 1)
    for i, way in enumerate((["--size", "16x16"], ["--size", "16x16", "--tiles"])):
        found = run(case, tmp_path / str(i), *way, "--micro_batch", 1)
        assert all(np.array_equal(found[name], plain[name]) for name in OWN)


def test_a_tile_is_counted_as_an_image_and_calls_hold_no_more_than_the_micro_batch(
    case, tmp_path, monkeypatch
):
    batches = []
    real = torch.nn.Module.__call__

    def call(module, *args, **more):
        if type(module).__name__ == "ADM":
            batches.append(tuple(args[0].shape))
        return real(module, *args, **more)

    monkeypatch.setattr(torch.nn.Module, "__call__", call)
    run(case, tmp_path / "o", "--tiles", "--micro_batch", 3)
    assert max(shape[0] for shape in batches) == 3
    assert {shape[2:] for shape in batches} == {(16, 16)}
    assert sum(shape[0] for shape in batches) == 4 * sum(TILES.values())
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["network_evaluations"] == 4 * sum(TILES.values())


def test_the_plan_says_sizes_tiles_and_evaluations(case, tmp_path, capsys):
    Image.new("RGB", (15, 40)).save(case.input_dir / "narrow.png")
    run(case, tmp_path / "o", "--tiles", "--dry_run")
    said = capsys.readouterr().out
    assert "5 images at their own size, 16x16 to 40x24 in about 4.25 tiles of 16x16, 5 results" in said
    assert "1 inputs are below 16x16 and would fail: narrow.png" in said
    assert "17 network evaluations an image" in said
    run(case, tmp_path / "o", "--size", "40x24", "--tiles", "--dry_run", command=sample_ddib)
    said = capsys.readouterr().out
    assert "5 images at 40x24 in 8 tiles of 16x16, to dog" in said
    assert f"{8 * 15} network evaluations an image" in said  # 8 up, 7 down
    run(case, tmp_path / "run", "--tiles", code=3)
    assert "narrow.png: a picture of 15x40; those that keep their size are at least 16x16" in (
        capsys.readouterr().err
    )


BAD = {
    "a word": (
        ["--size", "big"],
        "--size big: allowed is WIDTHxHEIGHT, as 192x128, each 1 to 16384, or input",
    ),
    "one number": (["--size", "32"], "--size 32: allowed is WIDTHxHEIGHT"),
    "nothing": (["--size", "0x32"], "--size 0x32: allowed is"),
    "huge": (["--size", "16x20000"], "--size 16x20000: allowed is"),
    "below a tile": (
        ["--size", "15x32", "--tiles"],
        "--size 15x32: --tiles are of 16x16; give at least that, or leave them out",
    ),
    "below a multiple": (
        ["--size", "1x32"],
        "--size 1x32: this network takes 2x2 or more; give at least that",
    ),
    "fit": (["--tiles", "--fit", "pad"], "--fit pad has no effect on pictures that keep their size"),
    "auto": (["--tiles", "--micro_batch", "auto"], "--micro_batch auto: not with --tiles; give a number"),
    "compiled": (["--size", "input", "--compile"], "--compile: for one size alone; give --size WIDTHxHEIGHT"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", [sample_sdedit, sample_ddib])
def test_mistakes_are_explained_before_anything_is_written(case, tmp_path, capsys, command, name):
    words, message = BAD[name]
    first = EDIT if command is sample_sdedit else DDIB
    with pytest.raises(SystemExit, match="2"):
        command.main([*case.words(tmp_path / "o"), *first, *words])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_parts_of_a_photo_are_of_the_model_s_size(case, capsys):
    for way in (["--size", "input"], ["--tiles"]):
        with pytest.raises(SystemExit, match="2"):
            sample_sdedit.main([*case.words(), *EDIT, "--region", "mask", *way])
        assert "--region: not together with --size or --tiles" in capsys.readouterr().err


@pytest.mark.parametrize("way", [["--size", "input"], ["--tiles"], ["--size", "23x18"]])
def test_masks_and_strengths_are_of_the_whole_picture(case, tmp_path, way):
    for path in [*case.input_dir.rglob("*.*")]:
        mask = Image.new("L", Image.open(path).size, 0)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        target = tmp_path / "masks" / path.relative_to(case.input_dir).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(target)
    maps = {"mask": ["--mask_dir", tmp_path / "masks"], "strength": ["--strength_dir", tmp_path / "masks"]}
    for kind, words in maps.items():
        found = run(case, tmp_path / kind, *way, *words)
        for path in case.input_dir.rglob("*.*"):
            name = path.relative_to(case.input_dir).with_suffix(".png").as_posix()
            guide = codecs.decode(path)
            if "23x18" in way:
                guide = ImageOps.fit(guide, (23, 18), Image.Resampling.LANCZOS)
            right = guide.width // 2 + (1 if "23x18" in way else 0)
            difference = abs(np.asarray(guide).astype(int) - found[name])
            assert difference[:, right:].max() == 0
            assert difference[:, : right - 1].max() > 5


@pytest.mark.parametrize("solver", ["heun", "exact", "cycle-diffusion"])
def test_solvers_translates_by_tiles_and_measures_the_way_back(case, tmp_path, solver):
    words = ["--solver", solver, "--tiles", "--cycle", "--comparison", "--trajectory", 3]
    found = run(case, tmp_path / "o", *words, command=sample_ddib)
    assert {name: found[name].shape[1::-1] for name in OWN} == OWN
    for name, size in OWN.items():
        notes = json.loads(Image.open(tmp_path / "o" / name).text["parameters"])
        exact = solver in ("exact", "cycle-diffusion")
        assert 0 <= notes["A_to_A"] < (1e-4 if exact else 0.3)
        for folder, count in {"comparison": 4, "trajectory": 3}.items():
            strip = codecs.cut_strip(Image.open(tmp_path / "o" / folder / name), *size)
            assert [x.size for x in strip] == [size] * count
        assert np.array_equal(np.asarray(strip[-1]).astype(int), found[name])


@pytest.mark.parametrize("way", [["--size", "input"], ["--tiles"], ["--size", "24x20", "--tiles"]])
def test_latents_of_any_size_are_saved_and_decoded_again(case, tmp_path, capsys, way):
    plain = run(case, tmp_path / "o", *way, "--save_latents", command=sample_ddib)
    case.input_dir = tmp_path / "o/latents"
    shapes = {p.stem: load_file(p)["latent"].shape for p in case.input_dir.rglob("*.safetensors")}
    assert shapes["b"] == (3, 20, 24) if "24x20" in way else (3, 24, 40)
    words = [*case.words(tmp_path / "again"), "--respace_steps", "4", "--class_B", "dog", "--from_latents"]
    assert sample_ddib.main([*words, *way]) == 0
    for name in OWN:
        assert np.array_equal(pixels((tmp_path / "again" / name).read_bytes()), plain[name])
    words[words.index("--save_dir") + 1] = str(tmp_path / "other")
    other = ["--size", "input"] if "--tiles" in way else ["--size", "24x24"]
    assert sample_ddib.main([*words, *other]) == 3
    wrong = "made otherwise: tiles True here, None in this run" if "--tiles" in way else "this network's are"
    assert capsys.readouterr().err.count(wrong) == 4


def make_classifier(folder, pool):
    model = {**MODEL, "name": "adm_classifier", "out_channels": 3, "pool": pool, "num_head_channels": 16}
    del model["num_classes"]
    path, weights = folder / f"{pool}.yaml", folder / f"{pool}.safetensors"
    config = {"model": model, "diffusion": CONFIG["diffusion"], "classes": CONFIG["classes"]}
    path.write_text(yaml.safe_dump(config))
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in model.items() if k != "name"}
    torch.manual_seed(0)
    state = build_model(ADMClassifierConfig(**arguments)).state_dict()
    save_file({key: torch.randn(t.shape) * 0.2 for key, t in state.items()}, weights)
    return ["--class_label", "dog", "--classifier", str(path), str(weights)]


@pytest.mark.parametrize("pool", ["adaptive", "attention"])
def test_guidance_leads_pictures_of_every_size(case, tmp_path, capsys, pool):
    led = make_classifier(tmp_path, pool)
    for i, way in enumerate((["--tiles"], ["--size", "input"])):
        if (pool, way[0]) == ("attention", "--size"):
            with pytest.raises(SystemExit, match="2"):
                sample_sdedit.main([*case.words(tmp_path / "no"), *EDIT, *led, *way])
            wanted = "--size input: the network of --classifier takes images of 16x16 alone; add --tiles"
            assert wanted in capsys.readouterr().err
            continue
        found = [
            run(case, tmp_path / f"{i}{scale}", *led, *way, "--classifier_scale", scale) for scale in (0, 30)
        ]
        assert sizes(found[1]) == OWN
        assert all(abs(found[0][name] - found[1][name]).max() > 1 for name in OWN)
        free = run(case, tmp_path / f"free{i}", "--class_label", "dog", "--guidance_scale", 3, *way)
        assert sizes(free) == OWN


def count(steps, *told):
    steps.append(told)


def test_python_gives_the_pictures_of_the_commands(case):
    paths = {name: case.input_dir / name for name in ("a.png", "b.jpg", "deep/c.webp", "deep/d.bmp")}
    ways = {"--size input": {"size": "input"}, "--tiles": {"tiles": True}, "--size 23x18": {"size": "23x18"}}
    for line, way in ways.items():
        words, steps = line.split(), []
        edited = run(case, case.save_dir / f"edit{words[-1]}", *words, "--micro_batch", 1)
        editor = Editor.load(case.weights, config=case.config, cpu=True, micro_batch=1, respace_steps=10)
        found = editor([*paths.values()], names=[*paths], t0=0.4, **way, callback=partial(count, steps))
        assert [x.size for x in found] == list(sizes(edited).values())
        assert [x.tobytes() for x in found] == [x.astype(np.uint8).tobytes() for x in edited.values()]
        assert steps[-1] == (15, 16)
        folder = case.save_dir / f"ddib{words[-1]}"
        translated = run(case, folder, *words, "--micro_batch", 1, command=sample_ddib)
        translator = Translator.load(case.weights, config=case.config, cpu=True, micro_batch=1)
        found = translator([*paths.values()], respace_steps=4, class_A="cat", class_B="dog", **way)
        assert [x.tobytes() for x in found] == [x.astype(np.uint8).tobytes() for x in translated.values()]
    mask = Image.new("L", (40, 24))
    kept = editor(paths["b.jpg"], mask=mask, t0=0.4, tiles=True)
    assert kept.tobytes() == codecs.decode(paths["b.jpg"]).tobytes()
    with pytest.raises(ValueError, match="a picture of 9x30; those that keep their size are at least 16x16"):
        editor(Image.new("RGB", (9, 30)), tiles=True)
