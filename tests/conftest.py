"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# An example has no seconds to be done in, and none to be drawn in: a busy machine is no failure.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
# For the fuzz tests: `pytest --hypothesis-profile=soak tests/test_fuzz*.py` (tests/fuzzing.py).
settings.register_profile("soak", settings.get_profile("tests"), max_examples=5000)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers and the commands they start share the cores: a thread each. Before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Batches of a few images gain nothing from threads and lose much on busy cores."""
    import torch  # after OMP_NUM_THREADS

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def maybe_data_dir() -> Path | None:
    """Folder of real data as Parquet mirrors: BENCHMARK_DATA_DIR, else one beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BENCHMARK_DATA_DIR") or beside)
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_dir(maybe_data_dir: Path | None) -> Path:
    """The folder of real data, without which the test is skipped."""
    if maybe_data_dir is None:
        pytest.skip("no real data: name a folder of Parquet mirrors with BENCHMARK_DATA_DIR")
    return maybe_data_dir
