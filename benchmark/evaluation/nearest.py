"""The nearest adversarial image of each sample, collected while a sweep goes on."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmark.config.spec import AttackSpec
from benchmark.datasets.dataset import ImageDataset
from benchmark.evaluation.scoring import Judged
from benchmark.results.adversarial_images import ADVERSARIAL, encoded
from benchmark.results.tables import make_table


@dataclass
class NearestImages:
    """What one sweep found for the images ``data``: for each, its nearest adversarial image.

    By row of ``data``: the distance, the model's answer and the image (C, H, W), float32, CPU.
    """

    data: ImageDataset
    found: dict[int, tuple[float, int, Tensor]] = field(default_factory=dict)

    def put(self, rows: Tensor, judged: Judged) -> None:
        """Take over the adversarial images of a batch: ``rows`` (n,) of the data, judged."""
        fooled = judged.pred != self.data.labels[rows.to(self.data.device)].cpu()
        for i in torch.nonzero(fooled).flatten().tolist():
            row, far = int(rows[i]), float(judged.distance[i])
            if row not in self.found or far < self.found[row][0]:
                self.found[row] = far, int(judged.pred[i]), judged.x_adv[i].cpu().clone()

    def rows(self, defense: str, seed: int, attack: AttackSpec) -> pd.DataFrame:
        """Return the rows of adversarial.parquet."""
        table: list[dict[str, Any]] = [
            {
                "defense": defense,
                "seed": seed,
                "norm": attack.threat.norm,
                "sample_id": int(self.data.sample_ids[row]),
                "label": int(self.data.labels[row]),
                "pred_adv": pred,
                "attack": attack.name,
                "library": attack.library,
                "distance": far,
                **encoded(image.numpy()),
            }
            for row, (far, pred, image) in sorted(self.found.items())
        ]
        return make_table(table, ADVERSARIAL)
