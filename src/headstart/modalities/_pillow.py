"""Pillow, held still: its warnings kept in and its tolerance of truncated files off while we decode.

Both are switches of the whole process, and decoding runs in many threads at once. So the first thread in
sets them and the last one out puts them back.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image, ImageFile

_lock = threading.Lock()
_inside = 0
_restore = ExitStack()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Here Pillow warns of nothing and a truncated file is an error, whatever the process chose."""
    global _inside
    with ExitStack() as own:
        if getattr(sys.flags, "context_aware_warnings", False):  # Python 3.14: filters belong to the thread
            _silence(own)
        with _lock:
            if _inside == 0:
                _hold(_restore)
            _inside += 1
        try:
            yield
        finally:
            with _lock:
                _inside -= 1
                if _inside == 0:
                    _restore.close()


def _hold(stack: ExitStack) -> None:
    _silence(stack)
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    stack.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", before)


def _silence(stack: ExitStack) -> None:
    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
