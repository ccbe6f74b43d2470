"""The public names, exactly; everything else is private."""

from __future__ import annotations

import subprocess
import sys

import pytest

import headstart

NAMES = [
    "BadExample", "Classifier", "DataError", "HeadstartError", "HubError", "Model", "ModelError", "OptionError",
    "Source", "SourceError", "Target", "audit", "evaluate", "explain", "fit", "list_sources", "load", "open_source",
    "pretrain", "pull", "push", "rank", "read", "split",
]  # fmt: skip


def test_the_public_names() -> None:
    assert sorted(headstart.__all__) == NAMES
    assert dir(headstart) == sorted(headstart.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(headstart, name)
    assert found.__name__ == name
    assert found.__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Model2'"):
        headstart.Model2  # noqa: B018


def test_every_error_is_one_of_ours() -> None:
    for name in NAMES:
        if name.endswith("Error") or name == "BadExample":
            assert issubclass(getattr(headstart, name), headstart.HeadstartError)


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, headstart, headstart.cli;"
        "print([m for m in ('torch', 'timm', 'sklearn', 'scipy', 'numpy', 'PIL', 'pyarrow', 'matplotlib') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
