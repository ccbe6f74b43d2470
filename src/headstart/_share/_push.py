"""Sending a model or a source: what exactly, said first, without anything private, in one commit."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._errors import HubError, ModelError, OptionError, SourceError
from headstart._runtime import say
from headstart._share import _hub
from headstart._share._files import (
    CARD,
    CONFIG,
    EVIDENCE,
    FILES,
    GRAPH,
    LICENCE,
    MOST,
    REPORT,
    WEIGHTS,
    kind_of,
    megabytes,
    several,
)
from headstart._share._strip import Stripper, find_secret
from headstart.deliver import Model, describe, load
from headstart.judge import Verdict
from headstart.sources import open_source, public_name

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TAG = "headstart"
NOT_OURS = (LookupError, TypeError, ValueError, AttributeError)
"""What evidence raises that ``fit`` did not write."""
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)(.*)\Z", re.DOTALL)


@dataclass
class Parcel:
    """What would be sent: contents by name, and what was changed or stays here."""

    kind: str
    files: dict[str, bytes | Path] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def sizes(self) -> dict[str, int]:
        """Bytes by file name."""
        return {n: len(c) if isinstance(c, bytes) else c.stat().st_size for n, c in self.files.items()}

    def lines(self) -> list[str]:
        """For the user: one line a file, then what was changed and what stays."""
        lines = [f"  {name}: {megabytes(size)}" for name, size in self.sizes().items()]
        lines += [f"changed for sending: {change}" for change in self.changed]
        return lines + ([f"stays here: {several(self.left_out)}"] if self.left_out else [])


def push(
    path: str | Path | Model,
    name: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    message: str | None = None,
    with_examples: bool = False,
) -> dict[str, Any]:
    """Send a model folder or a source folder to ``name`` ("user/name") on the hub, as one commit.

    Only files of known names go: weights (safetensors), config, evidence, model card, report. Names of examples
    and groups are replaced by numbers unless ``with_examples``; paths of this machine never go. ``dry_run`` says
    what would be sent and asks the hub nothing. The login is the hub library's own (``hf auth login`` or
    ``HF_TOKEN``), the address ``HF_ENDPOINT``. A repository that is not there is created, ``private`` or not.

    Returns ``name``, ``kind``, ``files`` (bytes by name), ``changed``, ``left_out`` and ``url`` (of the commit; None
    after a dry run). Raises ModelError or SourceError for a folder that cannot be used, OptionError for a malformed
    name and for what must not be sent, HubError for whatever the hub refuses.
    """
    name = _hub.check_name(name)
    with tempfile.TemporaryDirectory(prefix="headstart-") as scratch:
        token = os.environ.get("HF_TOKEN") if dry_run else _hub.login()  # a login can mean a request
        parcel = prepare(_folder(path), name, Path(scratch), token=token, with_examples=with_examples)
        sizes = parcel.sizes()
        doing, where = ("would send" if dry_run else "sending"), " as a private repository" if private else ""
        say(f"{doing} to {_hub.endpoint()}/{name}{where}: {len(sizes)} files, {megabytes(sum(sizes.values()))}")
        for line in parcel.lines():
            say(line)
        url = None if dry_run else _send(parcel, name, token, private, message or f"{parcel.kind} from headstart")
    return {
        "name": name, "kind": parcel.kind, "files": sizes, "changed": parcel.changed, "left_out": parcel.left_out,
        "url": url,
    }  # fmt: skip


def _folder(path: str | Path | Model) -> Path:
    if isinstance(path, Model):
        if path.path is None:
            raise OptionError("this model was not saved yet; model.save('folder') first, then push it")
        return path.path
    return Path(path).expanduser()


# ---------------------------------------------------------------- what is sent


def prepare(folder: Path, name: str, scratch: Path, *, token: str | None, with_examples: bool) -> Parcel:
    """The parcel of a folder, checked to be a whole model or source. ``scratch`` takes what has to be rewritten."""
    if not folder.is_dir():
        raise OptionError(f"there is no folder {folder}; give the folder that fit or pretrain wrote")
    config = _read_config(folder)
    kind = kind_of(config)
    if kind is None:
        raise OptionError(f"{folder} is no model and no source: its {CONFIG} names neither a head nor an architecture")
    stripper = Stripper(with_examples, (folder.absolute(), folder.resolve(), str(config.get("source") or "")))
    there = {entry.name: entry for entry in sorted(folder.iterdir())}
    for file in FILES[kind]:
        _check_file(folder, there.get(file))
    parcel = Parcel(kind)
    texts = (_model_texts if kind == "model" else _source_texts)(folder, config, name, stripper, parcel)
    texts[CARD] = _with_tags(texts[CARD], folder / CARD)
    if LICENCE in there:
        texts[LICENCE] = stripper.page(_read_text(folder / LICENCE) or "")
    for file, text in texts.items():
        if find_secret(text, token):
            raise OptionError(f"{folder / file} holds what looks like an access key; take it out, then push again")
    parcel.files = {WEIGHTS: _weights(folder, kind, scratch)}
    for file in FILES[kind]:
        if file in texts:
            parcel.files[file] = texts[file].encode()
        elif file in there and file != WEIGHTS and file not in (EVIDENCE, REPORT):
            parcel.files[file] = there[file]
    parcel.changed += stripper.changes()
    parcel.left_out = [f"{n}/" if p.is_dir() else n for n, p in there.items() if n not in parcel.files]
    return parcel


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OptionError(
            f"{folder} is no model and no source: it has no {CONFIG}; give the folder that fit wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read as JSON ({error}); copy the folder again") from error
    return config if isinstance(config, dict) else {}


def _check_file(folder: Path, file: Path | None) -> None:
    if file is None:
        return
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        raise OptionError(
            f"{file} is a link out of its folder, or no file; put a copy of the file there, then push again"
        )
    if file.name not in (WEIGHTS, GRAPH) and file.stat().st_size > MOST:
        raise OptionError(
            f"{file} has {megabytes(file.stat().st_size)}, more than the {megabytes(MOST)} that may be sent"
        )


def _model_texts(
    folder: Path, config: Mapping[str, Any], name: str, stripper: Stripper, parcel: Parcel
) -> dict[str, str]:
    model = load(folder)
    open_ = Model(_public_config(config, stripper), model.head, {}, {})
    texts = {CONFIG: _json(open_.config)}
    written = _read_text(folder / CARD)
    try:
        if model.evidence:
            open_.evidence = stripper.evidence(model.evidence)
            texts[EVIDENCE] = _json(open_.evidence)
            describe(open_, Verdict.from_dict(open_.evidence["verdict"]).lines(), name)
    except NOT_OURS:
        texts.pop(EVIDENCE, None)
        parcel.changed.append(f"{EVIDENCE} is not as this headstart writes it, so it and {REPORT} are left out")
    pages = open_.pages
    if written is not None and not _is_as_fit_wrote_it(model, written):
        texts[CARD] = stripper.page(written)  # the user's own words
    else:
        texts[CARD] = pages.get(CARD, f"# {name}\n")
    if (folder / REPORT).is_file() and REPORT in pages:
        texts[REPORT] = stripper.text(_read_text(folder / REPORT) or "") if stripper.keep_names else pages[REPORT]
    return texts


def _public_config(config: Mapping[str, Any], stripper: Stripper) -> dict[str, Any]:
    source = str(config["source"])
    found = dict(stripper.config({k: v for k, v in config.items() if k != "source"}))
    short = public_name(source)
    stripper.paths += short != source
    return {key: short if key == "source" else found[key] for key in config}


def _is_as_fit_wrote_it(model: Model, card: str) -> bool:
    again = Model(model.config, model.head, {}, model.evidence)
    try:
        describe(again, Verdict.from_dict(model.evidence["verdict"]).lines())
    except NOT_OURS:
        return False
    return again.pages[CARD] == card


def _source_texts(
    folder: Path, config: Mapping[str, Any], name: str, stripper: Stripper, parcel: Parcel
) -> dict[str, str]:
    from headstart.sources._save import source_page

    source = open_source(folder.resolve())
    open_ = stripper.config(config)
    written = _read_text(folder / CARD)
    if written is None:
        card = {"name": name, **stripper.config(dict(source.card))}
        written = source_page(source.architecture, source.preprocessing, card)
    return {CONFIG: _json(open_), CARD: stripper.page(written)}


def _weights(folder: Path, kind: str, scratch: Path) -> Path:
    """The weights as safetensors with no more than tensors in it: the file itself, or a copy made so."""
    from safetensors import SafetensorError, safe_open

    given = folder / WEIGHTS if kind == "model" else open_source(folder.resolve()).weights
    if given.suffix == ".safetensors":
        try:
            with safe_open(given, "np") as file:
                if set(file.metadata() or {}) <= {"format"}:
                    return given
        except (OSError, SafetensorError) as error:
            raise SourceError(f"{given} is not a readable safetensors file ({error}); copy the folder again") from error
    from safetensors.torch import save_file

    from headstart.sources._source import read_weights

    tensors = {name: tensor.clone().contiguous() for name, tensor in read_weights(given).items()}
    save_file(tensors, scratch / WEIGHTS, metadata={"format": "pt"})
    return scratch / WEIGHTS


def _with_tags(text: str, place: Path) -> str:
    """The card with front matter that names library and licence, and the tag by which a repository of ours is known."""
    import yaml

    found = _FRONT.match(text)
    try:
        data = (yaml.safe_load(found[1]) if found else None) or {}
        tags = data.get("tags") or []
        tags = [tags] if isinstance(tags, str) else list(tags)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise OptionError(
            f"the front matter of {place} is no YAML ({str(error).splitlines()[0]}); repair it"
        ) from error
    if TAG in tags and "license" in data and "library_name" in data:
        return text
    full = {"library_name": TAG, "license": "unknown", **data, "tags": [*tags, *([TAG] if TAG not in tags else [])]}
    front = yaml.safe_dump(full, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{found[2] if found else chr(10) + text}"


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read as text ({error}); repair it or take it out") from error


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- sending


def _send(parcel: Parcel, name: str, token: str | None, private: bool, message: str) -> str:
    """One commit with the parcel's files, without those that an earlier push left and this one has not; its address."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if token is None:
        raise HubError(f"you are not logged in to {_hub.endpoint()}: run `hf auth login` once, or set HF_TOKEN")
    api = _hub.client(token)
    with _hub.plain_errors(name, token, sending=True), _hub.bars(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)  # what the hub has to say about the card
        there, parent = _there(api, name, private)
        if parent is None:
            api.create_repo(name, private=private or None, exist_ok=True)
        ours = {*FILES["model"], *FILES["source"]} - {LICENCE}  # which may have been added on the hub's own pages
        stale = [file for file in there if file in ours and file not in parcel.files]

        def commit() -> Any:
            operations: list[Any] = [CommitOperationAdd(file, content) for file, content in parcel.files.items()]
            operations += [CommitOperationDelete(file) for file in stale]
            return api.create_commit(name, operations, commit_message=message, parent_commit=parent)

        done = _hub.without_xet_if_need_be(commit)
    for warning in caught:
        say(f"the hub says: {several(str(warning.message).splitlines())}")
    if stale:
        say(f"taken out there, because this {parcel.kind} has none: {several(stale)}")
    say(f"sent: {done.commit_url}")
    return str(done.commit_url)


def _there(api: HfApi, name: str, private: bool) -> tuple[list[str], str | None]:
    """Files and commit of the repository; none and None if it is not there. Raises HubError if it is not to be used."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(name, timeout=10)
    except RepositoryNotFoundError:
        return [], None
    files = [sibling.rfilename for sibling in info.siblings or []]
    if any(file in (CONFIG, WEIGHTS) for file in files) and TAG not in (info.tags or []):
        raise HubError(
            f"{name} on {_hub.endpoint()} holds a model that headstart did not write ({several(files, 4)}); "
            "it is left alone: choose another name"
        )
    if private and not info.private:
        raise HubError(f"{name} is there already and public; make it private in its settings, or choose another name")
    return files, info.sha
