"""Any timm architecture by name; weights from the local hub cache, or from the network when there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstart._errors import SourceError
from headstart._runtime import say
from headstart.sources._catalogue import catalogue, listed
from headstart.sources._source import Source
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
    weights = _locate(repo, name)
    card = {
        "about": f"timm weights {architecture}.{cfg.tag}",
        "num_classes": cfg.num_classes,
        "licence": cfg.license or "see its card",
        "origin": repo,
        "hub_repo": repo,
    }
    return Source(
        f"{PREFIX}{architecture}.{cfg.tag}", "image", architecture, preprocessing_of(cfg.to_dict()), weights, card=card
    )


def entries() -> list[dict[str, Any]]:
    """The catalogue's timm networks, and whatever else of timm lies in the local hub cache."""
    cached = _cached()
    known = [entry for name, entry in catalogue().items() if name.startswith(PREFIX)]
    others = [
        {
            "name": name,
            "modality": "image",
            "architecture": name.removeprefix(PREFIX).partition(".")[0],
            "licence": "see its card",
            "about": "in the local hub cache",
        }
        for name in sorted(cached.keys() - {entry["name"] for entry in known})
    ]
    return [listed(entry, cached.get(entry["name"])) for entry in (*known, *others)]


def _cached() -> dict[str, str]:
    """timm's repositories in the local hub cache: name and place."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    names = {repo.repo_id: str(repo.repo_path) for repo in repos if repo.repo_type == "model"}
    return {name: where for name, where in names.items() if name.startswith(PREFIX) and _weights_of(name)}


def _locate(repo: str, name: str) -> Path:
    """The weights file in the local hub cache, else downloaded. The size is said before anything is fetched."""
    return _weights_of(repo) or _download(repo, name)


def _weights_of(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo, file) for file in FILES)
    return next((Path(place) for place in found if isinstance(place, str)), None)


def _download(repo: str, name: str) -> Path:
    from huggingface_hub import HfApi, errors, hf_hub_download

    http_error = getattr(errors, "HTTPError", OSError)  # the hub library changed its HTTP client between versions

    try:
        siblings = HfApi().model_info(repo, files_metadata=True, timeout=10).siblings or []
        sizes = {s.rfilename: s.size or 0 for s in siblings}
        file = next(f for f in FILES if f in sizes)
        say(f"downloading {repo}/{file}: {sizes[file] / 1e6:.0f} MB")
        return Path(hf_hub_download(repo, file))
    except StopIteration as error:
        raise SourceError(f"the hub's {repo} has neither {FILES[0]} nor {FILES[1]}") from error
    except (OSError, http_error, errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise SourceError(
            f"the weights of {name} are not here and the hub cannot be reached: looked for {repo}/{FILES[0]} in the "
            "local hub cache; go online once, or name a source that is at hand (`headstart sources`)"
        ) from error


def _near(architecture: str) -> str:
    import difflib

    import timm

    near = difflib.get_close_matches(architecture, timm.list_models(), 3)
    return f"; did you mean {', '.join(near)}?" if near else ""
