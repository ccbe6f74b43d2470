"""headstart gives a small labelled data set a head start: transfer learning that measures, and says if it was worth it.

Everything public is here and loads on first use, so that ``import headstart`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart._classifier import Classifier
    from headstart._errors import BadExample, DataError, HeadstartError, HubError, ModelError, OptionError, SourceError
    from headstart._explain import explain
    from headstart._fit import fit
    from headstart._pretrain import pretrain
    from headstart._rank import rank
    from headstart._share import pull, push
    from headstart._use import evaluate
    from headstart.deliver import Model, load
    from headstart.sources import Source, list_sources, open_source
    from headstart.targets import Target, audit, read, split

__version__ = "0.1.0"

_HOME = {
    "Classifier": "headstart._classifier",
    "BadExample": "headstart._errors",
    "DataError": "headstart._errors",
    "HeadstartError": "headstart._errors",
    "HubError": "headstart._errors",
    "ModelError": "headstart._errors",
    "OptionError": "headstart._errors",
    "SourceError": "headstart._errors",
    "explain": "headstart._explain",
    "fit": "headstart._fit",
    "pretrain": "headstart._pretrain",
    "pull": "headstart._share",
    "push": "headstart._share",
    "rank": "headstart._rank",
    "evaluate": "headstart._use",
    "Model": "headstart.deliver",
    "load": "headstart.deliver",
    "Source": "headstart.sources",
    "list_sources": "headstart.sources",
    "open_source": "headstart.sources",
    "Target": "headstart.targets",
    "audit": "headstart.targets",
    "read": "headstart.targets",
    "split": "headstart.targets",
}

__all__ = [
    "BadExample",
    "Classifier",
    "DataError",
    "HeadstartError",
    "HubError",
    "Model",
    "ModelError",
    "OptionError",
    "Source",
    "SourceError",
    "Target",
    "audit",
    "evaluate",
    "explain",
    "fit",
    "list_sources",
    "load",
    "open_source",
    "pretrain",
    "pull",
    "push",
    "rank",
    "read",
    "split",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'headstart' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
