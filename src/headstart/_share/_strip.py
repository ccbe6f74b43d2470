"""What may leave this machine: names of examples become numbers, paths their last part, unknown entries stay here."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

_PART = r"[^\s/\\\"'<>|`,;:()\[\]{}]+"
_PATHS = re.compile(
    rf"file://[^\s\"'<>]+"
    rf"|(?<![\w/.~<])/(?:{_PART}/)+(?:{_PART})?"  # /home/jane/x, but neither /x nor a part of an address
    rf"|(?<!\w)[A-Za-z]:[\\/](?:{_PART}[\\/])*(?:{_PART})?"  # C:\jane\x
    rf"|\\\\{_PART}(?:[\\/]{_PART})+"  # \\server\x
    rf"|(?<![\w/.])~[\w.-]*[\\/](?:{_PART}[\\/])*(?:{_PART})?"  # ~/x, ~jane/x
)
_A_PATH = re.compile(r"(file://|/|[A-Za-z]:[\\/]|\\\\|~[\w.-]*[\\/])[^\n]*")
_SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bsk-[A-Za-z0-9_-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_KEPT_AS_IT_IS = ("classes", "label_names", "label_descriptions")
_SHORTEST_TOKEN = 8
_SHORTEST = 4
"""Characters of a name that is looked for in a page that the user wrote."""


class Stripper:
    """Makes texts fit to be sent, and counts what it changed."""

    def __init__(self, keep_names: bool = False, places: Iterable[str | Path] = ()) -> None:
        """``places``: folders on this machine that are known to be spoken of, which may have spaces in their names."""
        self.keep_names = keep_names
        self.paths = 0
        self.numbers: dict[str, str] = {}
        """Name of an example or group → what stands in its place."""
        self.left_out: list[str] = []
        """Entries of evidence.json that this version does not know to be harmless."""
        known = {folder for place in (*places, Path.home(), Path.cwd()) for folder in _with_parents(Path(place))}
        spelt = known | {html.escape(folder) for folder in known}
        self._places = sorted(spelt, key=len, reverse=True)

    def changes(self) -> list[str]:
        """What was changed, for the user."""
        lines = []
        if self.numbers:
            lines.append(
                f"{len(self.numbers)} names of your examples and groups are replaced by numbers "
                "(--with-examples keeps them)"
            )
        if self.paths:
            lines.append(f"{self.paths} paths of this machine are cut to their last part")
        if self.left_out:
            lines.append(f"left out of evidence.json: {', '.join(self.left_out)} (--with-examples keeps it)")
        return lines

    def config(self, value: Any) -> Any:
        """JSON data with every path cut; names of classes stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {k: v if k in _KEPT_AS_IT_IS else self.config(v) for k, v in value.items()}
        return [self.config(item) for item in value] if isinstance(value, (list, tuple)) else value

    def text(self, text: str) -> str:
        """``text`` with every absolute path cut to its last part."""
        if _A_PATH.fullmatch(text):  # nothing but a path, perhaps with spaces
            found = _last(text)
            self.paths += found != text
            return found
        for place in self._places:
            text, n = re.subn(re.escape(place) + r"[\\/]", "", text)
            self.paths += n
        text, n = _PATHS.subn(lambda match: _last(match[0]), text)
        self.paths += n
        return text

    def page(self, text: str) -> str:
        """A page that the user may have written: without paths and without the names that were replaced."""
        for name, number in sorted(self._spellings(), key=lambda pair: -len(pair[0])):
            text = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w-])", number, text)
        return self.text(text)

    def _spellings(self) -> Iterable[tuple[str, str]]:
        for name, number in self.numbers.items():
            for spelling in {name, _last(name)}:
                if len(spelling) >= _SHORTEST:
                    yield spelling, number

    def name(self, name: Any, what: str = "example") -> str:
        """What stands for the name of an example: a number, the same for the same name."""
        text = str(name)
        if self.keep_names:
            return self.text(text)
        return self.numbers.setdefault(text, f"{what} {len(self.numbers) + 1}")

    # ------------------------------------------------------------ evidence

    def evidence(self, evidence: Mapping[str, Any]) -> dict[str, Any]:
        """The known entries of a model's evidence, each of its own type. Raises KeyError, TypeError, ValueError,
        AttributeError for what ``fit`` cannot have written.
        """
        known: dict[str, Callable[[Any], Any]] = {
            "score": _score,
            "calibration_error": float,
            "verdict": self._verdict,
            "chosen": self.text,
            "candidates": lambda rows: [self._candidate(row) for row in rows],
            "not_tried": self._reasons,
            "ranking": self.config,
            "folds": lambda folds: {"count": int(folds["count"]), "notes": [self.text(n) for n in folds["notes"]]},
            "confusion": lambda rows: [[int(n) for n in row] for row in rows],
            "audit": self._audit,
            "test": self._test,
            "seconds": float,
        }
        return self._known(evidence, known, "")

    def _known(self, data: Mapping[str, Any], known: Mapping[str, Callable[[Any], Any]], place: str) -> dict[str, Any]:
        found = {key: known[key](value) for key, value in data.items() if key in known}
        unknown = [key for key, value in data.items() if key not in known and value not in (None, {}, [], "")]
        if self.keep_names:
            return found | {key: self.config(data[key]) for key in unknown}
        self.left_out += [f"{place}{key}" for key in unknown]
        return found

    def _reasons(self, reasons: Mapping[str, Any]) -> dict[str, str]:
        return {str(name): self.text(str(reason)) for name, reason in reasons.items()}

    def _named_reasons(self, reasons: Mapping[str, Any]) -> dict[str, str]:
        return {self.name(name): self.text(str(reason)) for name, reason in reasons.items()}

    def _verdict(self, verdict: Mapping[str, Any]) -> dict[str, Any]:
        def comparison(entry: Mapping[str, Any]) -> dict[str, Any]:
            return {
                "control": self.text(entry["control"]),
                "ours": float(entry["ours"]),
                "theirs": float(entry["theirs"]),
                "difference": _estimate(entry["difference"]),
                "examples": int(entry["examples"]),
                "outcome": self.text(entry["outcome"]),
            }

        worth_it = verdict["worth_it"]
        return {
            "worth_it": None if worth_it is None else bool(worth_it),
            "headline": self.text(verdict["headline"]),
            "comparisons": [comparison(entry) for entry in verdict["comparisons"]],
            "missing": self._reasons(verdict["missing"]),
        }

    def _candidate(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": self.text(row["name"]),
            "accuracy": float(row["accuracy"]),
            "examples": int(row["examples"]),
            "seconds": float(row["seconds"]),
            "note": self.text(row["note"]),
            "folds": [{str(k): v for k, v in fold.items() if _is_number(v)} for fold in row["folds"]],
        }

    def _audit(self, audit: Mapping[str, Any]) -> dict[str, Any]:
        def pairs(entries: Any) -> list[list[str]]:
            return [[self.name(one), self.name(two)] for one, two in entries]

        known: dict[str, Callable[[Any], Any]] = {
            "name": self._data_name,
            "modality": str,
            "examples": int,
            "classes": lambda counts: {str(c): int(n) for c, n in counts.items()},
            "groups": lambda n: None if n is None else int(n),
            "blocks": int,
            "exact_duplicates": pairs,
            "near_duplicates": pairs,
            "label_conflicts": lambda rows: [[self.name(a), str(x), self.name(b), str(y)] for a, x, b, y in rows],
            "unreadable": self._named_reasons,
            "passed_over": self._named_reasons,
            "dropped_classes": lambda names: [str(name) for name in names],
            "notes": self._notes,
        }
        return self._known(audit, known, "audit.")

    def _notes(self, notes: Iterable[Any]) -> list[str]:
        """Sentences that name folders, tables and columns of the user."""
        return [self.text(str(note)) for note in notes] if self.keep_names else []

    def _data_name(self, name: Any) -> str:
        cut = _last(str(name))
        self.paths += cut != name
        return cut

    def _test(self, test: Mapping[str, Any]) -> dict[str, Any]:
        def repeated(rows: Any) -> list[list[str]]:
            return [[self.name(one), self.name(two), str(how)] for one, two, how in rows]

        overlap: dict[str, Callable[[Any], Any]] = {
            "name": self._data_name,
            "scored": int,
            "repeated": repeated,
            "shared_groups": lambda names: [self.name(name, "group") for name in names],
            "unreadable": self._named_reasons,
        }
        known: dict[str, Callable[[Any], Any]] = {
            "score": _score,
            "overlap": lambda data: self._known(data, overlap, "test.overlap."),
        }
        return self._known(test, known, "test.")


def find_secret(text: str, token: str | None) -> bool:
    """Whether ``text`` holds the login's token or anything that looks like an access key."""
    return bool(token and len(token) >= _SHORTEST_TOKEN and token in text) or _SECRETS.search(text) is not None


def _with_parents(place: Path) -> list[str]:
    """An absolute folder and those above it, but for the root and what lies right below it."""
    if not place.is_absolute():
        return []
    return [str(folder) for folder in (place, *place.parents) if len(folder.parts) > 2]


def _last(path: str) -> str:
    """The last part of a path; the path itself if it has none."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or path


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def _estimate(data: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(data[name]) for name in ("value", "low", "high")}


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    measures = ("accuracy", "balanced_accuracy", "auroc", "log_loss")
    found: dict[str, Any] = {m: None if score[m] is None else _estimate(score[m]) for m in measures}
    return found | {"examples": int(score["examples"]), "groups": int(score["groups"])}
