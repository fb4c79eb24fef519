# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How robust is my model, and can the attack be believed?
#
# `benchmark.evaluate` takes a trained model and images, as they are. It attacks the model over a
# range of perturbation budgets (eps) and gives a curve with intervals, the images that fool it,
# and a verdict on the attacks themselves. This notebook trains a small network in plain PyTorch
# and asks about it.
#
# Open it with jupytext (`jupytext --to ipynb evaluate.py`), or in an editor that knows `# %%`
# cells.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import benchmark
from benchmark.datasets import DIGITS

# %% [markdown]
# ## A model of one's own
#
# scikit-learn's digits, which come with the package: grey 28x28 images as bytes. The network sees
# them normalised, as usual.

# %%
train, test = DIGITS.load("train"), DIGITS.load("test")
x, y = train.images / 255, train.labels
mean, std = x.mean().item(), x.std().item()
images, labels = test.images, test.labels  # tensors; NumPy arrays, a Dataset or a folder would do

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 5, stride=2),
    nn.ReLU(),
    nn.Conv2d(16, 32, 5, stride=2),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 4 * 4, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(6):
    for rows in torch.randperm(len(x)).split(64):
        loss = F.cross_entropy(model((x[rows] - mean) / std), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()

# %% [markdown]
# ## Five lines to a number
#
# `mean` and `std` say how the model normalises; eps counts in pixels of [0, 1]. The result shows
# itself.

# %%
evaluation = benchmark.evaluate(
    model,
    (images, labels),
    norm="linf",
    eps=[0, 0.05, 0.1, 0.2],
    n=100,
    mean=mean,
    std=std,
    verbose=False,
)
evaluation

# %% [markdown]
# `table` has a row for each attack and eps, `worst_case` one for each eps: an image counts there
# if no attack fooled the model. The intervals are Wilson's, over images. Robust accuracy is an
# upper bound.

# %%
evaluation.table

# %%
curve = evaluation.worst_case
figure, axes = plt.subplots(figsize=(5, 3))
axes.plot(curve["eps"], curve["robust_accuracy"], marker="o")
axes.fill_between(curve["eps"], curve["ci_low"], curve["ci_high"], alpha=0.2)
axes.set(xlabel="eps (l-inf)", ylabel="accuracy", ylim=(0, 1))
figure.tight_layout()

# %% [markdown]
# ## Can the attacks be believed?
#
# A model may hide its gradient, and then an attack fails although adversarial examples are there.
# The audit looks for signs of that. The basic one can find fault with the attacks; `audit="full"`
# attacks harder and may call them fair.

# %%
print(evaluation.verdict)

# %% [markdown]
# ## The most fragile images
#
# `adversarial(eps)` gives, for each image that fell within eps, the nearest image that any attack
# found.

# %%
fallen = evaluation.adversarial(0.1)
fragile = np.argsort(fallen.distances)[:6]
figure, axes = plt.subplots(1, len(fragile), figsize=(9, 2))
for axis, i in zip(np.atleast_1d(axes), fragile, strict=True):
    axis.imshow(fallen.images[i, 0], cmap="gray", vmin=0, vmax=1)
    axis.set_title(
        f"{fallen.labels[i]} taken for {fallen.predictions[i]}\nat {fallen.distances[i]:.3f}",
        fontsize=8,
    )
    axis.set_axis_off()

# %% [markdown]
# ## A wrong normalisation
#
# What cannot be right is refused in one line: statistics of pixels up to 255, images of that
# range as floats.


# %%
def clean_accuracy(images: torch.Tensor, **normalisation: float) -> float:
    return benchmark.evaluate(
        model,
        (images, labels),
        attacks=["pgd"],
        eps=[0, 0.1],
        n=100,
        audit="off",
        verbose=False,
        **normalisation,
    ).clean_accuracy


for pixels, unit in ((images, 255), (images.float(), 1)):
    try:
        clean_accuracy(pixels, mean=mean * unit, std=std * unit)
    except benchmark.UsageError as error:
        print(error)

# %% [markdown]
# Most mistakes raise no error; the model is only bad. If the clean accuracy is not the one that
# you know, no number after it means anything. Here `mean` and `std` are left out.

# %%
print(clean_accuracy(images, mean=mean, std=std), "or, left out,", clean_accuracy(images))

# %% [markdown]
# ## A model that only answers
#
# A program behind an API gives labels and no gradient. A function from a NumPy array to labels is
# enough: attacks that ask for answers run, those that need a gradient are left out, and the
# result says so.


# %%
def answer(images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model((torch.from_numpy(images) - mean) / std).argmax(1).numpy()


only_answers = benchmark.evaluate(
    answer, (images, labels), eps=[0, 0.2], n=10, n_classes=10, audit="off", verbose=False
)
only_answers

# %%
print(only_answers.skipped.to_string())
