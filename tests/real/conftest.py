"""The wheel of galaxygrad, whose published weights these tests use."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdedit-ddib" / "galaxygrad"
NAME = "galaxygrad-0.2.1-py3-none-any.whl"


@pytest.fixture(scope="session")
def wheel() -> Path:
    """Fetch the package once, into the user's cache: 56 MB, whose licence does not let us ship them."""
    if not (CACHE / NAME).exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:  # several workers may fetch at a time
            options = ("--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=20", "--dest", folder)
            pip = (sys.executable, "-m", "pip", "download", "--quiet", *options, "galaxygrad==0.2.1")
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:]
                pytest.skip(f"galaxygrad could not be had: {' '.join(reason)}")
            os.replace(Path(folder) / NAME, CACHE / NAME)
    return CACHE / NAME
