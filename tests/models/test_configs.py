"""Every shipped config: its network has exactly the tensors of the published file."""

import dataclasses
import gzip
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from models import CONFIG_CLASSES, MODELS, build_model
from utils.config import load_config
from utils.weights.edm_keys import to_adm
from utils.weights.tensor_file import Stored

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")
)
MANIFESTS = json.loads(gzip.decompress((ROOT / "tests/golden/manifests/state_dicts.json.gz").read_bytes()))
GALAXIES = {"hsc32": 32, "hsc64": 64, "ztf32": 32, "ztf64": 64, "lsst60": 60, "roman120": 120, "quasar72": 72}
"""Networks whose files have no names for their tensors, so no manifest; tests/real loads some of them."""
SDE = [f"SampsonML/galaxygrad/{name}" for name in GALAXIES]
RECORDED = [name for name, facts in MANIFESTS["checkpoints"].items() if "process" in facts["diffusion"]]
EDM = json.loads(gzip.decompress((ROOT / "tests/golden/manifests/edm_state_dicts.json.gz").read_bytes()))
EDM_SIZES = {"m": 498, "l": 777, "xl": 1119}
"""Networks of EDM2 of which no keys were recorded, and their parameters in millions, as the paper states."""
NVLABS = [name for name in CONFIGS if name.startswith("NVlabs/")]
OTHERS = RECORDED + SDE + [name for name in NVLABS if not name.endswith("baseline-imagenet-64x64-cond-adm")]
"""Of no vp process."""
SAME_NETWORK = {
    "andreas128/RePaint/celeba256_250000": "openai/guided-diffusion/256x256_diffusion_uncond",
    "jychoi118/ilvr_adm/ffhq_10m": "jychoi118/ilvr_adm/afhqdog_p2",
    "ChenWu98/cycle-diffusion/cat_ema_0.9999_050000": "jychoi118/ilvr_adm/afhqdog_p2",
    "ChenWu98/cycle-diffusion/wild_ema_0.9999_050000": "jychoi118/ilvr_adm/afhqdog_p2",
}


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())


def model_config(name: str):
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in read(name)["model"].items()}
    return MODELS[fields.pop("name")][0](**fields)


