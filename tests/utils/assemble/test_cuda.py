"""Both methods on a GPU that is not there: what they ask of it, and when they wait for it.

Noise is drawn as ever, on the CPU and in a thread; its memory is not pinned, which takes a driver.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from tests.commands.command_case import CONFIG, MODEL
from tests.fake_cuda import CUDA, DOWNLOAD, READ, UPLOAD, Log, Reads, empty_weights, fake_cuda, with_values
from utils import jobs
from utils.assemble import edit_plan, translate_plan
from utils.sampling import guidance, networks
from utils.sampling.networks import Chosen, Files
from utils.sampling.processes import read_config, read_trained
from utils.settings import RECORDED, Edit, Translate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ITEMS = [jobs.Item("a.png", 0, "a_s00.png"), jobs.Item("b.png", 1, "b_s01.png")]
SHAPE = (3, 8, 8)
CATS_AND_DOGS = {"a.png": "cat", "b.png": "dog"}

WITH_CLASSES = {**MODEL, "image_size": 8, "channel_mult": [1], "attention_resolutions": [], "out_channels": 6}
WITHOUT = {key: value for key, value in WITH_CLASSES.items() if key != "num_classes"}
VP, VE = CONFIG["diffusion"], {"process": "ve", "sigma_min": 0.01, "sigma_max": 20.0}
EDM = {"process": "edm", "num_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "prediction": "x0"}
OF_SIGMA = {
    "edm": {**EDM, "preconditioning": "edm"},
    "consistency": {**EDM, "preconditioning": "consistency"},
    "vp_sde": {
        **{"process": "vp_sde", "num_timesteps": 40, "beta": 1.0, "t_min": 0.01, "t_max": 10.0},
        **{"prediction": "score", "clip": None, "image_range": [0.0, 10.0]},
    },
}
_MAIN = {"name": "adm", **WITH_CLASSES}
SCORES = {key: WITHOUT[key] for key in ("image_size", "model_channels", "channel_mult", "num_res_blocks")}
SCORES |= {"attention_resolutions": [], "num_scales": 100}
CONFIGS = {
    "main": {**CONFIG, "model": {"name": "adm", **WITH_CLASSES}},
    "other": {"model": {"name": "adm", **WITHOUT}, "diffusion": VP},
    "ve": {**CONFIG, "model": {"name": "adm", **WITH_CLASSES}, "diffusion": VP | VE},
    **{
        name: {**CONFIG, "model": {"name": "adm", **WITH_CLASSES}, "diffusion": x}
        for name, x in OF_SIGMA.items()
    },
    "scores": {
        "model": {"name": "ncsnpp", **SCORES},
        "diffusion": VE | {"num_timesteps": 100, "prediction": "score"},
    },
    "classifier": {
        "model": {"name": "adm_classifier", "pool": "adaptive", **WITHOUT, "out_channels": 3},
        "diffusion": VP,
        "classes": CONFIG["classes"],
    },
}


@dataclass
class Trial:
    """Runs the methods on a device that may not be there, and keeps what happened."""

    files: dict[str, Files]
    launch: jobs.Launch
    log: Log = field(default_factory=Log)
    num_calls: int = 0
    """Of the networks."""

    def edit(self, classes: dict[str, str] | None = None, maps: tuple[str, ...] = (), main="main", **options):
        """Return the results of each of two pictures."""
        given = Edit(**options)
        classes, config = classes or {}, read_config(self.files[main].config)
        trained, chosen = read_trained(config), self._chosen(given, main)
        means = edit_plan.find_means(given, chosen, config, trained, classes, masked=False)
        shapes = {"image": SHAPE} | dict.fromkeys(maps, (1, 8, 8))
        return self._run(lambda: edit_plan.build(means, self.launch, classes, self.log.tick), shapes)

    def translate(self, sources: dict[str, int] | None = None, **options):
        """Likewise."""
        given = Translate(**options)
        config = read_config(self.files["main"].config)
        ends, _ = translate_plan.find_ends(given, self._chosen(given, "main"), config)
        shapes = {"latent" if given.from_latents else "image": SHAPE}
        return self._run(lambda: translate_plan.build(ends, self.launch, sources, self.log.tick), shapes)

    def _chosen(self, method, main: str) -> Chosen:
        names = (getattr(method, "weights_B", None), *method.unconditional, *method.classifier)
        named = {name: self.files[name] for name in names if name}
        return Chosen(self.files[main], *(named.get(name) for name in ("other", "away", "classifier")))

    def _run(self, build: Callable, shapes: dict[str, tuple[int, ...]]):
        with self.place():
            batch, modules = build()
            device = self.launch.device
            tensors = {key: torch.zeros(2, *shape, device=device) for key, shape in shapes.items()}
            self.log.events.clear()
            with self._counted(modules):
                return batch(ITEMS, tensors)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Be on the device, in inference mode."""
        if self.launch.device == CUDA:
            with fake_cuda(self.log):
                yield
        else:
            with torch.inference_mode(), Reads(self.log):
                yield

    @contextmanager
    def _counted(self, modules: list[nn.Module]) -> Iterator[None]:
        def called(*given) -> None:
            self.num_calls += 1

        hooks = [module.register_forward_pre_hook(called) for module in modules]
        yield
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Files]:
    """Configs of tiny networks; there are no files of weights."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    found = {name: Files(folder / f"{name}.yaml", folder / f"{name}.pt") for name in CONFIGS}
    of_main = {name: Files(found[name].config, found["main"].weights) for name in ("ve", *OF_SIGMA)}
    return found | of_main | {"away": found["other"]}


@pytest.fixture(scope="module")
def loaded() -> dict[tuple[Path, jobs.Launch], nn.Module]:
    """Networks, each loaded once for a device and a precision."""
    return {}


@pytest.fixture
def trial(request, files, loaded, monkeypatch) -> Trial:
    """On the CPU, or on the GPU that is not there in a precision."""
    load = networks.load_module

    def load_once(config, weights: Path, launch: jobs.Launch) -> nn.Module:
        if (weights, launch) not in loaded:
            loaded[weights, launch] = load(config, weights, launch)
            if launch.device == CUDA:
                remember(loaded[weights, launch])
        return loaded[weights, launch]

    def random_weights(path, expected: dict[str, torch.Size], *rest) -> dict[str, Tensor]:
        return {key: 0.05 * torch.randn(shape) for key, shape in expected.items()}

    on_cpu = request.param == "cpu"
    monkeypatch.setattr(networks, "load_weights", random_weights if on_cpu else empty_weights)
    for room in (networks, guidance):
        monkeypatch.setattr(room, "load_module", load_once)
    for name in ("read_trained", "trained_alphas"):
        monkeypatch.setattr(networks, name, with_values(getattr(networks, name)))
    device = torch.device("cpu") if on_cpu else CUDA
    return Trial(files, jobs.Launch(0, 1, device, DTYPES.get(request.param, torch.float32)))


def remember(network: nn.Module) -> None:
    """Answer a call like one before by its shape: calls cost most of the time, and are all alike."""
    forward, seen = network.forward, {}

    def remembered(*given: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return forward(*given)
        devices = {parameter.device for parameter in network.parameters()}
        key = frozenset(devices), *((x.shape, x.dtype, x.device) for x in given)
        if key not in seen:
            seen[key] = forward(*given)
        return torch.empty_like(seen[key])

    network.forward = remembered


in_each_precision = pytest.mark.parametrize("trial", DTYPES, indirect=True)
in_one_precision = pytest.mark.parametrize("trial", ["bf16"], indirect=True)
also_on_the_cpu = pytest.mark.parametrize("trial", ["cpu", "bf16"], indirect=True)


def check(trial: Trial, rows, num_results: int = 1, num_frames: int | None = None) -> None:
    """Results are on the device, in float32, and of the shapes that are due."""
    for results in rows:
        assert len(results) == num_results
        for result in results:
            pictures = [result.image, result.before, result.after, result.trajectory]
            found = {(x.device, x.dtype) for x in pictures if x is not None}
            assert found == {(trial.launch.device, torch.float32)}
            assert result.image.shape == SHAPE
            if num_frames:
                assert result.trajectory.shape == (num_frames, *SHAPE)


SAMPLERS = {
    "fixed_small": {"var_type": "fixed_small"},
    "fixed_large": {"var_type": "fixed_large", "mask_noise": "fixed"},
    "learned_range": {"var_type": "learned_range"},
    **{name: {"sampler": name} for name in ("ddim", "dpm-solver++", "sde-dpm-solver++")},
}


@in_each_precision
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_waits_for_nothing(trial, name):
    """Not with masks, strengths, comparison and trajectory either; the labels come before the first step."""
    shown = {"comparison": True, "trajectory": 3}
    maps = ("mask", "strength")
    rows = trial.edit(CATS_AND_DOGS, maps, respace_steps=3, edit_steps=(3,), **shown, **SAMPLERS[name])
    check(trial, rows, num_frames=3)
    assert trial.log.events == {(0, UPLOAD): 1}
    assert trial.log.step == trial.num_calls == 3


@in_one_precision
def test_levels_and_repeats_wait_for_nothing(trial):
    rows = trial.edit(respace_steps=3, edit_steps=(1, 3), repeats=2, trajectory=3)
    check(trial, rows, num_results=2, num_frames=3)
    assert trial.log.events == {(0, UPLOAD): 1, (2, UPLOAD): 1}  # of each level: the label for no class
    assert trial.log.step == 8


@in_each_precision
def test_tiles_wait_at_the_first_step_alone(trial, monkeypatch):
    """For the labels, which tile is whose, and the windows."""
    shape = (3, 16, 12)
    monkeypatch.setattr(f"{__name__}.SHAPE", shape)
    rows = trial.edit(CATS_AND_DOGS, respace_steps=3, edit_steps=(3,), tiles=True, guidance_scale=2.0)
    check(trial, rows)
    assert trial.log.events == {(0, UPLOAD): 1, (1, UPLOAD): 2}
    assert trial.num_calls == 3 * 2 * -(-2 * 3 * 2 // trial.launch.micro_batch)


GUIDES = {
    "null class": ({"guidance_scale": 2.0}, 2),
    "network": ({"guidance_scale": 2.0, "unconditional": ("away",)}, 2),
    "classifier": ({"classifier": ("classifier",)}, 2),
    "both": ({"guidance_scale": 2.0, "classifier": ("classifier",), "sampler": "dpm-solver++"}, 3),
}


@pytest.mark.parametrize("trial", ["cpu", *DTYPES], indirect=True)
@pytest.mark.parametrize("name", GUIDES)
def test_guidance_waits_for_nothing(trial, name):
    """A classifier has its gradient where it was loaded in inference mode, as from Python."""
    options, calls_a_step = GUIDES[name]
    check(trial, trial.edit(CATS_AND_DOGS, respace_steps=2, edit_steps=(2,), **options))
    labels = {(0, UPLOAD): 2 if "classifier" in options else 1}  # of each network
    assert trial.log.events == ({} if trial.launch.device.type == "cpu" else labels)
    assert trial.num_calls == 2 * calls_a_step


@in_each_precision
@pytest.mark.parametrize(("main", "events"), [("scores", {}), ("ve", {(0, UPLOAD): 1, (1, UPLOAD): 1})])
def test_ve_waits_at_most_once(trial, main, events):
    """For the labels, and for the table by which a network that was trained otherwise finds its timestep."""
    check(trial, trial.edit(main=main, respace_steps=2, edit_steps=(2,), corrector_steps=2))
    assert trial.log.events == events
    assert trial.num_calls == 6


@in_each_precision
@pytest.mark.parametrize(("main", "num_calls"), [("edm", 5), ("consistency", 3), ("vp_sde", 5)])
def test_a_network_of_sigma_waits_for_nothing(trial, main, num_calls):
    """Of Heun the last step makes one call."""
    sampler = None if main == "consistency" else "heun"
    given = {"respace_steps": 3, "edit_steps": (3,), "sampler": sampler}
    check(trial, trial.edit(CATS_AND_DOGS, ("mask",), main=main, **given))
    assert trial.log.events == {(0, UPLOAD): 1}
    assert trial.num_calls == num_calls


SOLVERS = {
    "ddim": {"solver": "ddim"},
    "source": {"inversion": "source"},
    **{name: {"solver": name} for name in ("heun", "dpm-solver++", "exact", *RECORDED)},
}


@in_each_precision
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_waits_for_nothing(trial, name):
    num_steps = 3 if name == "dpm-solver++" else 2
    options = {"class_A": "folder", "class_B": ("hen",), "respace_steps": num_steps, "trajectory": 4}
    check(trial, trial.translate({"a.png": 0, "b.png": 1}, **options, **SOLVERS[name]), num_frames=4)
    assert trial.log.events == {(0, UPLOAD): 1, (num_steps, UPLOAD): 1}  # labels, before each way
    assert trial.log.step == 2 * num_steps


@in_one_precision
def test_several_classes_and_guidance_wait_between_the_ways(trial):
    options = {"class_B": ("cat", "hen"), "guidance_scale": 2.0, "respace_steps": 2}
    check(trial, trial.translate(from_latents=True, **options), num_results=2)
    assert trial.log.events == {(0, UPLOAD): 1, (2, UPLOAD): 1}
    assert trial.num_calls == 2 * 2 * 2


@in_each_precision
def test_offloaded_networks_change_places_between_the_ways(trial, loaded):
    """A classifier too, in inference mode, and its gradient needs ordinary weights all the same."""
    options = {"weights_B": "other", "class_B": ("hen",), "classifier": ("classifier",), "respace_steps": 2}
    check(trial, trial.translate({"a.png": 0, "b.png": 1}, class_A="folder", offload=True, **options))
    names = ("main", "other", "classifier")
    here, *there = (loaded[trial.files[name].weights, trial.launch] for name in names)
    num_here, num_there = (sum(len([*x.parameters()]) for x in modules) for modules in ([here], there))
    moved = {(0, DOWNLOAD): num_there, (2, DOWNLOAD): num_here, (2, UPLOAD): num_there + 1}
    # A waited on the CPU while B was loaded; and the labels of the inputs, and of the classifier
    assert trial.log.events == {(0, UPLOAD): 1 + num_here} | moved
    assert {x.device.type for x in here.parameters()} == {"cpu"}
    with fake_cuda(Log()):
        here.to(CUDA)


@also_on_the_cpu
def test_an_edit_reads_no_value(trial):
    options = {"respace_steps": 3, "edit_steps": (3,), "guidance_scale": 2.0, "trajectory": 3}
    trial.edit(CATS_AND_DOGS, ("mask", "strength"), comparison=True, **options)
    assert trial.log.reads == {}


@also_on_the_cpu
def test_auto_t0_reads_once_an_edit(trial):
    rows = trial.edit(maps=("mask",), auto_t0=True, faithfulness=1e6, respace_steps=3)
    assert [result.notes["edit_steps"] for [result] in rows] == [3, 3]  # by way of level 2
    assert trial.log.reads == {2: 1, 5: 1}


@also_on_the_cpu
def test_cycle_reads_what_it_measures(trial):
    """Of a batch the error from A to A and four statistics, and of each class the error of the cycle."""
    options = {"class_A": "folder", "class_B": ("cat", "hen"), "cycle": True, "respace_steps": 2}
    trial.translate({"a.png": 0, "b.png": 1}, **options)
    assert trial.log.reads == {2: 5, 4: 1, 6: 1}


@also_on_the_cpu
def test_a_fixed_point_reads_once_an_iteration(trial):
    options = {"class_A": "folder", "class_B": ("hen",), "inversion": "fixed_point", "respace_steps": 2}
    trial.translate({"a.png": 0, "b.png": 1}, **options)
    iterations = trial.num_calls - 2 * 2  # less the first call of each step up, and those of the way down
    assert iterations >= 2
    assert sum(trial.log.reads.values()) == iterations


@also_on_the_cpu
def test_results_come_to_the_cpu_when_all_is_done(trial):
    edit = Edit(respace_steps=2, edit_steps=(2,), comparison=True)
    config = read_config(trial.files["main"].config)
    means = edit_plan.find_means(
        edit, Chosen(trial.files["main"]), config, read_trained(config), {}, masked=False
    )
    with trial.place():
        method = jobs.Method(lambda launch: edit_plan.build(means, launch, {}, trial.log.tick), trial.launch)
        trial.log.events.clear()
        done = method(ITEMS, {"image": torch.zeros(2, *SHAPE)})
    assert {result.image.device.type for [result], _ in done} == {"cpu"}
    expected = {(2, READ): 2}  # is it finite
    if trial.launch.device == CUDA:
        expected |= {(0, UPLOAD): 2, (2, DOWNLOAD): 4}
    assert trial.log.events == expected
