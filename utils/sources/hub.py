"""Files and folders of the Hugging Face hub, kept in its own cache: hf://owner/name[@revision][/file]."""

import fnmatch
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from utils.quote import plain
from utils.sources.download import DownloadError, is_offline

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._-]*))?(?:/(.+))?")
_CONFIGS = ("config.json", "unet/config.json")
_WEIGHTS = (
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    *("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.bin"),
)
_AVERAGED = tuple(f"unet_ema/{name}" for name in _WEIGHTS[:2])
_ENCODERS = tuple(
    f"{stem}{variant}.{suffix}"
    for variant in ("", ".fp16")
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin"))
)
_TOKENIZERS = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)
_SCHEDULERS = ("scheduler_config.json", "scheduler/scheduler_config.json")


@dataclass(frozen=True)
class HubAddress:
    """A file of a repository, or the network of a whole one."""

    repository: str
    revision: str | None
    file: str | None
    """May hold * for a part that changes, as the number of a step."""

    @classmethod
    def parse(cls, text: str) -> "HubAddress":
        """Read an address.

        Raises:
            ValueError: It is not of the form hf://owner/name[@revision][/file].
        """
        match = _ADDRESS.fullmatch(text)
        file = (match[3] or "").strip("/") if match else ""
        if match is None or ".." in file.split("/"):
            raise ValueError(f"{plain(text)}: expected hf://owner/name[@revision][/file]")
        return cls(match[1], match[2], file or None)


def fetch(address: HubAddress, weights_dir: Path | None = None) -> Path:
    """Fetch what an address names, unless the cache has it.

    Args:
        address: Of a file, or of a folder of diffusers.
        weights_dir: Cache in place of the hub's own (HF_HOME).

    Returns:
        The file, or the folder.

    Raises:
        DownloadError: The hub does not give it, or it is not in the cache and there is no network.
    """
    if address.file is not None:
        return _get(address, _resolve(address), weights_dir)
    config = _get_first(address, _CONFIGS, weights_dir)
    if _is_told_text(config):
        return _fetch_pipeline(address, config.parent.parent, weights_dir)
    inside = "unet/" if config.parent.name == "unet" else ""
    _get_first(address, tuple(inside + name for name in _WEIGHTS), weights_dir)
    with suppress(_AbsentError):  # what reads the folder prefers it
        if inside:
            _get_first(address, _AVERAGED, weights_dir)
    with suppress(DownloadError):  # a folder without is explained by what reads it
        _get_first(address, _SCHEDULERS, weights_dir)
    return config.parent.parent if inside else config.parent


def _is_told_text(config: Path) -> bool:
    """Whether the config of a network is that of one that is told a text."""
    return config.parent.name == "unet" and b'"UNet2DConditionModel"' in config.read_bytes()


def _fetch_pipeline(address: HubAddress, folder: Path, weights_dir: Path | None) -> Path:
    """Fetch what a network that is told a text needs beside its config; return the folder."""
    index = _get(address, "model_index.json", weights_dir)
    _get(address, _SCHEDULERS[1], weights_dir)
    for part in ("unet", "vae"):
        _get(address, f"{part}/config.json", weights_dir)
        _get_first(address, tuple(f"{part}/{name}" for name in _WEIGHTS), weights_dir)
    for number in ("", "_2"):
        if not _has_part(index, f"text_encoder{number}"):
            continue
        _get(address, f"text_encoder{number}/config.json", weights_dir)
        _get_first(address, tuple(f"text_encoder{number}/{name}" for name in _ENCODERS), weights_dir)
        for name in _TOKENIZERS:
            with suppress(_AbsentError):  # of some there is one file, of others there are several
                _get(address, f"tokenizer{number}/{name}", weights_dir)
    return folder


def _has_part(index: Path, name: str) -> bool:
    """Whether an index of a pipeline lists a part; a broken one, which what reads it explains, lists none."""
    try:
        listed = json.loads(index.read_bytes()).get(name)
    except (ValueError, AttributeError, RecursionError):
        return False
    return isinstance(listed, list) and any(listed)


def _get_first(address: HubAddress, names: tuple[str, ...], weights_dir: Path | None) -> Path:
    for name in names[:-1]:
        try:
            return _get(address, name, weights_dir)
        except _AbsentError:
            continue
    return _get(address, names[-1], weights_dir)


class _AbsentError(DownloadError):
    """The repository, or the cache where there is no network, has no such file."""


def _get(address: HubAddress, name: str, weights_dir: Path | None) -> Path:
    from huggingface_hub import errors, hf_hub_download  # only now: it takes a while

    where = f"hf://{address.repository}{'@' + address.revision if address.revision else ''}"
    try:
        return Path(
            hf_hub_download(address.repository, name, revision=address.revision, cache_dir=weights_dir)
        )
    except errors.EntryNotFoundError as error:  # LocalEntryNotFoundError too
        reason = "is not in the cache" if is_offline() else "could not be had"
        if not isinstance(error, errors.LocalEntryNotFoundError):
            reason = "is not there"
        raise _AbsentError(_by_hand(where, address, name, reason, weights_dir)) from None
    except errors.RepositoryNotFoundError:
        reason = "there is no such repository, or it is private or gated: log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"there is no revision {address.revision}"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        reason = plain(error)
    raise DownloadError(_by_hand(where, address, name, reason, weights_dir))


def _by_hand(where: str, address: HubAddress, name: str, reason: str, weights_dir: Path | None) -> str:
    revision = f" --revision {address.revision}" if address.revision else ""
    cache = f" --cache-dir {weights_dir}" if weights_dir else ""
    return (
        f"{where}/{name}: {reason}\n"
        "By hand, where there is a network:\n"
        f"  hf download {address.repository} {name}{revision}{cache}\n"
        f"or fetch https://huggingface.co/{address.repository}/resolve/{address.revision or 'main'}/{name} "
        "and give its path to --weights."
    )


def _resolve(address: HubAddress) -> str:
    """Replace a pattern by the file that it fits, the one of the highest numbers where there are several."""
    if "*" not in address.file:
        return address.file
    from huggingface_hub import HfApi, errors

    try:
        names = HfApi().list_repo_files(address.repository, revision=address.revision)
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        raise DownloadError(
            f"hf://{address.repository}: its files could not be listed ({plain(error)}); give the exact file "
            f"in place of {address.file}"
        ) from None
    fitting = fnmatch.filter(names, address.file)
    if not fitting:
        raise DownloadError(f"hf://{address.repository}: has no file {address.file}")
    return max(fitting, key=_by_numbers)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
