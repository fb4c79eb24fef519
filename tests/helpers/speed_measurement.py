"""A speed measurement as ``speed`` writes it, made up."""


def row(task, library, seconds, **other):
    return {
        "task": task,
        "library": library,
        "seconds": seconds,
        "seconds_min": 0.9 * seconds,
        "seconds_max": 1.2 * seconds,
        "floor_ratio": seconds / 20,
        "floor_passes": 640,
        "times_inhouse": seconds / 2,
        "forwards_per_sample": 64.25,
        "backwards_per_sample": 63.5,
        "robust_accuracy": {"0.2": 0.875, "0.4": 0.25},
        "median_distance": None,
        "distance_ratio": None,
        "excess_points": None,
        "n": 100,
        "attacked": 98,
        "defense": "madry",
        "norm": "linf",
        "settings": {"steps": 40},
        "remarks": [],
        "notes": [],
        **other,
    }


def measurement(**other):
    return {
        "dataset": "mnist",
        "preset": "quick",
        "repeats": 3,
        "device": {"type": "cpu", "name": "a processor", "threads": 2},
        "versions": {"torch": "2.15.0", "art": "1.20.1"},
        "results": [
            row("sweep", "inhouse", 2.0, excess_points=-0.25),
            row("sweep", "art", 30.0, remarks=["has no setting x"], notes=["left the ball: 3"]),
            row("cw", "inhouse", 2.0, median_distance=1.5, distance_ratio=1.0, norm="l2"),
            row("cw", "art", 80.0, distance_ratio=None, norm="l2"),
        ],
        "doubling": [
            {
                "levels": levels,
                "seconds": seconds,
                "seconds_min": seconds,
                "seconds_max": seconds,
                "forwards_per_sample": 10 * seconds,
                "backwards_per_sample": 10 * seconds,
                "peak_memory": None,
            }
            for levels, seconds in ((4, 1.0), (8, 1.5), (16, 2.0))
        ],
        "floors": {"sweep": 0.00025, "cw": 0.00025},
        "absent": {"foolbox": "not installed: pip install foolbox"},
        "failed": {"toy in cw": "RuntimeError: <boom>"},
        "provenance": {"started": "2026-01-01T00:00:00Z", "git_sha": "abc", "command": "speed"},
        **other,
    }
