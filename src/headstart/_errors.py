"""What can go wrong, in one tree.

HeadstartError            anything headstart itself reports; its text is one line: cause, place, way out
├── DataError             the user's data cannot be used as it is
│   └── BadExample        one example cannot be read (counted and listed, not fatal by itself)
├── SourceError           a pre-trained network cannot be found, trusted or opened
├── ModelError            a model folder is incomplete or damaged
├── HubError              the hub cannot be reached, refuses, or holds something else
└── OptionError           the arguments contradict each other or the data
"""

from __future__ import annotations


class HeadstartError(Exception):
    """Base of every error that headstart reports on purpose."""


class DataError(HeadstartError):
    """The target's data cannot be used as it is."""


class BadExample(DataError):
    """One example cannot be read; the text is the reason alone, without the name."""


class SourceError(HeadstartError):
    """A source cannot be found, trusted or opened."""


class ModelError(HeadstartError):
    """A model folder is incomplete or damaged."""


class HubError(HeadstartError):
    """The hub cannot be reached, refuses, or holds something else than a model or a source."""


class OptionError(HeadstartError):
    """The options contradict each other or do not fit the data."""