@cache
def tensors(name: str) -> list[list]:
    with torch.device("meta"):
        network = build_model(model_config(name))
    state = network.state_dict()
    assert not any(tensor.is_meta for key, tensor in network.named_buffers() if key not in state)
    return [
        [key, list(tensor.shape)] + ([] if tensor.dtype == torch.float32 else [str(tensor.dtype)[6:]])
        for key, tensor in state.items()
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_accepted_as_the_commands_read_it(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml", CONFIG_CLASSES)
    assert config.model == model_config(name)
    said = {key: getattr(config.diffusion, key) for key in read(name)["diffusion"]}
    assert {key: list(x) if isinstance(x, tuple) else x for key, x in said.items()} == read(name)["diffusion"]


@pytest.mark.parametrize("name", MANIFESTS["checkpoints"])
def test_keys_and_shapes_are_those_of_the_checkpoint_in_order(name):
    facts = MANIFESTS["checkpoints"][name]
    assert tensors(name) == MANIFESTS["state_dicts"][facts["state_dict"]]


@pytest.mark.parametrize("name", EDM["checkpoints"])
def test_keys_and_shapes_are_those_of_nvlabs(name):
    recorded = EDM["state_dicts"][EDM["checkpoints"][name]]
    if name.endswith("-adm"):
        named = {key: Stored(torch.Size(shape), None) for key, shape in recorded}
        recorded = [[key, list(stored.shape)] for key, stored in to_adm(named).items()]
        assert dict(recorded) == dict(tensors(name))
    else:
        assert recorded == tensors(name)


@pytest.mark.parametrize(("size", "expected"), EDM_SIZES.items())
def test_sizes_of_the_larger_networks_of_edm2(size, expected):
    shapes = dict(tensors(f"NVlabs/edm2/edm2-img64-{size}"))
    assert round(sum(torch.Size(shape).numel() for shape in shapes.values()) / 1e6) == expected


@pytest.mark.parametrize("name", NVLABS)
def test_preconditioning_is_that_of_the_published_class(name):
    kind = name.rpartition("-")[2]
    if kind == "adm" and "/baseline-" in name:  # openai's network, whose table of sigma is that of its betas
        assert read(name)["diffusion"] == read("openai/guided-diffusion/64x64_diffusion")["diffusion"]
        return
    low = 0.02 if name.endswith("-ve") and "/baseline-" in name else 0.002  # VEPrecond knows no less
    assert read(name)["diffusion"] == {
        **{"process": "edm", "num_timesteps": 1000, "sigma_min": low, "sigma_max": 80},
        **{"prediction": "x0", "preconditioning": kind if "/baseline-" in name else "edm", "clip": None},
    }


@pytest.mark.parametrize("name", RECORDED)
def test_noise_levels_are_those_of_the_training(name):
    section = read(name)["diffusion"]
    assert section == MANIFESTS["checkpoints"][name]["diffusion"]
    if section["process"] == "ve":
        assert section["num_timesteps"] == model_config(name).num_scales


@pytest.mark.parametrize("name", [name for name in MANIFESTS["checkpoints"] if name not in OTHERS])
def test_diffusion_is_that_of_the_training(name):
    section, recorded = read(name)["diffusion"], MANIFESTS["checkpoints"][name]["diffusion"]
    assert section["prediction"] == "eps"
    assert section["num_timesteps"] == recorded["num_timesteps"]
    assert section["schedule"] == recorded["schedule"]
    assert section["var_type"].replace("_", "") == recorded["var_type"].replace("_", "")
    if section["schedule"] != "cosine":
        ends = recorded.get("beta_start", 1e-4), recorded.get("beta_end", 0.02)
        assert (section["beta_start"], section["beta_end"]) == ends


@pytest.mark.parametrize(("name", "other"), SAME_NETWORK.items())
def test_files_of_other_owners_hold_a_known_network(name, other):
    assert model_config(name) == model_config(other)
    assert read(name)["diffusion"] == read(other)["diffusion"]


def test_size_of_the_small_adm():
    assert sum(torch.Size(shape).numel() for _, shape in tensors("jychoi118/ilvr_adm/afhqdog_p2")) == 93563910


@pytest.mark.parametrize("name", CONFIGS)
def test_sections_are_complete_and_agree(name):
    raw, config = read(name), model_config(name)
    assert set(raw) <= {"model", "diffusion", "classes", "null_class"}
    if raw["model"]["name"] != "adm_classifier":
        learned = name not in OTHERS and raw["diffusion"]["var_type"] == "learned_range"
        assert config.out_channels == getattr(config, "image_channels", config.in_channels) * (
            2 if learned else 1
        )
    if name not in OTHERS:
        assert ("beta_start" in raw["diffusion"]) == (raw["diffusion"]["schedule"] != "cosine")
    if name not in SDE:
        sizes = {config.image_size >> level for level in range(len(config.channel_mult))}
        assert set(config.attention_resolutions) <= sizes
    if "classes" in raw:
        assert len(set(raw["classes"])) == len(raw["classes"])
        assert len(raw["classes"]) + ("null_class" in raw) == config.num_classes


@pytest.mark.parametrize("name", CONFIGS)
def test_defaults_are_left_out_and_the_source_is_named(name):
    text, section = (ROOT / "configs" / f"{name}.yaml").read_text(), read(name)["model"]
    assert text.startswith("# ")
    assert "Weights: " in text
    for field in dataclasses.fields(MODELS[section["name"]][0]):
        if field.name in section and not name.startswith("demo/"):
            value = section[field.name]
            assert (tuple(value) if isinstance(value, list) else value) != field.default, field.name


@pytest.mark.parametrize(("name", "size"), GALAXIES.items())
def test_galaxies_differ_in_their_size_alone(name, size):
    raw = read(f"SampsonML/galaxygrad/{name}")
    assert raw["model"] == {"name": "mixer", "image_size": size}
    assert raw["diffusion"] == {
        **{"process": "vp_sde", "num_timesteps": 1000, "beta": 1, "t_min": 0.001, "t_max": 10},
        **{"prediction": "score", "clip": None, "image_range": [-1, 17]},
    }


IMPROVED = [path.stem for path in ROOT.glob("configs/openai/improved-diffusion/*.yaml")]


@pytest.mark.parametrize("name", IMPROVED)
def test_improved_diffusion(name):
    """The files' names say how many parameters there are, roughly; which are told timesteps of 1000."""
    path = f"openai/improved-diffusion/{name}"
    said = int(re.search(r"_([0-9]+)M_", name)[1]) * 1e6
    assert said < sum(torch.Size(shape).numel() for _, shape in tensors(path)) < 1.25 * said
    section = read(path)["diffusion"]
    rescaled = section["num_timesteps"] == 4000 and "uncond" in name
    assert section.get("rescale_timesteps", False) == rescaled


def test_every_config_is_accounted_for():
    others = {"jychoi118/ilvr_adm/afhqdog_p2", "demo/fruits64", "demo/fruits64_ve"}
    others |= {f"openai/improved-diffusion/{name}" for name in IMPROVED} | set(SDE)
    others |= {"openai/glide-text2im/base", "openai/glide-text2im/upsample"}
    others |= {f"NVlabs/edm2/edm2-img64-{size}" for size in EDM_SIZES}
    recorded = MANIFESTS["checkpoints"].keys() | EDM["checkpoints"].keys()
    assert set(CONFIGS) == recorded | SAME_NETWORK.keys() | others


def test_names_of_the_networks():
    images = ["adm", "adm_classifier", "ddpm_unet", "diffusers_unet", "edm2_unet", "lucidrains_unet"]
    images[5:5] = ["glide"]
    images += ["mixer", "ncsnpp", "song_unet", "xyf_unet", "xyf_adagn"]
    assert set(MODELS) == {*images, "ddib_mlp", "point_mlp", "text_unet"}
    assert list(CONFIG_CLASSES) == images  # what a config of the commands may name
    for name, (config_class, _) in MODELS.items():
        fields = {field.name for field in dataclasses.fields(config_class)}
        assert {"in_channels", "out_channels"} <= fields
        assert ("image_size" in fields) == (name in [*images, "text_unet"])
        assert config_class.__dataclass_params__.frozen


def test_a_config_of_no_network_is_refused():
    with pytest.raises(ValueError, match="type dict; known are ADMConfig, ADMClassifierConfig"):
        build_model({"name": "adm"})
