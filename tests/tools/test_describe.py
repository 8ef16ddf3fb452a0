"""The config of a checkpoint from its tensors: what they tell is exact, what they do not is marked."""

import dataclasses
import random

import pytest
import torch
import yaml
from safetensors.torch import save_file

from diffusions import make_schedule
from models import CONFIG_CLASSES, build_empty, build_model
from models.mixer import MixerConfig
from models.point_mlp import PointMLPConfig
from models.song_unet import ALLOWED
from tests.utils.weights.test_recognize import checkpoint
from tools import describe
from tools.description.fields import Guess, values
from tools.description.networks import NETWORKS
from tools.description.schedule import find_schedule
from utils.config import build_section, load_config
from utils.weights import CONFIGS, Shelf, open_checkpoint

SHELF = Shelf(CONFIG_CLASSES, build_empty)
HEADS = ("num_heads", "num_head_channels", "num_heads_upsample", "use_new_attention_order")
UNTOLD = {
    **{"xyf_unet": HEADS[:1], "xyf_adagn": HEADS[1:2], "adm": HEADS, "adm_classifier": HEADS},
    **{"edm2_unet": HEADS[1:2], "mixer": ("t_end",)},
    "ncsnpp": ("fir", "skip_rescale", "centered", "scale_by_sigma"),
}
"""By family: fields that no tensor tells."""
PUBLISHED = {
    path.relative_to(CONFIGS).with_suffix("").as_posix(): load_config(path, CONFIG_CLASSES)
    for path in sorted(CONFIGS.rglob("*.yaml"))
}
SCHEDULES = {"linear": (1e-4, 0.02), "quad": (0.00085, 0.012), "cosine": (), "sigmoid": ()}
DISTINCT = {config.model: name for name, config in PUBLISHED.items()}


def family_of(config):
    return next(name for name, cls in CONFIG_CLASSES.items() if type(config) is cls)


def check(config, image_size):
    """Compare a config with what its shapes tell, but for what they do not."""
    found = describe.find_network(SHELF, checkpoint(SHELF.shapes(config)), image_size)
    assert found.family == family_of(config)
    guessed = {key for key, field in found.fields.items() if isinstance(field, Guess)}
    allowed = UNTOLD.get(found.family, ())
    assert guessed <= {*allowed, *(() if image_size else ("image_size",))}
    whole = build_section(type(config), values(found.fields))
    untold = {*allowed, "dropout"} & {field.name for field in dataclasses.fields(config)}
    same = {key: getattr(config, key) for key in untold | {"label_optional"} & vars(config).keys()}
    assert dataclasses.replace(whole, **same) == config
    return whole


def draw(family, seed):
    """Return a random tiny config of a family."""
    rng = random.Random(f"{family} {seed}")
    if family == "mixer":
        return _draw_mixer(rng)
    levels = rng.randint(1, 4)
    channels = rng.choice([1, 3])
    fields = {
        "image_size": 8 << levels,
        "in_channels": channels,
        "out_channels": 10 if family == "adm_classifier" else channels * rng.choice([1, 2]),
        "model_channels": 64,
        "channel_mult": [rng.choice([1, 2, 3]) for _ in range(levels)],
        "attention_resolutions": [8 << level for level in range(levels, 0, -1) if rng.random() < 0.5],
    }
    if family != "lucidrains_unet":
        fields["num_res_blocks"] = rng.randint(1, 4)
    return build_section(CONFIG_CLASSES[family], fields | _own_fields(family, rng, levels))


def _draw_mixer(rng):
    patch, channels = rng.choice([2, 3]), rng.choice([1, 3])
    return MixerConfig(
        image_size=patch * rng.randint(1, 6),
        in_channels=channels,
        out_channels=channels,
        patch_size=patch,
        hidden=rng.choice([5, 8]),
        num_blocks=rng.randint(1, 3),
        mix_patches=rng.choice([7, 9]),
        mix_hidden=rng.choice([4, 6]),
        t_end=rng.choice([1.0, 10.0]),
    )


