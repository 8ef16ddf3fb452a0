"""The config of a file of NVlabs/edm or edm2: keys name its size, and a pickle says how it was made."""

import json
import math
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import sample_sdedit
from diffusions import make_schedule
from models import CONFIG_CLASSES
from models.song_unet import SongUNetConfig
from tests.faults import edm_pickles as edm
from tests.tools.test_describe import SHELF, draw, marked
from tools import describe
from utils.config import load_config
from utils.sampling import read_config, trained_alphas
from utils.weights import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
SONG = SongUNetConfig(
    image_size=16,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    embedding="fourier",
    resample_filter=(1, 3, 3, 1),
    encoder_type="residual",
)
EDM = {"process": "edm", "num_timesteps": 1000, "prediction": "x0", "clip": None}


def made(network, class_name, arguments=(), **attributes):
    """Give an object of a pickle its class, the arguments that it was made with, and numbers."""
    description = network.made[1][0]
    description["class_name"] = class_name
    description["state"] |= {"_init_kwargs": dict(arguments), **attributes}
    return network


def pickled(path, network, around, buffers=None, inner="model", **attributes):
    outer = made(edm.module(buffers=buffers, modules={inner: network}), around, **attributes)
    path.write_bytes(edm.pickled({"ema": outer}))
    return path


def zeros(config):
    return {key: torch.zeros(shape) for key, shape in SHELF.shapes(config).items()}


def dhariwal(out_channels=3):
    """Return a DhariwalUNet of 128 channels by its keys: a recorded one, four times as wide."""
    recorded = load_file(GOLDEN / "unet/edm_adm.safetensors")
    shapes = {k.removeprefix("weights."): t.shape for k, t in recorded.items() if k.startswith("weights.")}
    wide = {key: [4 * n if n >= 16 else n for n in shape] for key, shape in shapes.items()}
    for key in ("out_conv.weight", "out_conv.bias"):
        wide[key][0] = out_channels
    return {key: torch.zeros(shape, dtype=torch.float16) for key, shape in wide.items()}


def described(path, **given):
    """Describe a file, and let the run command accept what is printed."""
    text = describe.describe(path, **given)
    config = path.with_name("own.yaml")
    config.write_text(text)
    found = load_config(config, CONFIG_CLASSES)
    assert open_checkpoint(path).fits(SHELF.shapes(found.model))
    words = ["-c", config, "--weights", path, "--input_dir", GOLDEN.parents[1] / "assets/strokes"]
    words += ["--save_dir", path.parent / "out", "--t0", 0.5, "--dry_run", "--cpu"]
    assert sample_sdedit.main([*map(str, words)]) == 0
    return yaml.safe_load(text), marked(text), text


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / "pickles/edm.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("tiny_song", {"name": "song_unet", "dropout": 0.13, "num_classes": 3, "augment_dim": 9}),
        ("tiny_ncsn_2022names", {"embedding": "fourier", "encoder_type": "residual"}),
        ("tiny_edm2", {"name": "edm2_unet", "dropout": 0.1, "num_head_channels": 8, "num_classes": 2}),
    ],
)
def test_a_pickle_of_the_programs_tells_all_but_the_ends_of_noise(golden, name, own):
    found, guesses, _ = described(golden / f"{name}.pkl")
    assert own.items() <= found["model"].items()
    ends = {"sigma_min": 0.002, "sigma_max": 80}
    assert found["diffusion"] == EDM | ends | {"preconditioning": "edm"}
    assert guesses == set(ends) | ({"# classes"} if "num_classes" in own else set())


