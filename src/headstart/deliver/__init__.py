"""What the user keeps: the model folder and its pages."""

from headstart.deliver._describe import describe
from headstart.deliver._model import Model, load

__all__ = ["Model", "describe", "load"]