def _own_fields(family, rng, levels):
    def coin():
        return rng.random() < 0.5

    if family == "ncsnpp":
        fields = {"num_scales": rng.choice([7, 30]), "centered": coin()}
        if levels == 1:
            return fields
        kinds = {"progressive": rng.choice(["output_skip", "none"])}
        return fields | kinds | {"progressive_input": rng.choice(["input_skip", "residual"])}
    if family == "song_unet":
        fields = {"num_classes": rng.choice([None, 5]), "embedding": rng.choice(["positional", "fourier"])}
        fields |= {"channel_mult_noise": rng.choice([1, 2]), "augment_dim": rng.choice([0, 9])}
        kinds = {key: rng.choice(allowed) for key, allowed in ALLOWED.items() if key != "embedding"}
        return fields | ({key: _as_yaml(kind) for key, kind in kinds.items()} if levels > 1 else {})
    if family == "edm2_unet":
        widths = {"channel_mult_noise": rng.choice([None, 4]), "channel_mult_emb": rng.choice([None, 5])}
        mults = [rng.choice([1, 2, 3]) for _ in range(levels - 1)]
        return widths | {"num_classes": rng.choice([None, 5]), "channel_mult": [*mults, 1]}
    updown = levels > 1 and coin()
    convs = levels == 1 or updown or coin()
    if family == "ddpm_unet":
        return {"conv_resample": convs}
    if family == "xyf_adagn":
        return {"num_classes": 7, "num_head_channels": 16}
    if family == "lucidrains_unet":
        first, width = rng.choice([None, 20]), rng.choice([None, 16])
        return {"num_heads": 2, "num_head_channels": 8, "init_channels": first, "fourier_features": width}
    if family == "xyf_unet":
        return {"num_heads": 4}
    fields = {"resblock_updown": updown, "conv_resample": convs, "num_head_channels": 32}
    fields |= {"use_scale_shift_norm": coin(), "use_conv2d_attention": coin()}
    if family == "adm":
        halves = [rng.choice([0.5, 1, 1.5]) for _ in range(levels)]
        return fields | {"num_classes": rng.choice([None, 5]), "channel_mult": halves}
    return fields | {"pool": rng.choice(["adaptive", "attention"])}


def _as_yaml(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("seed", range(8))
def test_a_random_network_is_described_as_it_was_built(family, seed):
    config = draw(family, seed)
    check(config, config.image_size)


@pytest.mark.parametrize("name", [n for c, n in DISTINCT.items() if family_of(c) in NETWORKS])
def test_a_published_network_is_described_as_its_config_says(name):
    check(PUBLISHED[name].model, PUBLISHED[name].model.image_size)


def test_the_size_of_published_images_is_guessed_by_the_number_of_resolutions():
    for name in ("openai/guided-diffusion/256x256_diffusion", "openai/guided-diffusion/64x64_diffusion"):
        assert check(PUBLISHED[name].model, None).num_head_channels == 64
    for name in ("church", "cifar10", "ffhq_1024"):  # by what attends
        check(PUBLISHED[f"yang-song/score_sde_pytorch/{name}_ncsnpp_continuous"].model, None)


def write(path, family, seed=0, **buffers):
    """Write a random network, of tensors without sense, and what lies beside it."""
    config = draw(family, seed)
    state = {f"model.{key}": torch.zeros(shape) for key, shape in SHELF.shapes(config).items()}
    torch.save({"ema": state | buffers, "step": 3}, path)
    return config


@pytest.mark.parametrize("family", NETWORKS)
def test_what_is_printed_is_a_config(family, tmp_path, capsys):
    config = write(tmp_path / "own.pt", family)
    words = [str(tmp_path / "own.pt"), "--image_size", str(config.image_size)]
    assert describe.main(words) == 0
    (tmp_path / "own.yaml").write_text(capsys.readouterr().out)
    found = load_config(tmp_path / "own.yaml", CONFIG_CLASSES)
    assert SHELF.shapes(found.model) == SHELF.shapes(config)
    told = ("image_size", "attention_resolutions")
    assert all(getattr(found.model, key, None) == getattr(config, key, None) for key in told)


def marked(text):
    return {line.split(":")[0].strip() for line in text.splitlines() if "  # not told" in line}


def test_what_no_tensor_tells_is_marked(tmp_path):
    config = write(tmp_path / "own.pt", "adm", seed=15)
    assert config.num_classes == 5
    text = describe.describe(tmp_path / "own.pt")
    assert f"# {tmp_path}/own.pt, under ema.model: a network of the family adm.\n" in text
    diffusion = {"num_timesteps", "schedule", "beta_start", "beta_end", "prediction", "rescale_timesteps"}
    asked = {"image_size", "num_heads", "use_new_attention_order", "# classes", "# null_class"}
    learned = config.out_channels == 2 * config.in_channels
    assert marked(text) == diffusion | asked | (set() if learned else {"var_type"})


def test_attention_of_the_consistency_models_is_taken_for_theirs(tmp_path):
    config = write(tmp_path / "own.pt", "adm", seed=4)
    assert config.use_conv2d_attention
    text = describe.describe(tmp_path / "own.pt")
    assert marked(text) >= {"process", "sigma_min", "sigma_max", "preconditioning", "num_timesteps"}
    assert yaml.safe_load(text)["diffusion"]["preconditioning"] == "edm_250"


def test_the_levels_of_a_score_network_are_told(tmp_path):
    config = draw("ncsnpp", 1)
    levels = torch.logspace(2, -1, config.num_scales)
    write(tmp_path / "own.pt", "ncsnpp", seed=1, **{"model.sigmas": levels})
    text = describe.describe(tmp_path / "own.pt")
    told = {"num_timesteps": config.num_scales, "sigma_min": 0.1, "sigma_max": 100, "prediction": "score"}
    assert yaml.safe_load(text)["diffusion"] == {"process": "ve", **told}
    write(tmp_path / "none.pt", "ncsnpp", seed=1)
    assert {"sigma_min", "sigma_max"} <= marked(describe.describe(tmp_path / "none.pt"))


def test_a_shipped_config_of_other_levels_is_not_printed(tmp_path):
    model = PUBLISHED["yang-song/score_sde_pytorch/cifar10_ncsnpp_continuous"].model
    state = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in SHELF.shapes(model).items()}
    for largest, is_shipped in ((50, True), (90, False)):
        state["sigmas"] = torch.linspace(largest, 0.01, 1000)
        torch.save(state, tmp_path / "own.pt")
        text = describe.describe(tmp_path / "own.pt")
        assert ("configs/yang-song" in text) == is_shipped
        assert f"  sigma_max: {largest}" in text
    with pytest.raises(ValueError, match="but its noise levels reach 90; write a config for them"):
        SHELF.find(open_checkpoint(tmp_path / "own.pt"))


