"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real data as Parquet mirrors: BENCHMARK_DATA_DIR, else one beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BENCHMARK_DATA_DIR") or beside)
    if not folder.is_dir():
        pytest.skip("no real data: name a folder of Parquet mirrors with BENCHMARK_DATA_DIR")
    return folder
