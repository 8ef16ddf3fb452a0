"""Folders of diffusers, made and loaded by diffusers itself: equal outputs, equal pictures, and back."""

import copy
import json
import shutil

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, ScoreSdeVeScheduler, UNet2DModel

from diffusions import DDIM, make_schedule, respace
from models import CONFIG_CLASSES, build_empty, build_model
from tools.convert import main as convert
from utils import log, sampling
from utils.config import Config, DiffusionConfig, load_config
from utils.sampling.processes import make_process
from utils.settings import Edit
from utils.weights.checkpoint import load_weights, open_checkpoint
from utils.weights.diffusers_folder import read_config
from utils.weights.diffusers_keys import Structure, key_pairs
from utils.weights.diffusers_scheduler import read_clip
from utils.weights.diffusers_writer import _scheduler_facts
from utils.weights.recognize import CONFIGS, Shelf

DDPM = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
NCSNPP = {
    "sample_size": 16,
    "block_out_channels": (32, 128, 128),
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "norm_num_groups": None,
    "mid_block_scale_factor": 2**0.5,
    "time_embedding_type": "fourier",
    "center_input_sample": True,
}
SHELF = Shelf(CONFIG_CLASSES, build_empty)


def network_of(facts, seed=0):
    """Return a network of diffusers whose tensors are all random, none zero."""
    torch.manual_seed(seed)
    network = UNet2DModel(**facts).eval()
    for name, parameter in network.named_parameters():
        noise = torch.randn_like(parameter) * 0.05
        parameter.data = 1 + noise if "norm" in name and name.endswith("weight") else parameter + noise
    return network


def scheduler_of(facts):
    if "time_embedding_type" in facts:
        return ScoreSdeVeScheduler(num_train_timesteps=20, sigma_min=0.01, sigma_max=50)
    return DDPMScheduler(num_train_timesteps=1000, variance_type="fixed_large")


@pytest.fixture(params=["ddpm", "ncsnpp"], scope="module")
def made(request, tmp_path_factory):
    """Return a network of diffusers and the pipeline's folder that it was saved to."""
    facts, folder = {"ddpm": DDPM, "ncsnpp": NCSNPP}[request.param], tmp_path_factory.mktemp("made")
    network = network_of(facts)
    network.save_pretrained(folder / "unet")
    scheduler_of(facts).save_pretrained(folder / "scheduler")
    return facts, network, folder


def ours(folder):
    config = read_config(folder, CONFIG_CLASSES)
    with torch.device("meta"):
        network = build_model(config.model)
    state = load_weights(folder, SHELF.shapes(config.model))
    network.load_state_dict(state, strict=True, assign=True)
    return config, network.eval()


def difference(a, b, facts):
    """Return the largest difference of two networks, before any division by sigma.

    In float64 where both evaluate all of an NCSN++ in it. In float32 theirs rounds the angles of the Fourier
    embedding, which ours never does: that alone was measured to move outputs by 2.7e-5.
    """
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t, scale = torch.tensor([7, 900]), 1.0
    if "time_embedding_type" in facts:
        a, b, x = copy.deepcopy(a).double(), copy.deepcopy(b).double(), x.double()
        t = torch.tensor([0.3, 40.0], dtype=torch.float64)
        scale = t[:, None, None, None]
    with torch.no_grad():
        outputs = [net(x, t) for net in (a, b)]
    first, second = (getattr(out, "sample", out) for out in outputs)
    assert first.std() > 0.01
    return float(((first - second) * scale).abs().max())


def bound(facts):
    return 1e-9 if "time_embedding_type" in facts else 2e-5  # measured 7e-12 and 4e-6


def test_outputs_are_equal(made):
    facts, network, folder = made
    assert difference(ours(folder)[1], network, facts) < bound(facts)


