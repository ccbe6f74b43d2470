"""``light``: the head, and the norms' and layers' one-dimensional parameters (BitFit, ACL 2022)."""

from __future__ import annotations

from headstart.adapt._job import Candidate, Job
from headstart.adapt._tuned import retrain


class Light:
    """Norms, biases and head; all weights stay."""

    name, cost, transfers, trains = "light", 2, True, True

    def candidates(self, job: Job) -> list[Candidate]:
        """One candidate over the whole network."""
        return [retrain("light", only_vectors=True, lr=2e-3, rate_decay=1.0)]


STRATEGY = Light()
