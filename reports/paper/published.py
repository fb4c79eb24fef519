"""Numbers that the paper publishes, and the points that its figures show without numbers.

Li, Min, Yu, Hsieh, Lee, Kruus: "Optimal Transport Classifier: Defending Against Adversarial
Attacks by Regularized Deep Embedding". Accuracies are fractions in [0, 1]; the paper has percents.
"""

DATASETS = ("mnist", "cifar10", "stl10", "tiny_imagenet")
DATASET_NAMES = {
    "mnist": "MNIST",
    "cifar10": "CIFAR10",
    "stl10": "STL10",
    "tiny_imagenet": "Tiny Imagenet",
}
DATA_DIMENSIONS = {
    "mnist": "1 × 28 × 28",
    "cifar10": "3 × 32 × 32",
    "stl10": "3 × 96 × 96",
    "tiny_imagenet": "3 × 64 × 64",
}
SIZES = {
    "mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "stl10": (5_000, 8_000),
    "tiny_imagenet": (100_000, 10_000),
}
"""Training and test images as section 4 counts them; Tiny Imagenet's are 200 x 500 and 200 x 50."""

DEFENSE_NAMES = {
    "undefended": "No defense",
    "madry": "Adv. Training",
    "rse": "RSE",
    "ot-cla": "OT-Classifier",
    "ot-cla-adv": "OT-CLA+Adv",
    "e-cla": "E-CLA",
    "defense-gan": "Defense-GAN",
}
"""As Table 1 writes them; the paper's text also says "Madry's Adv" for Adv. Training."""

# Table 1 (section 4.1): accuracy under l-inf PGD; dataset -> eps, then defense -> accuracies.
TABLE1 = {
    "mnist": (
        (0.0, 0.1, 0.2, 0.3, 0.4),
        {
            "madry": (0.992, 0.973, 0.868, 0.354, 0.027),
            "ot-cla-adv": (0.991, 0.987, 0.972, 0.949, 0.711),
        },
    ),
    "cifar10": (
        (0.0, 0.015, 0.03, 0.045, 0.06),
        {
            "madry": (0.826, 0.680, 0.423, 0.216, 0.120),
            "ot-cla-adv": (0.840, 0.675, 0.513, 0.358, 0.233),
        },
    ),
    "stl10": (
        (0.0, 0.015, 0.03, 0.045, 0.06),
        {
            "madry": (0.636, 0.535, 0.368, 0.250, 0.187),
            "ot-cla-adv": (0.607, 0.521, 0.403, 0.306, 0.245),
        },
    ),
    "tiny_imagenet": (
        (0.0, 0.004, 0.01, 0.016, 0.02),
        {
            "madry": (0.573, 0.486, 0.265, 0.151, 0.120),
            "ot-cla-adv": (0.546, 0.500, 0.367, 0.256, 0.211),
        },
    ),
}

# Table 2 (section 4.1): MNIST, accuracy under l2 C&W with "l2 <= 0.005".
TABLE2 = {"defense-gan": 0.550, "ot-cla-adv": 0.991}

# Table 2's attacks. "Defense-GAN is evaluated using the method proposed in [2]": Athalye, Carlini,
# Wagner 2018 search its latent space, and take BPDA for the 55 % that the table gives.
TABLE2_ATTACKS = {"defense-gan": ("latent-cw", "cw-bpda"), "ot-cla-adv": ("cw",)}

# "Total root-mean-square distortion normalized by the number of pixels", n = 784, reads two ways.
TABLE2_THRESHOLD = 0.005
MNIST_PIXELS = 784
TABLE2_READINGS = {
    "||d||_2 / sqrt(n) <= 0.005": TABLE2_THRESHOLD * MNIST_PIXELS**0.5,  # 0.14
    "||d||_2 / n <= 0.005": TABLE2_THRESHOLD * MNIST_PIXELS,  # 3.92
}

# Table 3 (section 4.3): intrinsic dimension, embedding dimension.
TABLE3 = {
    "mnist": (13, 4),
    "cifar10": (17, 16),
    "stl10": (20, 16),
    "tiny_imagenet": (19, 20),
}

# Section 4.1: "MNIST [...] from 0 to 0.4 by 0.025", and so on; (steps, step).
GRIDS = {
    "mnist": (16, 0.025),
    "cifar10": (12, 0.005),
    "stl10": (12, 0.005),
    "tiny_imagenet": (10, 0.002),
}
FIGURE2 = ("undefended", "madry", "rse", "ot-cla", "ot-cla-adv")
FIGURE3 = ("e-cla", "ot-cla")
FIGURE4 = "ot-cla"
FIGURE5 = {"datasets": ("mnist", "cifar10"), "defenses": ("e-cla", "ot-cla")}


def named(defense: str) -> str:
    """Return the paper's name of a defense, with ours in brackets where it differs."""
    name = DEFENSE_NAMES[defense]
    return name if name.lower() == defense else f"{name} ({defense})"


def grid(dataset: str) -> tuple[float, ...]:
    """Return the eps at which the paper's figures show a dataset."""
    steps, step = GRIDS[dataset]
    return tuple(round(i * step, 6) for i in range(steps + 1))
