"""Fetching a model or a source: said first, data only, checked, and whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from headstart._errors import HeadstartError, HubError, OptionError, SourceError
from headstart._runtime import atomic_folder, plain_disk_errors, say
from headstart._share import _hub
from headstart._share._files import (
    CONFIG,
    EVIDENCE,
    FILES,
    GRAPH,
    MOST,
    REPORT,
    WEIGHTS,
    kind_of,
    megabytes,
    printable,
    several,
)
from headstart._share._push import NOT_OURS
from headstart._share._strip import Stripper
from headstart.deliver import Model, describe, load
from headstart.judge import Verdict
from headstart.sources import file_sha256, open_source
from headstart.sources.providers.folder import PULLED, pulled_from

FETCHED = tuple(dict.fromkeys(f for files in FILES.values() for f in files if f != REPORT))
"""Files that are fetched. The report is a page with markup: it is written anew here from the evidence."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".keras")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    commit: str
    sizes: Mapping[str, int | None]
    """Bytes of every file; None where the hub does not say."""
    checksums: Mapping[str, str]
    """sha256 of the files for which the hub says it."""


def pull(name: str, *, out: str | Path | None = None, revision: str | None = None) -> Path:
    """Fetch the model or source ``name`` ("user/name") from the hub into the folder ``out`` (default: its short name).

    Says how much before anything is downloaded. What the hub library's local cache holds is not downloaded again, and
    serves alone when the hub cannot be reached. ``revision`` is a branch, a tag or a commit. Only data is fetched
    (safetensors, JSON, the model card), checked by opening it, and written whole or not at all; no code is run. A
    folder that was not pulled from ``name``, or was changed since, is left alone.

    Returns the folder. Raises OptionError for a malformed name or an occupied folder, HubError for what the hub refuses
    and for a repository that is neither a model nor a source, or is damaged.
    """
    name, final = _hub.check_name(name), Path(out if out is not None else name.partition("/")[2]).expanduser()
    mine = _occupied_by(final, name)
    token = _hub.login()
    try:
        found = _local(name, revision) if revision and _COMMIT.fullmatch(revision) else None
        found = found or _ask(name, revision, token)
    except _hub.Unreachable as error:
        found = _local(name, revision)
        if found is None:
            raise _missing(name, error) from None
        say(f"{error}; taking {name} from the local hub cache, at {found.commit[:7]}")
    if mine == found.commit:
        say(f"{final} is {name} at {found.commit[:7]} already")
        return final
    files = _choose(found, name)
    with plain_disk_errors(_cache()):
        paths = _fetch(name, revision, found, files, token)
    kind = _write(final, name, found, paths)
    use = f"headstart predict {final} FILES" if kind == "model" else f"headstart fit DATA --source {_as_path(final)}"
    say(f"{kind} {name} at {found.commit[:7]} is in {final}; use it: {use}")
    return final


def _as_path(folder: Path) -> str:
    return str(folder) if folder.is_absolute() or str(folder).startswith(".") else f"./{folder}"


def _occupied_by(final: Path, name: str) -> str | None:
    """The commit of ``name`` that ``final`` holds unchanged; None if it is free. Raises OptionError otherwise."""
    if not final.exists() and not final.is_symlink():
        return None
    if final.is_dir() and not any(final.iterdir()) and final.resolve() != Path.cwd():
        return None
    mark = pulled_from(final) if final.is_dir() else None
    if mark is None or mark["repo"] != name:
        raise OptionError(f"{final} exists and was not pulled from {name}; it is left alone: choose another --out")
    there = {entry.name for entry in final.iterdir()} - {PULLED}
    if there != set(mark["files"]) or any(_changed(final / f, known) for f, known in mark["files"].items()):
        raise OptionError(f"{final} was changed since it was pulled; it is left alone: choose another --out")
    return str(mark["revision"])


