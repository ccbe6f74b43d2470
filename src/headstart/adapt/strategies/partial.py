"""``partial``: the stages above a cut learn, on cached activations of the stages below it."""

from __future__ import annotations

import math

from headstart._errors import OptionError
from headstart.adapt._job import Candidate, Job
from headstart.adapt._tuned import retrain


class Partial:
    """The suffix from a cut. Without ``cut``: the upper quarter of the stages."""

    name, cost, transfers, trains = "partial", 1, True, True

    def candidates(self, job: Job) -> list[Candidate]:
        """One candidate; none for a network that has no stages to cut between."""
        n = len(job.source.stages)
        cut = job.cut if isinstance(job.cut, int) else max(1, math.floor(0.8 * n))
        if job.cut is not None and not 1 <= cut <= n:
            raise OptionError(f"--cut {job.cut} does not exist: {job.source.name} can be cut after stage 1 to {n}")
        return [retrain("partial", f"partial, cut after stage {cut}", cut=cut)] if n else []


STRATEGY = Partial()
