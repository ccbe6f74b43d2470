"""Adapting: heads, strategies, the training loop, checkpoints."""

from headstart.adapt._head import Head
from headstart.adapt._job import Candidate, Fitted, Job, out_of_fold
from headstart.adapt._journal import Journal
from headstart.adapt._probe import Linear, fit_probe, held_out_logits
from headstart.adapt.strategies import Strategy, all_strategies, strategies_for

__all__ = [
    "Candidate",
    "Fitted",
    "Head",
    "Job",
    "Journal",
    "Linear",
    "Strategy",
    "all_strategies",
    "fit_probe",
    "held_out_logits",
    "out_of_fold",
    "strategies_for",
]