def _changed(file: Path, known: str) -> bool:
    return file.is_symlink() or not file.is_file() or file_sha256(file) != known


# ---------------------------------------------------------------- what is there


def _ask(name: str, revision: str | None, token: str | None) -> Listing:
    """What the hub holds. Raises Unreachable if it does not answer, HubError if it refuses."""
    api = _hub.client()
    try:
        with _hub.plain_errors(name, token):
            info = api.model_info(name, revision=revision, files_metadata=True, timeout=10)
            siblings = info.siblings or []
            sizes = {sibling.rfilename: sibling.size for sibling in siblings}
            checksums = {s.rfilename: str(s.lfs.sha256) for s in siblings if s.lfs is not None}
            commit = str(info.sha)
    except _hub.Unreachable:
        raise
    except HubError as error:
        other = _other_type(api, name)
        raise HubError(f"{name} is a {other}, no model; `hf download` fetches such") if other else error from None
    if not _COMMIT.fullmatch(commit):
        raise HubError(f"{_hub.endpoint()} names no commit of {name}; look at HF_ENDPOINT: is it a hub?")
    return Listing(commit, sizes, checksums)


def _other_type(api: Any, name: str) -> str | None:
    try:
        with _hub.plain_errors(name, None):
            return next((kind for kind in ("dataset", "space") if api.repo_exists(name, repo_type=kind)), None)
    except HubError:
        return None


def _local(name: str, revision: str | None) -> Listing | None:
    """The newest copy of that revision in the local hub cache; None if weights or config are not there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    place = Path(config).parent
    if not (place / WEIGHTS).is_file():
        return None
    return Listing(place.name, {f: (place / f).stat().st_size for f in FETCHED if (place / f).is_file()}, {})


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _missing(name: str, error: HubError) -> HubError:
    return HubError(f"{error}; looked for {name}/{CONFIG} and {name}/{WEIGHTS} in the local hub cache {_cache()}")


def _choose(found: Listing, name: str) -> list[str]:
    """The files to fetch. Raises HubError for a repository that is none of ours, before anything is downloaded."""
    for file in found.sizes:
        if _leaves_its_folder(file):
            raise HubError(f"{name} is refused: it lists a file name that leaves its folder ({several([file])})")
    missing = [file for file in (CONFIG, WEIGHTS) if file not in found.sizes]
    pickles = [file for file in found.sizes if file.endswith(PICKLES)]
    if WEIGHTS in missing and pickles:
        raise HubError(
            f"{name} is refused: it has its weights only in a format that can run code ({several(pickles, 3)}); "
            f"ask its author for {WEIGHTS}"
        )
    if missing:
        holds = several(found.sizes) or "nothing"
        raise HubError(f"{name} is no headstart model and no source: it has no {' and no '.join(missing)}, but {holds}")
    files = [file for file in FETCHED if file in found.sizes]
    for file in files:
        _check_size(name, file, found.sizes[file] or 0)
    return files


def _check_size(name: str, file: str, size: int) -> None:
    if file not in (WEIGHTS, GRAPH) and size > MOST:
        raise HubError(f"{name} is refused: {file} has {megabytes(size)}, too much for what it is")


def _leaves_its_folder(file: str) -> bool:
    parts = {*PurePosixPath(file).parts, *PureWindowsPath(file).parts}
    rooted = PurePosixPath(file).is_absolute() or PureWindowsPath(file).anchor != ""
    return rooted or ".." in parts or "\0" in file


# ---------------------------------------------------------------- fetching


def _fetch(name: str, revision: str | None, found: Listing, files: list[str], token: str | None) -> dict[str, Path]:
    """The files in the local hub cache, downloaded where they are not there yet. The size is said before."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    def cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file, revision=found.commit), str)

    files = sorted(files, key=lambda file: file != CONFIG)  # it decides whether the rest is worth fetching
    new = [file for file in files if not cached(file)]
    total, to_come = (sum(found.sizes[f] or 0 for f in some) for some in (files, new))
    unknown = "" if all(found.sizes[f] is not None for f in new) else " or more: the hub does not say"
    source = f"up to {megabytes(to_come)} to download{unknown}" if new else "all in the local hub cache"
    say(f"{name} at {found.commit[:7]}: {len(files)} files, {megabytes(total)}, {source}")
    others = [f for f in found.sizes if f not in (*files, REPORT) and not Path(f).name.startswith(".")]
    if others:
        say(f"not fetched: {several(others)}")
    paths = {}
    with _hub.plain_errors(name, token), _hub.bars():
        for file in files:
            # by the name of the revision once, so that the cache knows the name offline; then by the commit
            wanted = revision if file == CONFIG and new else found.commit
            fetch = partial(hf_hub_download, name, file, revision=wanted)
            path = Path(_hub.without_xet_if_need_be(fetch))
            if path.parent.name != found.commit:
                raise HubError(f"{name} changed while it was fetched; run the same command again")
            paths[file] = path
            if file == CONFIG:
                _check_size(name, file, path.stat().st_size)
                _kind(path, name)
    return paths


