"""A checkpoint is recognised by its keys: family, config, and what is wrong with the one that was given."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import CONFIG_CLASSES, MODELS, build_empty, build_model
from models.ddib_mlp import DDIBMLPConfig
from models.point_mlp import PointMLPConfig
from utils.config import load_config
from utils.weights.checkpoint import Checkpoint, load_weights, open_checkpoint, read_weights, shapes_of
from utils.weights.diffusers_keys import Structure, key_pairs
from utils.weights.layout import State, find_states, to_published
from utils.weights.recognize import CONFIGS, Shelf, family, read_config, stranger
from utils.weights.tensor_file import Stored

ROOT = CONFIGS.parent
MANIFESTS = json.loads(gzip.decompress((ROOT / "tests/golden/manifests/state_dicts.json.gz").read_bytes()))
EDM = json.loads(gzip.decompress((ROOT / "tests/golden/manifests/edm_state_dicts.json.gz").read_bytes()))
SHELF = Shelf(CONFIG_CLASSES, build_empty)


def checkpoint(shapes, name="x.pt", where="", made_by=None):
    named = {key: Stored(torch.Size(shape), None) for key, shape in shapes.items()}
    states = to_published(find_states({where: named} if where else named, None))
    return Checkpoint(Path(name), states, made_by)


def manifest(name):
    return {row[0]: row[1] for row in MANIFESTS["state_dicts"][MANIFESTS["checkpoints"][name]["state_dict"]]}


@pytest.mark.parametrize("name", MANIFESTS["checkpoints"])
def test_every_published_checkpoint_is_recognised_by_its_keys(name):
    shapes = manifest(name)
    config = load_config(CONFIGS / f"{name}.yaml", CONFIG_CLASSES)
    assert MODELS[family(shapes)][0] is type(config.model)
    assert CONFIGS / f"{name}.yaml" in SHELF.matching(checkpoint(shapes))
    assert SHELF.find(checkpoint(shapes, f"{name}.pt"), name) == CONFIGS / f"{name}.yaml"


@pytest.mark.parametrize("name", EDM["checkpoints"])
def test_every_pickle_of_nvlabs_is_recognised_by_its_keys(name):
    """Below ema, where their programs put a prefix before a network's own keys."""
    prefix = "unet." if "/edm2/" in name else "model."
    shapes = {prefix + key: shape for key, shape in EDM["state_dicts"][EDM["checkpoints"][name]]}
    found = SHELF.find(checkpoint(shapes, f"{name.rpartition('/')[2]}-0134217-0.110.pkl", "ema"))
    same = {"baseline-imagenet-64x64-cond-adm": "openai/guided-diffusion/64x64_diffusion"}
    assert found in (CONFIGS / f"{name}.yaml", CONFIGS / f"{same.get(name.rpartition('/')[2])}.yaml")


def test_what_surrounds_a_network_is_what_its_pickle_says():
    """Its name and its tensors may be those of several configs."""
    shapes = {f"model.{key}": shape for key, shape in EDM["state_dicts"]["edm-cifar10-32x32-uncond-vp"]}
    for made_by in ("EDMPrecond", None):
        found = SHELF.find(checkpoint(shapes, "network-snapshot.pkl", "ema", made_by))
        assert found.stem == "edm-cifar10-32x32-uncond-vp"
    with pytest.raises(ValueError, match="it was made as VPPrecond; write a config with preconditioning: vp"):
        SHELF.find(checkpoint(shapes, "network-snapshot.pkl", "ema", "VPPrecond"))


@pytest.mark.parametrize("config", [DDIBMLPConfig(), PointMLPConfig()])
def test_networks_of_points_are_recognised_but_have_no_configs(config):
    with torch.device("meta"):
        state = build_model(config).state_dict()
    found = checkpoint({key: tensor.shape for key, tensor in state.items()})
    assert MODELS[family(found.views()[0])][0] is type(config)
    with pytest.raises(
        ValueError, match=f"of the family {family(found.views()[0])}, a network for points, and"
    ):
        SHELF.find(found)