def test_what_a_file_of_equinox_tells(tmp_path):
    text = describe.describe(CONFIGS.parent / "tests/golden/galaxygrad/tiny.eqx")
    assert marked(text) == {"beta", "t_min", "image_range"}
    state = {key: torch.zeros(shape) for key, shape in SHELF.shapes(draw("mixer", 0)).items()}
    save_file(state, tmp_path / "own.safetensors")
    text = describe.describe(tmp_path / "own.safetensors")
    assert marked(text) == {"beta", "t_min", "image_range", "t_end", "t_max"}


@pytest.mark.parametrize("family", ["song_unet", "edm2_unet", "mixer"])
def test_a_size_that_is_not_that_of_the_tensors_is_refused(family, tmp_path):
    config = write(tmp_path / "own.pt", family)
    with pytest.raises(ValueError, match=f"--image_size 7: its tensors are of images of {config.image_size}"):
        describe.describe(tmp_path / "own.pt", image_size=7)


def test_networks_for_points_are_refused(tmp_path):
    torch.save(build_model(PointMLPConfig()).state_dict(), tmp_path / "own.pt")
    with pytest.raises(ValueError, match="of the family point_mlp, a network for points; configs and"):
        describe.describe(tmp_path / "own.pt")


@pytest.mark.parametrize("T", [1000, 250])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_schedule_is_found_by_its_tables(name, dtype, T):
    ends = tuple(end * 1000 / T for end in SCHEDULES[name])
    schedule = make_schedule(name, T, *ends)
    both = {"betas": schedule.betas.to(dtype).float()}
    if dtype == torch.float32:
        both["alphas_cumprod"] = schedule.alphas_cumprod.float()
    for table, numbers in both.items():
        found = find_schedule({table: numbers})
        assert (found["schedule"], found["num_timesteps"]) == (name, T)
        exact = 1e-6 if table == "betas" and dtype == torch.float32 else 2e-3
        assert tuple(found.values())[2:] == pytest.approx(ends, rel=exact)


@pytest.mark.parametrize("tables", [("betas",), ("alphas_cumprod",), ("betas", "alphas_cumprod")])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_without_its_last_signal_is_found(name, tables):
    schedule = make_schedule(name, 1000, *SCHEDULES[name]).without_last_signal()
    found = find_schedule({table: getattr(schedule, table).float() for table in tables})
    assert found.pop("rescale_betas_zero_snr")
    assert tuple(found.values()) == (1000, name, *SCHEDULES[name])


