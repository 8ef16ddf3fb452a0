"""Settings of all tests: how much of the long ones is run, and a small case for runs of the commands."""

import logging
import os
from collections import Counter

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from models import build_model
from models.adm import ADMConfig
from tests.commands.command_case import CONFIG, MODEL, Case
from utils import log

COUNTS = {
    "--kills": 1,
    "--inputs": 1000,
    "--hostile_images": 40,
    "--hostile_configs": 40,
    "--hostile_checkpoints": 30,
    "--fault_seed": 0,
    "--big_checkpoint": 0,  # 1 makes a file of 2.2 GB
}
"""What tests/faults does in CI; docs/reliability.md names the full counts."""


def pytest_addoption(parser):
    for name, count in COUNTS.items():
        parser.addoption(name, type=int, default=count)


def pytest_unconfigure(config):
    """Say in the last line what was skipped, and why."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    if reasons:
        print("skipped:", "; ".join(f"{count} tests: {reason}" for reason, count in reasons.most_common()))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Run the tiny networks on one thread, also of commands: more of them only wait for one another."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def fresh_log():
    """Let no test see what an earlier one, in whatever order, did with the messages."""
    log.log.handlers, log.log.propagate = [], True
    log.log.setLevel(logging.NOTSET)
    log._said.clear()


@pytest.fixture
def case(tmp_path) -> Case:
    case = Case(tmp_path)
    case.config.write_text(yaml.safe_dump(CONFIG))
    torch.manual_seed(0)
    config = ADMConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in MODEL.items()})
    state = build_model(config).state_dict()
    save_file({key: torch.randn(t.shape) * 0.05 for key, t in state.items()}, case.weights)
    pictures = {
        "a.png": (16, 16),
        "b.jpg": (40, 24),
        "deep/c.webp": (16, 33),
        "deep/d.bmp": (20, 20),
        "e.PNG": (9, 9),
    }
    for i, (name, size) in enumerate(pictures.items()):
        path = case.input_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size, (40 * i, 200 - 30 * i, 90))
        image.paste((250, 250, 30 * i), (2, 2, 8, 7))
        image.save(path)
    return case
