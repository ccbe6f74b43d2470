"""Judging: metrics, group bootstrap intervals, calibration, choice, verdict."""

from headstart.judge._calibrate import calibration_error, cross_calibrated, fit_temperature, softmax
from headstart.judge._choice import Rivals, choose, cross_fitted
from headstart.judge._metrics import Estimate, Score, paired_difference, score, standard_error
from headstart.judge._transferability import log_me
from headstart.judge._verdict import Comparison, Verdict, compare

__all__ = [
    "Comparison",
    "Estimate",
    "Rivals",
    "Score",
    "Verdict",
    "calibration_error",
    "choose",
    "compare",
    "cross_calibrated",
    "cross_fitted",
    "fit_temperature",
    "log_me",
    "paired_difference",
    "score",
    "softmax",
    "standard_error",
]