@pytest.mark.parametrize("layout", ["root", "unet alone", "bin", "old names"])
def test_every_layout_of_a_folder_loads(made, tmp_path, layout):
    facts, network, folder = made
    place = tmp_path if layout == "root" else tmp_path / "unet"
    network.save_pretrained(place, safe_serialization=layout != "bin")
    scheduler_of(facts).save_pretrained(tmp_path / ("" if layout == "root" else "scheduler"))
    if layout == "old names":
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        state = {}
        for name, tensor in network.state_dict().items():
            for today, then in old.items():
                name = name.replace(f".{today}.", f".{then}.") if ".attentions." in name else name
            state["time_proj.W" if name == "time_proj.weight" else name] = tensor
        (place / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(state, place / "diffusion_pytorch_model.bin")
    config, loaded = ours(place if layout == "unet alone" else tmp_path)
    assert config == read_config(folder, CONFIG_CLASSES)
    assert difference(loaded, network, facts) < bound(facts)


@pytest.mark.parametrize("middle", ["w.safetensors", "w.pt", "folder"])
def test_converted_out_and_loaded_by_diffusers_it_is_equal_again(made, tmp_path, middle, capsys):
    facts, network, folder = made
    assert convert([str(folder), str(tmp_path / middle)]) == 0
    back = tmp_path / "back"
    config = [] if middle == "folder" else ["-c", str(tmp_path / "w.yaml")]
    assert convert([str(tmp_path / middle), str(back), *config]) == 0
    again = UNet2DModel.from_pretrained(back, subfolder="unet").eval()
    assert difference(again, network, facts) == 0
    state, first = again.state_dict(), network.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in first.items())
    assert difference(ours(back)[1], network, facts) < bound(facts)
    saved = json.loads((back / "scheduler/scheduler_config.json").read_text())
    for key, value in saved.items():
        assert key == "_class_name" or getattr(scheduler_of(facts).config, key) == value
    assert capsys.readouterr().out.count(" tensors, by ") == 2


def test_ddim_makes_equal_pictures(tmp_path):
    network = network_of(DDPM)
    network.save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    config, loaded = ours(tmp_path)
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="leading", set_alpha_to_one=True)
    pipeline = DDIMPipeline(network, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=10, output_type="np"
    ).images
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    d = config.diffusion
    schedule = make_schedule(d.schedule, d.num_timesteps, d.beta_start, d.beta_end)
    process = DDIM(schedule, respace("uniform-leading", 1000, 10), d.prediction, clip_denoised=False)
    with torch.no_grad():
        for level in range(10, 0, -1):
            x = process.step(loaded, x, level, level - 1)
    pictures = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert (pictures - torch.from_numpy(theirs)).abs().max() < 1e-4


def test_the_schedule_is_that_of_the_scheduler(tmp_path):
    network_of(DDPM).save_pretrained(tmp_path)
    for theirs, name in (("linear", "linear"), ("scaled_linear", "quad"), ("squaredcos_cap_v2", "cosine")):
        scheduler = DDPMScheduler(
            beta_schedule=theirs, prediction_type="v_prediction", variance_type="fixed_small_log"
        )
        scheduler.save_pretrained(tmp_path)
        diffusion = read_config(tmp_path, CONFIG_CLASSES).diffusion
        assert (diffusion.schedule, diffusion.prediction, diffusion.var_type) == (name, "v", "fixed_small")
        table = make_schedule(name, 1000, diffusion.beta_start, diffusion.beta_end).alphas_cumprod
        torch.testing.assert_close(table, scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "clip", "said"),
    [
        ({}, 1.0, ""),
        ({"clip_sample": False}, None, ""),
        ({"clip_sample_range": 3}, 3.0, ""),
        ({"thresholding": True, "dynamic_thresholding_ratio": 0.9}, 1.0, "thresholding True (x_0 is clipped"),
        ({"set_alpha_to_one": False}, 1.0, "set_alpha_to_one False (here level 0 is always the clean image)"),
        ({"timestep_spacing": "trailing"}, 1.0, "timestep_spacing 'trailing' (--respace_type"),
        ({"steps_offset": 1}, 1.0, "steps_offset 1 (--respace_type"),
    ],
)
def test_how_the_scheduler_clips_is_obeyed_and_the_rest_is_said(tmp_path, capsys, fields, clip, said):
    (tmp_path / "config.json").write_text(json.dumps(DDPM))
    (tmp_path / "scheduler_config.json").write_text(json.dumps({**DDPMScheduler().config, **fields}))
    log.start()
    config = read_config(tmp_path, CONFIG_CLASSES)
    assert config.diffusion.clip == clip
    printed = capsys.readouterr().err
    assert said in printed
    assert bool(said) == ("is not followed" in printed)
    trained = sampling.read_trained(config)
    for words in ("ddpm", "ddim", "dpm-solver++"):
        edit = Edit(t0=(0.5,), sampler=words)
        process = make_process(edit, config, trained, [0, 500, 999])
        far = process.predict_guided(lambda x, t: -9 + 0 * x, torch.ones(1, 3, 2, 2), 2).x_0.max()
        assert far == clip if clip else far > 9


