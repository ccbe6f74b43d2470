"""Any timm architecture by name; weights from the local hub cache, or from the network when there is one."""

from __future__ import annotations

from typing import Any

from headstart._errors import SourceError
from headstart.sources._catalogue import catalogue, known_of, listed
from headstart.sources._source import Source
from headstart.sources.providers._hub import cached, fetch, repositories
from headstart.sources.providers.folder import preprocessing_of

ORDER = 2
PREFIX = "timm/"
FILES = ("model.safetensors", "pytorch_model.bin")


def open(name: str) -> Source | None:
    """``timm/NAME`` or a bare architecture name with an optional tag: ``resnet18.a1_in1k``."""
    import timm
    from timm.models import get_pretrained_cfg

    short = name.removeprefix(PREFIX)
    architecture = short.partition(".")[0]
    if not timm.is_model(architecture):
        if name.startswith(PREFIX):
            raise SourceError(f"timm knows no architecture {architecture!r}{_near(architecture)}")
        return None
    cfg = get_pretrained_cfg(short, allow_unregistered=False)
    if cfg is None or not cfg.hf_hub_id:
        raise SourceError(f"timm has no pre-trained weights on the hub for {short}")
    repo = cfg.hf_hub_id if not cfg.hf_hub_id.endswith("/") else f"{cfg.hf_hub_id}{architecture}.{cfg.tag}"
    (weights,) = fetch(repo, [FILES], name)
    card = {
        "about": f"timm weights {architecture}.{cfg.tag}",
        "num_classes": cfg.num_classes,
        "licence": cfg.license or "see its card",
        "origin": repo,
        "hub_repo": repo,
    }
    full = f"{PREFIX}{architecture}.{cfg.tag}"
    return Source(
        full, "image", architecture, preprocessing_of(cfg.to_dict()), weights, card={**card, **known_of(full)}
    )


def entries() -> list[dict[str, Any]]:
    """The catalogue's timm networks, and whatever else of timm lies in the local hub cache."""
    here = _cached()
    known = [entry for name, entry in catalogue().items() if name.startswith(PREFIX)]
    others = [
        {
            "name": name,
            "modality": "image",
            "architecture": name.removeprefix(PREFIX).partition(".")[0],
            "licence": "see its card",
            "about": "in the local hub cache",
        }
        for name in sorted(here.keys() - {entry["name"] for entry in known})
    ]
    return [listed(entry, here.get(entry["name"])) for entry in (*known, *others)]


def _cached() -> dict[str, str]:
    """timm's repositories in the local hub cache whose weights are there: name and place."""
    return {n: p for n, p in repositories().items() if n.startswith(PREFIX) and cached(n, FILES)}


def _near(architecture: str) -> str:
    import difflib

    import timm

    near = difflib.get_close_matches(architecture, timm.list_models(), 3)
    return f"; did you mean {', '.join(near)}?" if near else ""
