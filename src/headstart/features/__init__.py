"""Features: extraction and the store."""

from headstart.features._extract import DEPTHS, INPUT, PLAIN, Features, extract
from headstart.features._pipeline import in_parallel
from headstart.features._store import prune, size_limit, usage

__all__ = ["DEPTHS", "INPUT", "PLAIN", "Features", "extract", "in_parallel", "prune", "size_limit", "usage"]
