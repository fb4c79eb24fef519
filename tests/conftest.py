"""Fixtures that several test files share."""

import os
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Figures are built whole and saved as stand-ins: for tests of words, numbers and files.

    Drawing is most of a report's time. A test that looks at a picture asks for ``drawn`` as well.
    """
    from matplotlib.figure import Figure

    save, lay_out = Figure.savefig, Figure.draw_without_rendering
    stand_ins = {"svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "png": b"\x89PNG\r\n\x1a\n"}

    def saved(figure, file, *, format, **options):
        if _drawn:
            return save(figure, file, format=format, **options)
        file.write(stand_ins[format])

    def laid_out(figure):
        if _drawn:
            lay_out(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", saved)
        patch.setattr(Figure, "draw_without_rendering", laid_out)
        yield


_drawn: list[bool] = []


@pytest.fixture
def drawn() -> Iterator[None]:
    """Figures are drawn, also where a file leaves them undrawn."""
    _drawn.append(True)
    yield
    _drawn.clear()
