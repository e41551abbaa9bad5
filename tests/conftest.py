"""What all tests share: threads, hypothesis profiles, and where the shared data lies."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# Two test workers on two cores: more threads than that only wait for each other.
torch.set_num_threads(1)

settings.register_profile(
    "fast", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fast")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared data and nets, or skip."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("HOLDFAST_SHARED", default))
    if not (folder / "nets").is_dir():
        pytest.skip(f"no shared data at {folder} (set HOLDFAST_SHARED)")
    return folder
