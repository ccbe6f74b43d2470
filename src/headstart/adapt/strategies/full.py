"""``full``: everything learns."""

from __future__ import annotations

from headstart.adapt._job import Candidate, Job
from headstart.adapt._tuned import retrain


class Full:
    """The whole network and the head."""

    name, cost, transfers, trains = "full", 3, True, True

    def candidates(self, job: Job) -> list[Candidate]:
        """One candidate."""
        return [retrain("full")]


STRATEGY = Full()