@pytest.mark.parametrize(
    ("around", "low", "high", "name", "wanted", "guesses"),
    [
        ("VEPrecond", 0.02, 100.0, "ve", (0.02, 80), {"sigma_max"}),
        ("VEPrecond", 0.02, 50, "ve", (0.02, 50), set()),
        ("VPPrecond", 0.001, 152.0, "vp", (0.002, 80), {"sigma_min", "sigma_max"}),
        ("EDMPrecond", 0, math.inf, "edm", (0.002, 80), {"sigma_min", "sigma_max"}),
        ("Mine", 0, math.inf, "edm", (0.002, 80), {"sigma_min", "sigma_max", "preconditioning"}),
    ],
)
def test_what_is_around_a_network_is_told(tmp_path, around, low, high, name, wanted, guesses):
    network = made(edm.network(zeros(SONG)), "SongUNet", {"resample_filter": [1, 3, 3, 1]})
    path = pickled(tmp_path / "own.pkl", network, around, sigma_min=low, sigma_max=high)
    found, marks, text = described(path)
    ends = dict(zip(("sigma_min", "sigma_max"), wanted, strict=True))
    assert found["diffusion"] == EDM | ends | {"preconditioning": name}
    assert marks == guesses
    assert ("it was made as Mine" in text) == (around == "Mine")


@pytest.mark.parametrize(
    ("arguments", "attributes", "message"),
    [
        ({}, {"sigma_data": 1.0}, "VPPrecond is around it with sigma_data 1.0; allowed is 0.5"),
        ({}, {"M": 500}, "VPPrecond is around it with M 500; allowed is 1000"),
        ({"resample_filter": [1, 2, 2, 1]}, {}, r"resample_filter \(1, 2, 2, 1\): allowed are"),
        ({"resample_filter": [1, 1]}, {}, "made as it says, a network of the family song_unet has other"),
        ({"clip_act": 4}, {}, "it was made with clip_act 4; allowed is 256"),
        ({}, {"_init_kwargs": [1]}, r"it was made with \[1\] in place of arguments; it is damaged"),
    ],
)
def test_what_was_made_otherwise_is_refused(tmp_path, arguments, attributes, message):
    inner = {key: attributes.pop(key) for key in ("_init_kwargs",) if key in attributes}
    network = made(edm.network(zeros(SONG)), "SongUNet", arguments, **inner)
    with pytest.raises(ValueError, match=message):
        describe.describe(pickled(tmp_path / "own.pkl", network, "VPPrecond", **attributes))


@pytest.mark.parametrize(
    ("class_name", "said"),
    [
        ("SongUNet", "# It was made with depth, of which nothing is known here: see that they change"),
        ("MyUNet", "# It was made as MyUNet, of which nothing is known here.\n"),
    ],
)
def test_what_is_not_known_of_it_is_said(tmp_path, class_name, said):
    network = made(edm.network(zeros(SONG)), class_name, {"depth": 3, "dropout": 0.2})
    assert said in describe.describe(pickled(tmp_path / "own.pkl", network, "EDMPrecond"))


@pytest.mark.parametrize("family", ["song_unet", "edm2_unet"])
def test_a_plain_state_dict_leaves_what_was_around_to_be_guessed(tmp_path, family):
    config = draw(family, 3)
    torch.save({f"net.model.{key}": tensor for key, tensor in zeros(config).items()}, tmp_path / "own.pt")
    _, guesses, _ = described(tmp_path / "own.pt")
    heads = {"num_head_channels"} if family == "edm2_unet" else set()
    classes = {"# classes"} if config.num_classes else set()
    assert guesses == {"sigma_min", "sigma_max", "preconditioning"} | heads | classes


@pytest.mark.parametrize("is_pickle", [True, False])
def test_an_adm_of_nvlabs_has_heads_of_64_in_their_order(tmp_path, is_pickle):
    path = tmp_path / "own.pt"
    if is_pickle:
        network = made(edm.network(dhariwal()), "DhariwalUNet", {"label_dropout": 0.1}, label_dropout=0.1)
        pickled(path, network, "EDMPrecond")
    else:
        torch.save({f"model.{key}": tensor for key, tensor in dhariwal().items()}, path)
    found, guesses, _ = described(path)
    told = {"name": "adm", "image_size": 16, "num_head_channels": 64, "use_new_attention_order": True}
    told |= {"resblock_updown": True, "use_scale_shift_norm": True, "num_classes": 6, "label_optional": True}
    assert told.items() <= found["model"].items()
    assert "num_heads" not in found["model"]
    rest = set() if is_pickle else {"preconditioning", "label_optional"}
    assert guesses == {"sigma_min", "sigma_max", "# classes"} | rest
    with pytest.raises(ValueError, match="--image_size 32: its tensors are of images of 16"):
        describe.describe(path, image_size=32)


