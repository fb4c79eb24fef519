"""A defense that counts how often it is asked about which images."""

from collections import Counter
from typing import ClassVar

from toys import Coded


class Counting(Coded):
    """Counts how often it predicts each batch of images, by their bytes."""

    asked: ClassVar[Counter[bytes]] = Counter()

    def predict(self, x):
        self.asked[x.numpy().tobytes()] += 1
        return super().predict(x)
