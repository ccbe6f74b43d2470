"""The head of a model card in the hub's conventions: YAML between two lines of dashes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[a-z][a-z0-9_.-]*")
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_NAMES = (
    "apache-2.0 mit bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-4.0 cc-by-3.0 cc-by-2.0 cc-by-sa-4.0 cc-by-sa-3.0 "
    "cc-by-nc-4.0 cc-by-nc-3.0 cc-by-nc-2.0 cc-by-nc-sa-4.0 cc-by-nc-sa-3.0 cc-by-nc-nd-4.0 cc-by-nd-4.0 gpl gpl-2.0 "
    "gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 agpl-3.0 mpl-2.0 isc zlib unlicense wtfpl afl-3.0 artistic-2.0 bsl-1.0 epl-2.0 "
    "openrail bigscience-openrail-m creativeml-openrail-m openrail++ odbl odc-by pddl ms-pl ncsa postgresql "
    "unknown other"
)
_LICENCES = frozenset(_NAMES.split())
"""Licences by the names that the hub knows; any other is called "other" and named beside it."""


def front_matter(facts: Mapping[str, Any]) -> str:
    """``facts`` as front matter, ending in a line break; what is None or empty is left out.

    Text comes out plain or as a JSON string, which YAML reads the same way, so that nothing in it can end the block.
    """
    kept = {key: value for key, value in facts.items() if value is not None and value != "" and value != []}
    return "\n".join(["---", *_lines(kept, ""), "---", ""])


def licence_facts(licence: Any) -> dict[str, str]:
    """A licence as the entries ``license`` and, if the hub has no word for it, ``license_name``."""
    name = re.sub(r"[^a-z0-9.+-]+", "-", str(licence or "unknown").lower()).strip("-")
    if name in ("see-its-card", ""):
        name = "unknown"
    return {"license": name} if name in _LICENCES else {"license": "other", "license_name": name}


def _lines(value: Any, indent: str) -> list[str]:
    """A mapping or list as YAML lines in block style."""
    lines = []
    for key, inner in value.items() if isinstance(value, Mapping) else ((None, item) for item in value):
        head = f"{indent}- " if key is None else f"{indent}{key}:"
        if not isinstance(inner, (Mapping, list, tuple)):
            lines.append(f"{head.rstrip()} {_scalar(inner)}")
        elif key is None:
            first, *rest = _lines(inner, indent + "  ")
            lines += [head + first.lstrip(), *rest]
        else:
            lines += [head, *_lines(inner, indent if isinstance(inner, (list, tuple)) else indent + "  ")]
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        text = "".join(c if c.isprintable() else " " for c in value)
        return text if _PLAIN.fullmatch(text) and text not in _RESERVED else json.dumps(text, ensure_ascii=False)
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    return re.sub(r"^(-?\d+)e", r"\1.0e", json.dumps(value))  # to YAML 1.1 a float without a point is text
