"""Settings of the network tests."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Run the tiny networks on one thread: more of them only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
