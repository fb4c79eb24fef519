"""Where a run's numbers come from: command, data, device, versions and commit."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmark import __version__
from benchmark.attacks.peers.library import AttackLibrary
from benchmark.config.spec import RunSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.datasets.duplicates import count_repeats
from benchmark.registry import LIBRARIES

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "pot")


def provenance(
    spec: RunSpec, train_set: ImageDataset, test_set: ImageDataset, command: str
) -> dict[str, Any]:
    """Return what ``run.json`` holds; plain data."""
    return {
        "command": command,
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "package_version": __version__,
        "dataset": {
            "name": spec.dataset,
            "source": train_set.source if len(train_set) else test_set.source,
            "train_checksum": train_set.checksum,
            "test_checksum": test_set.checksum,
            "n_train_available": train_set.n_available,
            "n_test_available": test_set.n_available,
            "class_names": list(test_set.info.class_names),
            "repeats": count_repeats(train_set.images.cpu().numpy(), test_set.images.cpu().numpy()),
        },
        "device": {
            "type": spec.device,
            "name": device_name(spec.device),
            "threads": torch.get_num_threads(),
        },
        "versions": versions(),
        "git_sha": git_sha(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of what decides its numbers."""
    found = {"python": platform.python_version(), "defensebench": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def attack_versions(library: str) -> dict[str, str]:
    """Return the version of the library that an attack comes from, by its distribution's name."""
    if library not in LIBRARIES.entries():
        return {}
    found: AttackLibrary = LIBRARIES.load(library)
    return {found.distribution: found.version}


def git_sha() -> str:
    """Return the commit of the checkout that holds the code, "-dirty" if changed, else ""."""
    try:
        # Installed inside another repository, the code is not tracked by it.
        _git("ls-files", "--error-unmatch", "__init__.py")
        return _git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(*words: str) -> str:
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


@cache
def device_name(device: str) -> str:
    """Return the name of the processor, or of the GPU for ``cuda``."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