def test_clipping_goes_out_to_a_folder_again():
    for clip in (None, 1.0, 2.5):
        config = Config(model=None, diffusion=DiffusionConfig(num_timesteps=10, schedule="cosine", clip=clip))
        facts = _scheduler_facts(config)
        assert read_clip(facts) == clip
    for fields in ({"clip_sample": "no"}, {"clip_sample_range": 0}, {"clip_sample_range": True}):
        with pytest.raises(ValueError, match=f"{next(iter(fields))} .*: allowed"):
            read_clip(fields)


def test_noise_levels_are_added(tmp_path):
    network_of(NCSNPP).save_pretrained(tmp_path)
    ScoreSdeVeScheduler(num_train_timesteps=20, sigma_min=0.01, sigma_max=50).save_pretrained(tmp_path)
    config = read_config(tmp_path, CONFIG_CLASSES)
    assert (config.diffusion.sigma_max, config.model.num_scales, config.model.centered) == (50, 20, False)
    sigmas = load_weights(tmp_path, SHELF.shapes(config.model))["sigmas"]
    assert sigmas[[0, -1]].tolist() == pytest.approx([50, 0.01])


@pytest.fixture
def no_diffusers(monkeypatch):
    """Let diffusers seem not to be installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.usefixtures("no_diffusers")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention_head_dim": 8},
            r"attention_head_dim: found 8, our network has None\npip install diffusers",
        ),
        ({"attention_head_dim": 8}, "attention_head_dim: found 8, our network has None"),
        ({"downsample_padding": 1}, "downsample_padding: found 1, our network has 0"),
        ({"norm_num_groups": 16}, "norm_num_groups: found 16, our network has 32"),
        ({"num_class_embeds": 5}, "num_class_embeds: found 5"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types: .*must mirror"),
        (
            {"down_block_types": ["ResnetDownsampleBlock2D"] * 3},
            "down_block_types: .*allowed are DownBlock2D",
        ),
        ({"block_out_channels": [32, 48, 64]}, "expected multiples of the first"),
        ({"block_out_channels": [32] * 99}, "expected up to 16 widths"),
        ({"block_out_channels": None}, "expected lists"),
        ({"layers_per_block": 10**9}, "layers_per_block: found 1000000000, expected a whole number"),
        ({"sample_size": "x"}, "sample_size: found 'x'"),
        ({"sample_size": True}, "sample_size: found True"),
        ({"freq_shift": True}, "freq_shift: found True, our network has 1"),
        ({"norm_eps": 10**400}, "norm_eps a whole number of 1329 bits: expected a number"),
        ({"norm_eps": float("inf")}, "norm_eps inf: expected a number"),
        ({"dropout": "much"}, "dropout: expected number, got 'much'"),
        ({"dropout": -1}, "dropout -1.0: allowed is 0 to 1"),
    ],
)
def test_another_network_is_refused_with_every_difference(tmp_path, changes, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**DDPM, **changes}))
    DDPMScheduler().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(tmp_path, CONFIG_CLASSES)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"trained_betas": [0.1]}, "trained_betas: 1 of 1000 timesteps"),
        ({"trained_betas": "all"}, "trained_betas: expected a list of numbers or null"),
        ({"rescale_betas_zero_snr": True}, "such a network predicts x0 or v, found eps"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid': allowed are linear"),
        ({"prediction_type": "flow"}, "prediction_type 'flow'"),
        ({"beta_start": None, "num_train_timesteps": "many"}, "num_timesteps: expected whole number"),
        ({"num_train_timesteps": True}, r"num_timesteps: expected whole number, got True \(bool\)"),
        ({"beta_end": True}, r"beta_end: expected number or null, got True"),
        ({"beta_end": float("nan")}, "beta_end nan: expected a number"),
        ({"beta_end": 10**400}, "beta_end a whole number of 1329 bits: expected a number"),
        ({"num_train_timesteps": 10**15}, "num_timesteps: expected whole number of at most"),
        ({"beta_schedule": ["linear"]}, "beta_schedule"),
        ("[]", "expected an object with fields"),
        ("{", "not readable as JSON"),
        (None, "has no scheduler_config.json; give a config"),
    ],
)
def test_another_schedule_is_refused(tmp_path, scheduler, message):
    (tmp_path / "config.json").write_text(json.dumps(DDPM))
    DDPMScheduler().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    if isinstance(scheduler, dict):
        scheduler = json.dumps({**json.loads(path.read_text()), **scheduler})
    path.write_text(scheduler) if scheduler else path.unlink()
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path, CONFIG_CLASSES)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"a folder without config.json or unet/config.json; give a checkpoint"
    ):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"has no weights; download the whole folder, with diffusion_"):
        open_checkpoint(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="its weights are in several files"):
        open_checkpoint(tmp_path)


def test_halves_and_averages_are_taken_and_what_lacks_is_named(tmp_path, caplog):
    network, average = network_of(DDPM), network_of(DDPM, seed=1)
    network.save_pretrained(tmp_path / "unet", variant="fp16")
    scheduler_of(DDPM).save_pretrained(tmp_path / "scheduler")
    assert difference(ours(tmp_path)[1], network, DDPM) < bound(DDPM)
    average.save_pretrained(tmp_path / "unet_ema")
    caplog.set_level("INFO")
    assert difference(ours(tmp_path)[1], average, DDPM) < bound(DDPM)
    assert "unet/config.json: runs on our ddpm_unet, which computes the same" in caplog.messages[0]
    assert caplog.messages[1:] == [f"{tmp_path.name}: took the EMA weights under unet_ema"]
    assert difference(ours(tmp_path / "unet")[1], network, DDPM) < bound(DDPM)
    assert caplog.messages[-1] == "unet: took the weights under unet"
    shutil.rmtree(tmp_path / "unet_ema")
    file = tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    with pytest.raises(ValueError, match=r"has only diffusion_pytorch_model\.non_ema\.safetensors; download"):
        open_checkpoint(tmp_path)


def test_narrow_attention_is_refused_because_diffusers_groups_otherwise(tmp_path, no_diffusers):
    (tmp_path / "config.json").write_text(json.dumps({**NCSNPP, "block_out_channels": [32, 64, 128]}))
    with pytest.raises(ValueError, match="below 128, diffusers groups channels otherwise"):
        read_config(tmp_path, CONFIG_CLASSES)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ddpm-cifar10-32", "pesser/pytorch_diffusion/cifar10.yaml"),
        ("ncsnpp-church-256", "yang-song/score_sde_pytorch/church_ncsnpp_continuous.yaml"),
    ],
)
def test_names_at_full_size_are_those_of_diffusers(name, path):
    config = load_config(CONFIGS / path, CONFIG_CLASSES)
    small, widths = (DDPM, (128, 256, 256, 256)) if "ddpm" in name else (NCSNPP, (128, 128, *[256] * 5))
    at, prefix = (1, "") if "ddpm" in name else (4, "Skip")
    down = [("Attn" if i == at else "") + f"{prefix}DownBlock2D" for i in range(len(widths))]
    facts = small | {
        "sample_size": config.model.image_size,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": down,
        "up_block_types": [block.replace("Down", "Up") for block in reversed(down)],
    }
    with torch.device("meta"):
        theirs = {key: tensor.shape for key, tensor in UNet2DModel(**facts).state_dict().items()}
    pairs = key_pairs("ddpm_unet" if "ddpm" in name else "ncsnpp", Structure.of(theirs))
    own = SHELF.shapes(config.model)
    named = {key: pairs[key] for key in own if key != "sigmas"}
    assert set(named.values()) == set(theirs)
    assert all(own[key].numel() == theirs[other].numel() for key, other in named.items())
