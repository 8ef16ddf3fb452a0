"""Numbers: L2 by hand, LPIPS, KID and FID against the libraries on the same folders, with random weights."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sample_sdedit
from tools import evaluate
from tools.demo import judge
from tools.evaluation import networks


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def noise(folder, number, side=32, seed=0):
    generator = np.random.default_rng(seed)
    for index in range(number):
        flat = generator.integers(0, 256, 3)  # pictures that differ, not only their noise
        save(folder / f"p{index}.png", (flat + generator.normal(0, 40, (side, side, 3))).clip(0, 255))


@pytest.fixture
def folders(tmp_path):
    noise(tmp_path / "guides", 6)
    noise(tmp_path / "results", 6, seed=1)
    noise(tmp_path / "real", 7, side=32, seed=2)
    return tmp_path


def run(tmp_path, *words, guides="guides", results="results"):
    """Evaluate on the CPU; return the rows of the JSON file."""
    path = tmp_path / "numbers.json"
    words = [str(tmp_path / guides), str(tmp_path / results), "--cpu", "--json", str(path), *map(str, words)]
    assert evaluate.main(words) == 0
    return json.loads(path.read_text())["rows"]


def test_l2_by_hand_whole_inside_and_outside_of_the_mask(tmp_path, capsys):
    guide, result, mask = np.full((8, 8, 3), 100), np.full((8, 8, 3), 100), np.zeros((8, 8))
    result[:, :2] += 51  # 0.4 on [-1, 1], in a quarter of the pixels
    mask[:, :4] = 255
    save(tmp_path / "guides/deep/a.png", guide)
    save(tmp_path / "results/deep/a.png", result)
    save(tmp_path / "masks/deep/a.png", mask)
    words = ["--metrics", "l2", "--masks", tmp_path / "masks"]
    [row] = run(tmp_path, *words)
    assert row["l2"] == pytest.approx(0.4 * 0.25**0.5)
    assert row["masked_l2"] == pytest.approx(0.4 * 0.5**0.5)
    assert row["kept_l2"] == 0
    assert row["each"]["deep/a.png"]["l2"] == pytest.approx(row["l2"])
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| results | images | l2 | masked_l2 | kept_l2 |"
    assert table[2] == "| results | 1 | 0.2000 | 0.2828 | 0.0000 |"
    [row] = run(tmp_path, *words, "--mask_invert")
    assert (row["masked_l2"], row["kept_l2"]) == (0, pytest.approx(0.4 * 0.5**0.5))


def test_a_run_is_measured_as_it_fitted_its_guides_one_row_a_level(case, tmp_path, capsys):
    words = ["--respace_steps", "10", "--t0", "0.1", "0.5", "1", "--samples", "2", "--fit", "stretch"]
    assert sample_sdedit.main([*case.words(), *words]) == 0
    (case.save_dir / "t0_0.5" / "deep" / "c_s01.png").unlink()
    rows = run(tmp_path, "--metrics", "l2", "--plot", tmp_path / "curve.png", guides="in", results="out")
    assert [row["results"] for row in rows] == ["t0_0.1", "t0_0.5", "t0_1"]
    assert [(row["images"], row["missing"]) for row in rows] == [(10, 0), (9, 1), (10, 0)]
    guide = Image.open(case.input_dir / "b.jpg").convert("RGB").resize((16, 16), Image.Resampling.LANCZOS)
    result = Image.open(case.save_dir / "t0_1/b_s01.png")
    difference = (np.asarray(guide, float) - np.asarray(result, float)) / 127.5
    assert rows[2]["each"]["b_s01.png"]["l2"] == pytest.approx((difference**2).mean() ** 0.5, rel=1e-5)
    assert Image.open(tmp_path / "curve.png").width > 300
    several = run(tmp_path, "--metrics", "l2", "--against", case.save_dir, guides="in", results="out")
    assert [row["results"] for row in several[:2]] == ["out/t0_0.1", "out/t0_0.5"]


def test_lpips_is_that_of_torchmetrics_also_inside_and_outside_of_the_mask(folders, monkeypatch):
    library = pytest.importorskip("torchmetrics.functional.image.lpips", reason="needs requirements-eval.txt")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    hub = folders / "hub"
    (hub / "checkpoints").mkdir(parents=True)
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(state, hub / "checkpoints" / networks.PUBLISHED["squeeze"].file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    for index in range(6):
        mask = np.zeros((32, 32))
        mask[:, : 4 * index] = 255
        save(folders / "masks" / f"p{index}.png", mask)
    words = ["--lpips_net", "squeeze", "--metrics", "lpips", "l2", "--masks", folders / "masks"]
    [row] = run(folders, *words)

    def read(folder, index):
        pixels = torch.from_numpy(np.array(Image.open(folders / folder / f"p{index}.png").convert("RGB")))
        return pixels.permute(2, 0, 1)[None] / 127.5 - 1

    expected = {"lpips": [], "masked_lpips": [], "kept_lpips": []}
    for index in range(6):
        pair, mask = (read("guides", index), read("results", index)), (read("masks", index) + 1) / 2
        for name, where in (("lpips", 1), ("masked_lpips", mask), ("kept_lpips", 1 - mask)):
            value = library.learned_perceptual_image_patch_similarity(*(x * where for x in pair), "squeeze")
            expected[name].append(value.item())
            assert row["each"][f"p{index}.png"][name] == pytest.approx(value.item(), rel=1e-4, abs=1e-7)
    for name, values in expected.items():
        assert row[name] == pytest.approx(np.mean(values), rel=1e-4)
        assert max(values) > 1e-3


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A folder with random weights of Inception, under the name and in the layout that are published."""
    library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="as above")
    folder = tmp_path_factory.mktemp("inception")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = library.FeatureExtractorInceptionV3("random", ["2048"])
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), folder / networks.PUBLISHED["inception"].file)
    return folder


