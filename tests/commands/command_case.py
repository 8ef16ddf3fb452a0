"""What a run of a command needs: a tiny config, paths, the command line, and a reader of results."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = {
    "image_size": 16,
    "out_channels": 3,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [8],
    "num_heads": 1,
    "num_classes": 4,
}
CONFIG = {
    "model": {"name": "adm", **MODEL},
    "diffusion": {"num_timesteps": 100, "schedule": "linear", "beta_start": 1e-3, "beta_end": 0.2},
    "classes": ["cat", "dog", "hen"],
    "null_class": 3,
}


class Case:
    """Files of a run, and the command line over them."""

    def __init__(self, folder: Path):
        self.config, self.weights = folder / "tiny.yaml", folder / "tiny.safetensors"
        self.input_dir, self.save_dir = folder / "in", folder / "out"

    def words(self, save_dir: Path | None = None) -> list[str]:
        paths = ["-c", self.config, "--weights", self.weights, "--input_dir", self.input_dir]
        return [*map(str, paths), "--save_dir", str(save_dir or self.save_dir), "--cpu"]


def result_bytes(folder: Path) -> dict[str, bytes]:
    """Read every result of a run, by relative path; not what the run keeps of itself."""
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    own = ("run.json", "report.json", "report.html", "failures.jsonl", ".records/")
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith(own)}
