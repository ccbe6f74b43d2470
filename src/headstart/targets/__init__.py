"""The user's task: reading it, auditing it, dividing it."""

from headstart.targets._audit import Audit, audit, stop_if_too_many
from headstart.targets._found import PASSED_OVER
from headstart.targets._overlap import Overlap, overlap
from headstart.targets._read import read, read_examples
from headstart.targets._split import Folds, draw, split
from headstart.targets._target import Target

__all__ = [
    "PASSED_OVER",
    "Audit",
    "Folds",
    "Overlap",
    "Target",
    "audit",
    "draw",
    "overlap",
    "read",
    "read_examples",
    "split",
    "stop_if_too_many",
]