def test_kid_and_fid_are_those_of_torch_fidelity(folders, inception, capsys):
    library = pytest.importorskip("torch_fidelity")
    words = ["--weights_dir", inception, "--reference", folders / "real", "--metrics"]
    [by_kid] = run(folders, *words, "kid")
    [by_fid] = run(folders, *words, "fid", "--features", "192")
    assert "fid of 6 and 7 pictures is biased, 193 of each are needed" in capsys.readouterr().err
    expected = library.calculate_metrics(
        input1=str(folders / "results"),
        input2=str(folders / "real"),
        kid=True,
        fid=True,
        feature_layer_kid="2048",
        feature_layer_fid="192",
        kid_subset_size=6,
        feature_extractor_weights_path=str(inception / networks.PUBLISHED["inception"].file),
        cuda=False,
        cache=False,
        verbose=False,
    )
    assert by_kid["kid"] == pytest.approx(expected[library.KEY_METRIC_KID_MEAN], rel=1e-3)
    assert by_fid["fid"] == pytest.approx(expected[library.KEY_METRIC_FID], rel=1e-3)
    assert min(abs(by_kid["kid"]), by_fid["fid"]) > 1e-4


def test_realism_by_the_judge_of_the_demo_prefers_what_is_like_the_reference(folders):
    pytest.importorskip("torch_fidelity", reason="needs requirements-eval.txt")
    torch.manual_seed(0)
    network = judge.judge_network(5)
    save_file(network.state_dict(), folders / "judge.safetensors")
    words = ["--features", folders / "judge.safetensors", "--reference", folders / "real", "--metrics", "kid"]
    [far] = run(folders, *words)
    for index in range(6):
        save(folders / f"results/p{index}.png", Image.open(folders / f"real/p{index}.png"))
    [near] = run(folders, *words)
    assert near["kid"] < far["kid"]


def test_missing_weights_are_named_with_where_from_and_where_to(folders, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folders / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # nothing is fetched without being asked
    words = [str(folders / "guides"), str(folders / "results"), "--reference", str(folders / "real")]
    assert evaluate.main([*words, "--weights_dir", str(folders / "own")]) == 2
    message = capsys.readouterr().err
    assert f"AlexNet are missing: put {networks.PUBLISHED['alex'].site}alexnet-owt-7be5be79.pth" in message
    assert f"into {folders / 'own'} or {folders / 'hub' / 'checkpoints'}" in message
    assert "weights-inception-2015-12-05-6726825d.pth" in message
    assert "--download" in message


class Payload:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize("name", ["alex", "inception"])
def test_weights_that_would_run_code_are_refused(folders, name, capsys):
    pytest.importorskip(
        "torchmetrics" if name == "alex" else "torch_fidelity", reason="requirements-eval.txt"
    )
    (folders / "own").mkdir()
    (folders / "own" / networks.PUBLISHED[name].file).write_bytes(pickle.dumps(Payload()))
    wanted = ["--metrics", "lpips"] if name == "alex" else ["--metrics", "fid"]
    words = [str(folders / "guides"), str(folders / "results"), "--reference", str(folders / "real"), *wanted]
    assert evaluate.main([*words, "--weights_dir", str(folders / "own")]) == 2
    printed = capsys.readouterr()
    assert "not a file of tensors alone" in printed.err
    assert "code was run" not in printed.out


BAD = {
    "no such folder": (["--masks", "nowhere"], "nowhere: no such folder"),
    "no reference": (["--metrics", "kid"], "give --reference"),
    "no sweep": (["--metrics", "l2", "--plot", "p.png"], "needs results of a sweep"),
    "odd features": (["--features", "12"], "one of 64, 192, 768, 2048"),
    "no judge": (
        ["--features", "no.safetensors", "--metrics", "kid", "--reference", "GUIDES"],
        "not a judge",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_explained(folders, capsys, name):
    words, message = BAD[name]
    words = [str(folders / "guides") if word == "GUIDES" else word for word in words]
    assert evaluate.main([str(folders / "guides"), str(folders / "results"), *words]) == 2
    assert message in capsys.readouterr().err


def test_results_of_other_guides_and_of_several_shapes_are_refused(folders, capsys):
    noise(folders / "others/deep", 2)
    assert evaluate.main([str(folders / "guides"), str(folders / "others"), "--metrics", "l2"]) == 2
    assert "no result of any guide, such as p0.png" in capsys.readouterr().err
    save(folders / "results/p3.png", np.zeros((16, 16, 3)))
    assert evaluate.main([str(folders / "guides"), str(folders / "results"), "--metrics", "l2"]) == 2
    assert "results of several sizes" in capsys.readouterr().err


def test_missing_packages_are_named(folders, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image.lpips", None)
    (folders / "own").mkdir()
    torch.save({}, folders / "own" / networks.PUBLISHED["alex"].file)
    words = [str(folders / "guides"), str(folders / "results"), "--weights_dir", str(folders / "own")]
    assert evaluate.main(words) == 2
    assert "torchmetrics is not installed; pip install -r requirements-eval.txt" in capsys.readouterr().err
