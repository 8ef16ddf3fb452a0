"""Parts of pipelines as they were saved over the years: the same weights under older keys and names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", reason="needs transformers: requirements-text.txt")

from models import PARTS, build_empty
from models.text_encoder import TextEncoder
from utils.pipelines import load_part, read_config
from utils.weights import read_json

FOLDER = Path(__file__).parents[2] / "golden/latent/sd1"
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def empty(part: str) -> torch.nn.Module:
    config = read_config(FOLDER / "model_index.json", PARTS)
    if part == "text_encoder":
        with torch.device("meta"):
            return TextEncoder("CLIPTextModel", read_json(FOLDER / part / "config.json"))
    return build_empty({"vae": config.autoencoder, "unet": config.model}[part])


def stored(part: str) -> tuple[str, dict[str, torch.Tensor]]:
    [path] = (FOLDER / part).glob("*.safetensors")
    return path.name, load_file(path)


def loaded(part: str, folder: Path) -> dict[str, torch.Tensor]:
    return load_part(empty(part), folder).state_dict()


def check(part: str, folder: Path, tolerance: float = 0) -> None:
    wanted, found = loaded(part, FOLDER / part), loaded(part, folder)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=tolerance, atol=tolerance)


def as_attention_of_before(key: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    for today, before in OLD_NAMES.items():
        if f".attentions.0.{today}." in key:
            return key.replace(today, before), tensor[..., None, None] if tensor.ndim == 2 else tensor
    return key, tensor


def test_autoencoders_of_before_2023(tmp_path):
    name, state = stored("vae")
    before = dict(as_attention_of_before(key, tensor) for key, tensor in state.items())
    assert sum("proj_attn" in key for key in before) == 4
    save_file({key: tensor.contiguous() for key, tensor in before.items()}, tmp_path / name)
    check("vae", tmp_path)


def test_text_encoders_with_a_prefix_and_the_positions(tmp_path):
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    name, state = stored("text_encoder")
    before = {f"text_model.{key}": tensor for key, tensor in state.items()}
    before["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(before, folder / name)
    check("text_encoder", folder)


def test_pickles_are_read_without_running_them_and_halves_as_floats(tmp_path):
    _, state = stored("unet")
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    check("unet", tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").unlink()
    halves = {key: tensor.half() for key, tensor in state.items()}
    save_file(halves, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    check("unet", tmp_path, tolerance=1e-3)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no weights; download the whole folder, with diffusion"):
        load_part(empty("unet"), tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="in several files; save them again as one"):
        load_part(empty("unet"), tmp_path)
    _, state = stored("vae")
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="not the weights of its config"):
        load_part(empty("unet"), tmp_path)