def _write(final: Path, name: str, found: Listing, paths: Mapping[str, Path]) -> str:
    """Copy, check, and put in place as one. Returns "model" or "source". Raises HubError if it is not to be trusted."""
    with atomic_folder(final) as new:
        for file, path in paths.items():
            _check_size(name, file, path.stat().st_size)  # the hub may have said less
            shutil.copyfile(path, new / file)
            known = found.checksums.get(file)
            if known is not None and file_sha256(new / file) != known:
                raise HubError(
                    f"{file} of {name} is not what the hub announced (its sha256 differs); remove {path.resolve()} and "
                    "run the same command again"
                )
        kind = _check(new, name)
        for file in set(paths) - set(FILES[kind]):
            (new / file).unlink()
        sums = {file.name: file_sha256(file) for file in sorted(new.iterdir())}
        mark = {"hub": _hub.endpoint(), "repo": name, "revision": found.commit, "files": sums}
        (new / PULLED).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
    return kind


def _check(folder: Path, name: str) -> str:
    """Open what was fetched; writes the report of a model. Returns what it is. Raises HubError if it cannot be used."""
    kind = _kind(folder / CONFIG, name)
    try:
        if kind == "model":
            _write_report(load(folder), folder)
        else:
            _check_source(folder)
    except HeadstartError as error:
        reason = str(error).replace(str(folder), "what it holds").partition("; copy the")[0]
        raise HubError(f"{name} is refused: {reason}") from error
    return kind


def _kind(file: Path, name: str) -> str:
    """ "model" or "source" by ``config.json``. Raises HubError for anything else."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise HubError(f"{name} is refused: its {CONFIG} is no JSON ({_short(error)})") from error
    kind = kind_of(config) if isinstance(config, dict) else None
    if kind is None:
        raise HubError(f"{name} is no headstart model and no source: its {CONFIG} names no head and no architecture")
    return kind


def _short(error: BaseException) -> str:
    return printable(str(error))[:100]


def _check_source(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    open_source(folder.resolve())
    try:
        with safe_open(folder / WEIGHTS, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise SourceError(f"its {WEIGHTS} is no safetensors file ({_short(error)})") from error


def _write_report(model: Model, folder: Path) -> None:
    """The page from the evidence as far as it is of the known types, so that nothing in it can be markup."""
    try:
        model.evidence = Stripper(keep_names=True).evidence(model.evidence) if model.evidence else {}
        describe(model, Verdict.from_dict(model.evidence["verdict"]).lines())
        (folder / REPORT).write_text(model.pages[REPORT], encoding="utf-8")
    except NOT_OURS:
        if (folder / EVIDENCE).is_file():
            say(f"its {EVIDENCE} is not as this headstart writes it; {REPORT} is left out")
