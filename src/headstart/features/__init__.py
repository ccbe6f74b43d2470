"""Features: extraction and the store."""

from headstart.features._extract import DEPTHS, INPUT, PLAIN, Features, check_modality, extract
from headstart.features._pipeline import in_parallel
from headstart.features._store import clear_cache, prune, size_limit, usage

__all__ = [
    "DEPTHS",
    "INPUT",
    "PLAIN",
    "Features",
    "check_modality",
    "clear_cache",
    "extract",
    "in_parallel",
    "prune",
    "size_limit",
    "usage",
]
