"""What all tests share: threads, hypothesis profiles, and where the shared data lies."""

import gc
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Two test workers on two cores: more threads than that only wait for each other.
torch.set_num_threads(1)
# A capture makes millions of objects, and few of them in rings.
gc.set_threshold(100_000, 20, 20)

settings.register_profile(
    "fast", max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fast")


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what stays for good: it took a tenth of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared data and nets, or skip."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("HOLDFAST_SHARED", default))
    if not (folder / "nets").is_dir():
        pytest.skip(f"no shared data at {folder} (set HOLDFAST_SHARED)")
    return folder
