"""A run of two small defenses that takes a moment, as a command line."""

PRESET = {
    "description": "for the tests",
    "defaults": {
        "n_train": 40,
        "n_test": 10,
        "attacks": ["pgd", "pgd-l2"],
        "eps": {"linf": [0.0, 0.1], "l2": [0.0, 0.5]},
        "training": {"epochs": 1, "batch_size": 20, "adversary_steps": 1},
        "attack_settings": {"pgd": {"steps": 2}, "pgd-l2": {"steps": 2}},
    },
}
GRID = ("run", "--dataset", "digits", "--preset", "smoke", "--device", "cpu")
GRID += ("--defenses", "toys:Tiny,toys:Coded")
RUN = (*GRID[:-1], "toys:Tiny", "--attacks", "pgd")