@pytest.mark.parametrize("is_pickle", [True, False])
def test_an_adm_of_improved_diffusion_has_the_schedule_of_its_levels(tmp_path, is_pickle):
    alphas = make_schedule("cosine", 50).alphas_cumprod.flip(0)
    levels = torch.cat([(1 / alphas - 1).sqrt(), torch.zeros(1)]).float()
    path = tmp_path / "own.pt"
    if is_pickle:
        network = made(edm.network(dhariwal(6)), "DhariwalUNet", {"dropout": 0.1})
        pickled(path, network, "iDDPMPrecond", {"u": levels}, C_1=0.001, C_2=0.008, M=50)
    else:
        torch.save({"u": levels} | {f"model.{k}": tensor for k, tensor in dhariwal(6).items()}, path)
    found, guesses, _ = described(path)
    told = {"num_timesteps": 50, "schedule": "cosine", "prediction": "eps", "var_type": "learned_range"}
    assert found["diffusion"] == told
    assert guesses == {"label_optional", "# classes"}


def test_a_narrow_adm_of_nvlabs_is_refused(tmp_path):
    recorded = load_file(GOLDEN / "unet/edm_adm.safetensors")
    state = {k.removeprefix("weights."): t for k, t in recorded.items() if k.startswith("weights.")}
    torch.save({key: tensor.float() for key, tensor in state.items()}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match="a DhariwalUNet of 32 channels, whose norms have 8 groups"):
        describe.describe(tmp_path / "own.pt")


def test_a_shipped_config_is_printed_of_a_pickle_that_was_made_so(tmp_path):
    """Of one of another preconditioning, which has the same tensors, it is not."""
    model = load_config(
        describe.CONFIGS / "NVlabs/edm/edm-cifar10-32x32-uncond-vp.yaml", CONFIG_CLASSES
    ).model
    state = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in SHELF.shapes(model).items()}
    network = made(edm.network(state), "SongUNet", {"dropout": 0.2, "resample_filter": [1, 1]})
    for around, is_shipped in (("EDMPrecond", True), ("VPPrecond", False)):
        text = describe.describe(pickled(tmp_path / "own.pkl", network, around, sigma_min=0, sigma_max=99.0))
        assert ("configs/NVlabs/edm/edm-cifar10-32x32-uncond-vp.yaml" in text) == is_shipped
        name = {"EDMPrecond": "edm", "VPPrecond": "vp"}[around]
        assert yaml.safe_load(text)["diffusion"]["preconditioning"] == name


def test_betas_of_no_schedule_are_listed_and_followed(case, capsys):
    """The table of the file is that of the printed config, to float32, and the command takes both."""
    betas = torch.linspace(0.1, 0.5, 80) ** 3
    path = case.weights.with_name("own.pt")
    torch.save({"betas": betas, **load_file(case.weights)}, path)
    case.config.write_text(describe.describe(path, image_size=16))
    config = read_config(case.config)
    assert torch.tensor(config.diffusion.trained_betas).float().equal(betas)
    alphas = (1 - betas.double()).cumprod(dim=0)
    torch.testing.assert_close(trained_alphas(config), alphas, rtol=1e-6, atol=0)
    case.weights = path
    assert sample_sdedit.main([*case.words(), "--t0", "0.5", "--class_label", "1"]) == 0
    capsys.readouterr()
    assert json.loads((case.save_dir / "report.json").read_text())["done"] == 5