def test_the_name_of_the_file_decides_between_equal_networks():
    shapes = manifest("openai/guided-diffusion/lsun_cat")
    for stem in ("lsun_horse", "lsun_horse_nodropout", "celeba256_250000"):
        assert SHELF.find(checkpoint(shapes, f"/a/{stem}.pt")).stem == stem
    assert SHELF.find(checkpoint(shapes, "1a2b3c4d-lsun_bedroom.pt")).stem == "lsun_bedroom"
    assert SHELF.find(checkpoint(shapes, "mine.pt")) in SHELF.matching(
        checkpoint(shapes)
    )  # any: all are alike


def test_equal_networks_that_sample_differently_are_not_guessed():
    weights = ROOT / "weights/fruits64.safetensors"
    assert SHELF.find(open_checkpoint(weights)).stem == "fruits64"
    shapes = shapes_of(open_checkpoint(weights).views()[0])
    with pytest.raises(
        ValueError, match=r"sample differently: configs/demo/fruits64.yaml or .*_ve.yaml; give"
    ):
        SHELF.find(checkpoint(shapes, "mine.pt"))


@pytest.mark.parametrize("sigma_max", [348, 378, 380])
def test_noise_levels_in_the_file_decide(sigma_max):
    shapes = manifest("yang-song/score_sde_pytorch/church_ncsnpp_continuous")
    found = checkpoint(shapes)
    levels = torch.linspace(sigma_max, 0.01, 2000)
    found.states[0].named["sigmas"] = Stored(levels.shape, lambda: levels)
    config = load_config(SHELF.find(found), CONFIG_CLASSES)
    assert config.diffusion.sigma_max == sigma_max


@pytest.mark.parametrize("name", ["pesser/pytorch_diffusion/cifar10", "ermongroup/SDEdit/celeba_hq"])
def test_a_file_of_diffusers_alone_is_recognised(name, tmp_path):
    shapes = manifest(name)
    attention = {1} if "cifar" in name else {4}
    pairs = key_pairs("ddpm_unet", Structure(4 if "cifar" in name else 6, 2, frozenset(attention)))
    assert set(shapes) < set(pairs)
    squeezed = (".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")
    tensors = {
        pairs[key]: torch.zeros(shape[:2] if key.endswith(squeezed) else shape, dtype=torch.float16)
        for key, shape in shapes.items()
    }
    if "celeba" in name:  # as diffusers named them at first
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        for key in [key for key in tensors if "attentions" in key]:
            new, value = key, tensors.pop(key)
            for today, then in old.items():
                new = new.replace(f".{today}.", f".{then}.")
            tensors[new] = value
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    found = open_checkpoint(tmp_path / "diffusion_pytorch_model.safetensors")
    assert CONFIGS / f"{name}.yaml" in SHELF.matching(found)


def test_an_ncsnpp_of_diffusers_needs_its_folder():
    shapes = manifest("yang-song/score_sde_pytorch/church_ncsnpp_continuous")
    del shapes["sigmas"]
    found = checkpoint(shapes)
    assert {path.parent.name for path in SHELF.matching(found)} == {"score_sde_pytorch"}
    with pytest.raises(ValueError, match=r"saved by diffusers; give the folder with their config.json"):
        SHELF.find(found)


@pytest.mark.parametrize("nested", [False, True])
def test_a_list_is_recognised_by_its_shapes(nested):
    shapes = manifest("xyfJASON/diffusion-models-pytorch/ddpm_mnist")
    listed = [Stored(torch.Size(shape), None) for shape in shapes.values()]
    assert SHELF.find(Checkpoint(Path("ema.pt"), [State("", listed=listed)])).stem == "ddpm_mnist"
    with pytest.raises(ValueError, match="a list of tensors that fits no config"):
        SHELF.find(Checkpoint(Path("ema.pt"), [State("", listed=listed[: -1 if nested else 1])]))


