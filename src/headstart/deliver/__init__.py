"""What the user keeps: the model folder and its pages."""

from headstart.deliver._describe import describe
from headstart.deliver._model import SEEN, Model, check_out, is_model, load

__all__ = ["SEEN", "Model", "check_out", "describe", "is_model", "load"]
