"""Settings of all tests."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Run the tiny networks on one thread: more of them only wait for one another."""
    torch.set_num_threads(1)
