"""Files of a repository on the hub: from the local cache, else downloaded, after saying how much that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headstart._errors import SourceError
from headstart._runtime import say


def cached(repo: str, alternatives: Sequence[str]) -> Path | None:
    """The first of these files that lies in the local hub cache."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo, file) for file in alternatives)
    return next((Path(place) for place in found if isinstance(place, str)), None)


def repositories() -> dict[str, str]:
    """The models in the local hub cache: name and place."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    return {repo.repo_id: str(repo.repo_path) for repo in repos if repo.repo_type == "model"}


def fetch(repo: str, wanted: Sequence[Sequence[str]], name: str) -> list[Path]:
    """One file for each group of alternatives, in order; what is not in the local cache is downloaded.

    Raises SourceError naming the file that was looked for.
    """
    here = [cached(repo, alternatives) for alternatives in wanted]
    missing = [alternatives for place, alternatives in zip(here, wanted) if place is None]
    fetched = iter(_download(repo, missing, name) if missing else [])
    return [place or next(fetched) for place in here]


def _download(repo: str, wanted: Sequence[Sequence[str]], name: str) -> list[Path]:
    from huggingface_hub import HfApi, errors, hf_hub_download

    http_error = getattr(errors, "HTTPError", OSError)  # the hub library changed its HTTP client between versions
    try:
        siblings = HfApi().model_info(repo, files_metadata=True, timeout=10).siblings or []
        sizes = {s.rfilename: s.size or 0 for s in siblings}
        files = []
        for alternatives in wanted:
            file = next((f for f in alternatives if f in sizes), None)
            if file is None:
                raise SourceError(f"the hub's {repo} has no {' and no '.join(alternatives)}")
            files.append(file)
        say(f"downloading {repo}/{', '.join(files)}: {sum(sizes[f] for f in files) / 1e6:.0f} MB")
        return [Path(hf_hub_download(repo, file)) for file in files]
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise SourceError(
            f"the hub does not give {repo} ({type(error).__name__}): check the name, and log in if it is not public"
        ) from error
    except (OSError, http_error, errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        raise SourceError(
            f"the weights of {name} are not here and the hub cannot be reached: looked for {repo}/{wanted[0][0]} in "
            "the local hub cache; go online once, or name a source that is at hand (`headstart sources`)"
        ) from error