def test_betas_of_no_schedule_are_listed():
    """As exactly as float32 tells them apart; from alphas_cumprod so that these are the file's."""
    betas = torch.linspace(0.1, 0.5, 80) ** 3
    listed = find_schedule({"betas": betas})
    assert torch.tensor(listed["trained_betas"]).equal(betas)
    assert (listed["num_timesteps"], listed["trained_betas"][0]) == (80, 0.001)
    alphas = (1 - betas.double()).cumprod(dim=0).float()
    found = find_schedule({"alphas_cumprod": alphas})["trained_betas"]
    assert (1 - torch.tensor(found, dtype=torch.float64)).cumprod(dim=0).float().equal(alphas)
    assert find_schedule({"betas": betas, "alphas_cumprod": alphas}) == listed
    with pytest.raises(ValueError, match="cannot be listed: its tables contradict one another"):
        find_schedule({"betas": betas, "alphas_cumprod": alphas**2})
    with pytest.raises(ValueError, match="cannot be listed: a config lists at most 49000"):
        find_schedule({"betas": torch.linspace(0.1, 0.2, 49_001) ** 3})


@pytest.mark.parametrize("last", [1.0, 0.5])
def test_where_the_last_timestep_has_no_signal_v_is_usual(last, tmp_path):
    betas = torch.tensor([0.1, 0.3, 0.2, 0.4, last])
    write(tmp_path / "own.pt", "ddpm_unet", betas=betas)
    found = yaml.safe_load(describe.describe(tmp_path / "own.pt"))["diffusion"]
    assert found["trained_betas"] == pytest.approx(betas.tolist())
    assert found["prediction"] == ("v" if last == 1 else "eps")


def test_a_schedule_in_a_file_is_told(tmp_path):
    write(tmp_path / "own.pt", "ddpm_unet", betas=make_schedule("linear", 300, 3e-4, 0.06).betas.float())
    found = yaml.safe_load(describe.describe(tmp_path / "own.pt"))["diffusion"]
    wanted = {"num_timesteps": 300, "schedule": "linear", "beta_start": 3e-4, "beta_end": 0.06}
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("prediction", "weigh"), [("eps", torch.ones_like), ("x0", lambda s: s), ("v", lambda s: s / (s + 1))]
)
@pytest.mark.parametrize("bound", [5, float("inf")])
def test_what_lucidrains_predicts_is_told_by_the_weight_of_its_loss(prediction, weigh, bound, tmp_path):
    """weigh: of the unbounded signal to noise; the trainer bounds it where it is told to."""
    schedule = make_schedule("sigmoid", 100)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weight = weigh(snr) * (snr.clamp(max=bound) / snr)
    write(tmp_path / "own.pt", "lucidrains_unet", betas=schedule.betas.float(), loss_weight=weight.float())
    text = describe.describe(tmp_path / "own.pt")
    assert f"  prediction: {prediction}\n" in text
    assert "  schedule: sigmoid\n" in text


def test_a_shipped_config_is_printed_where_one_fits(tmp_path):
    path = CONFIGS.parent / "weights/fruits64.safetensors"
    text = describe.describe(path)
    assert text.startswith(f"# {path}: has exactly the tensors of configs/demo/fruits64.yaml; what")
    assert text.endswith((CONFIGS / "demo/fruits64.yaml").read_text())
    assert "configs" not in describe.describe(path, image_size=128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "holds no state dict"),
        (
            lambda state: state.update({"more.weight": torch.zeros(3)}),
            "exactly these tensors: unknown: more.weight",
        ),
        (lambda state: state.pop("mid.attn_1.q.bias"), "exactly these tensors: missing: mid.attn_1.q.bias"),
        (
            lambda state: state.pop("down.0.block.0.conv1.weight"),
            "but incomplete: 'down.0.block.0.conv1.weight'",
        ),
        (lambda state: state.pop("conv_in.weight"), "none of our families; its keys begin"),
        (
            lambda state: state.update(betas=torch.linspace(0.1, 1.2, 50) ** 3),
            "none of our schedules (linear, quad, const, cosine, sigmoid), and cannot be listed: betas must",
        ),
        (lambda state: state.update(betas=torch.zeros(0)), "betas: allowed are 1 to 100000 timesteps"),
    ],
)
def test_what_cannot_be_described_is_said_in_one_line(change, message, tmp_path, capsys):
    shapes = SHELF.shapes(draw("ddpm_unet", 0))
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    change(state)
    save_file(state, tmp_path / "own.safetensors")
    with pytest.raises(SystemExit) as ended:
        describe.main([str(tmp_path / "own.safetensors")])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_self_conditioning_is_refused_by_name(tmp_path, capsys):
    write(tmp_path / "own.pt", "lucidrains_unet")
    content = torch.load(tmp_path / "own.pt", weights_only=True)
    first = content["ema"]["model.init_conv.weight"]
    content["ema"]["model.init_conv.weight"] = torch.zeros(len(first), 6, 7, 7)
    torch.save(content, tmp_path / "own.pt")
    with pytest.raises(
        ValueError, match="self_condition true: networks that also take their last prediction"
    ):
        describe.describe(tmp_path / "own.pt")