def test_another_size_of_a_known_family_is_compared_with_the_nearest():
    shapes = dict(manifest("pesser/pytorch_diffusion/cifar10"))
    shapes["conv_in.weight"] = [128, 1, 3, 3]
    with pytest.raises(
        ValueError, match=r"family ddpm_unet, but of another size(.|\n)*cifar10.yaml"
    ) as caught:
        SHELF.find(checkpoint(shapes))
    assert "conv_in.weight is [128, 1, 3, 3] in the file and [128, 3, 3, 3] in the network" in str(
        caught.value
    )
    assert str(caught.value).endswith("write a config for them: python -m tools.describe FILE prints one")


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "a latent diffusion model"),
        ("unet.mid.lora_A.weight", "a LoRA"),
        ("layer1.0.conv1.weight", "none of our families; its keys begin layer1.0.conv1.weight"),
    ],
)
def test_strangers_are_named(key, what):
    assert family([key]) is None
    assert what in stranger([key])
    with pytest.raises(ValueError, match=what):
        SHELF.find(checkpoint({key: [1]}))


def test_the_wrong_config_is_answered_with_the_right_one():
    weights = ROOT / "weights/fruits64.safetensors"
    wrong = load_config(CONFIGS / "openai/guided-diffusion/64x64_diffusion.yaml", CONFIG_CLASSES)
    with pytest.raises(ValueError, match="do not fit the config's network") as caught:
        load_weights(weights, SHELF.shapes(wrong.model), SHELF.describe)
    message = str(caught.value)
    assert (
        "they are of configs/demo/fruits64.yaml or configs/demo/fruits64_ve.yaml; give it with -c" in message
    )
    assert "missing: input_blocks" in message
    assert "time_embed.0.weight is [128, 32] in the file and [768, 192] in the network" in message


def test_one_wrong_number_of_an_own_config_is_said_first():
    demo = load_config(CONFIGS / "demo/fruits64.yaml", CONFIG_CLASSES).model
    right = dataclasses.replace(demo, num_res_blocks=demo.num_res_blocks + 1)
    own = checkpoint(SHELF.shapes(right))
    wrong = dataclasses.replace(right, out_channels=6)
    with pytest.raises(
        ValueError, match=r"what these tensors tell \(python .*\n  other shape: out\.2\.weight"
    ) as caught:
        read_weights(own, SHELF.shapes(wrong), SHELF.describe)
    assert "nearest" not in str(caught.value)
    other = load_config(CONFIGS / "pesser/pytorch_diffusion/cifar10.yaml", CONFIG_CLASSES).model
    with pytest.raises(ValueError, match=r"the nearest config is .*fruits64.*, not the given one\n  missing"):
        read_weights(own, SHELF.shapes(other), SHELF.describe)


def test_what_lies_under_wrappers_is_recognised(tmp_path):
    state = load_file(ROOT / "weights/fruits64.safetensors")
    ema = {f"ema_model.model.{key}": tensor for key, tensor in state.items()}
    torch.save({"step": 1, "model": {"x": torch.ones(1)}, "ema": ema}, tmp_path / "fruits64.pt")
    assert SHELF.find(open_checkpoint(tmp_path / "fruits64.pt")).stem == "fruits64"


def test_the_shelf_reads_any_folder_of_configs(tmp_path):
    shutil.copy(CONFIGS / "demo/fruits64.yaml", tmp_path / "mine.yaml")
    shelf = Shelf(CONFIG_CLASSES, build_empty, tmp_path)
    state = load_file(ROOT / "weights/fruits64.safetensors")
    save_file(state, tmp_path / "w.safetensors")
    assert shelf.find(open_checkpoint(tmp_path / "w.safetensors")) == tmp_path / "mine.yaml"


def test_a_config_of_diffusers_cannot_be_overridden(tmp_path):
    with pytest.raises(ValueError, match="nothing can be overridden here"):
        read_config(tmp_path / "config.json", CONFIG_CLASSES, ["diffusion.var_type=fixed_large"])
    path = CONFIGS / "demo/fruits64.yaml"
    assert read_config(path, CONFIG_CLASSES) == load_config(path, CONFIG_CLASSES)
