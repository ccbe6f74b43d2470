"""``scratch``: the same architecture from random weights, the control that a verdict needs."""

from __future__ import annotations

from headstart.adapt._job import Candidate, Job
from headstart.adapt._tuned import retrain


class Scratch:
    """Everything learns from random weights; norms use the batch's statistics.

    The whole schedule runs, on all rows: from random weights the held-out loss rises before it falls and again when
    the network grows sure of itself, so that choosing an epoch by it would hand back a control at the level of chance.
    """

    name, cost, transfers, trains = "scratch", 4, False, True

    def candidates(self, job: Job) -> list[Candidate]:
        """One candidate."""
        return [
            retrain(
                "scratch",
                pretrained=False,
                lr=1e-3,
                head_lr=1e-3,
                rate_decay=1.0,
                epochs=40,
                patience=None,
                weight_decay=0.05,
            )
        ]


STRATEGY = Scratch()
