"""The model in words: terminal summary, model card, report page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headstart._front_matter import front_matter, licence_facts

if TYPE_CHECKING:
    from headstart.deliver._model import Model


def summary(model: Model) -> list[str]:
    """What came out, for the terminal."""
    evidence, config = model.evidence, model.config
    how = "each example judged by a model, and a choice of model, that had not seen it"
    start = "with the architecture of" if config["strategy"] == "scratch" else "from"
    lines = [
        f"chosen: {evidence['chosen']}, {start} {config['source']}",
        f"honest score ({how}): {_score(evidence['score'])}",
    ]
    lines += [f"note: {note}" for note in evidence["folds"]["notes"]]
    if "test" in evidence:
        lines.append(f"test part, touched once: {_score(evidence['test']['score'])}")
    lines.append(f"verdict: {evidence['verdict']['headline']}")
    return lines + [f"not compared with {name}: {why}" for name, why in evidence["verdict"]["missing"].items()]


def describe(model: Model, verdict: Sequence[str], name: str | None = None) -> None:
    """Attach the pages (model card, report) that are saved with the model; ``name`` is its name on a hub."""
    model.set_pages({"README.md": _card(model, verdict, name), "report.html": _report(model, verdict, name)})


def _score(score: Mapping[str, Any]) -> str:
    parts = [f"accuracy {_percent(score['accuracy'])}", f"balanced {_percent(score['balanced_accuracy'])}"]
    if score["auroc"] is not None:
        auroc = score["auroc"]
        parts.append(f"AUROC {auroc['value']:.3f} ({auroc['low']:.3f}–{auroc['high']:.3f})")
    loss = score["log_loss"]
    parts.append(f"log-loss {loss['value']:.3f} ({loss['low']:.3f}–{loss['high']:.3f})")
    return ", ".join(parts) + f"; {score['examples']} examples in {score['groups']} groups, 95 % intervals"


def _percent(estimate: Mapping[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} % ({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})"


def _facts(model: Model) -> list[tuple[str, str]]:
    config, evidence = model.config, model.evidence
    card = config["source_card"]
    classes = ", ".join(config["classes"][:12]) + (" …" if len(config["classes"]) > 12 else "")
    facts = [
        ("Source", f"{config['source']} ({config['architecture']}; {card.get('about') or 'see its card'})"),
        ("Licence of the source", str(card.get("licence") or "see its card")),
        ("Strategy", evidence["chosen"]),
        ("Preprocessing", "; ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in config["preprocessing"].items())),
        ("Classes", f"{len(config['classes'])}: {classes}"),
        ("Honest score", _score(evidence["score"])),
    ]
    if "test" in evidence:
        facts.append(("Test part", _score(evidence["test"]["score"])))
    facts += [("Calibration error", f"{evidence['calibration_error']:.3f}"), ("Seed", str(config["seed"]))]
    return facts


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _usage(model: Model, name: str | None = None) -> str:
    folder = name.rpartition("/")[2] if name else "this folder"
    fetch = f"# in a shell: headstart pull {name}\n" if name else ""
    return (
        f"{fetch}import headstart\n\nmodel = headstart.load('{folder}')\n"
        "model.predict(['a.jpg'])        # labels\n"
        "model.predict_proba(['a.jpg'])  # calibrated probabilities, columns as model.classes_\n"
    )


def _card(model: Model, verdict: Sequence[str], name: str | None = None) -> str:
    evidence = model.evidence
    rows = [f"| {name} | {_cell(value)} |" for name, value in _facts(model)]
    tried = [
        f"| {_cell(c['name'])} | {100 * c['accuracy']:.1f} % | {c['examples']} | {c['seconds']} s "
        f"| {_cell(c['note'])} |"
        for c in evidence["candidates"]
    ]
    return "\n".join([
        front_matter(_front(model, name)), f"# {name or 'Model card'}", "", *(f"{line}  " for line in verdict), "",
        "| | |", "|---|---|", *rows, "",
        "The honest score is cross-validated: every example was judged by a model that had not seen it, and whatever "
        "was chosen was chosen without it. It speaks for new examples from the same place and no others.", "",
        "## What was tried", "",
        "| candidate | held-out accuracy | examples | time | note |", "|---|---|---|---|---|", *tried, "",
        "## Use", "", "```python", _usage(model, name) + "```", "",
    ])  # fmt: skip


def _front(model: Model, name: str | None) -> dict[str, Any]:
    """The card's facts in the hub's words; ``base_model`` only where the source itself lies on a hub."""
    config, evidence = model.config, model.evidence
    data, task = str(evidence["audit"]["name"]), f"{config['modality']}-classification"
    results = [_result(task, data, "cross-validation", evidence["score"])]
    if "test" in evidence:
        results.append(_result(task, data, "test", evidence["test"]["score"]))
    return {
        "library_name": "headstart",
        **licence_facts(config["source_card"].get("licence")),
        "pipeline_tag": task,
        "tags": ["headstart", "transfer-learning"],
        "base_model": config["source_card"].get("hub_repo"),
        "metrics": [metric["type"] for metric in results[0]["metrics"]],
        "model-index": [{"name": (name or data).rpartition("/")[2], "results": results}],
    }


def _result(task: str, data: str, split: str, score: Mapping[str, Any]) -> dict[str, Any]:
    named = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "log_loss": "log-loss"}
    metrics = [
        {
            "type": "roc_auc" if key == "auroc" else key,
            "value": round(score[key]["value"], 4),
            "name": f"{label}, 95 % interval {score[key]['low']:.3f} to {score[key]['high']:.3f}",
        }
        for key, label in named.items()
        if score[key] is not None
    ]
    return {"task": {"type": task}, "dataset": {"name": data, "type": "custom", "split": split}, "metrics": metrics}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


STYLE = """
:root{color-scheme:light dark;--line:#8886;--accent:#2a6f97}
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.verdict{border-left:.4rem solid var(--accent);padding:.2rem 1rem;font-size:1.15rem}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid var(--line);padding:.3rem .5rem;
text-align:left;vertical-align:top}.scroll{overflow-x:auto}td.n{text-align:right}pre{overflow-x:auto;padding:.8rem;
border:1px solid var(--line)}@media print{body{max-width:none}}
"""


def _report(model: Model, verdict: Sequence[str], name: str | None = None) -> str:
    evidence = model.evidence
    e = html.escape
    facts = "".join(f"<tr><th>{e(name)}</th><td>{e(value)}</td></tr>" for name, value in _facts(model))
    tried = "".join(
        f"<tr><td>{e(c['name'])}</td><td class=n>{100 * c['accuracy']:.1f} %</td>"
        f"<td class=n>{e(str(c['examples']))}</td><td class=n>{e(str(c['seconds']))} s</td><td>{e(c['note'])}</td></tr>"
        for c in evidence["candidates"]
    )
    skipped = "".join(f"<li>{e(name)}: {e(why)}</li>" for name, why in evidence["not_tried"].items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>headstart report</title><style>{STYLE}</style>"
        f"<h1>Was the head start worth it?</h1><p class=verdict>{e(verdict[0])}</p>"
        f"<ul>{''.join(f'<li>{e(line)}</li>' for line in verdict[1:])}</ul>"
        f"<h2>The model</h2><table>{facts}</table>"
        "<h2>What was tried</h2><div class=scroll><table><tr><th>candidate</th><th>held-out accuracy</th>"
        f"<th>examples</th><th>time</th><th></th></tr>{tried}</table></div><ul>{skipped}</ul>"
        f"<h2>Confusions</h2>{_confusion(model)}<h2>The data</h2>{_audit(evidence['audit'])}"
        f"<h2>Use it</h2><pre>{e(_usage(model, name))}</pre></html>\n"
    )


def _confusion(model: Model) -> str:
    classes, counts, e = model.config["classes"], model.evidence["confusion"], html.escape
    if len(classes) > 30:
        pairs = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
        worst = sorted(pairs, reverse=True)[:20]
        return (
            "<ul>" + "".join(f"<li>{e(classes[i])} taken for {e(classes[j])}: {n}</li>" for n, i, j in worst) + "</ul>"
        )
    head = "".join(f"<th>{e(c)}</th>" for c in classes)
    rows = "".join(
        f"<tr><th>{e(classes[i])}</th>" + "".join(_shade(n, sum(row)) for n in row) + "</tr>"
        for i, row in enumerate(counts)
    )
    return (
        "<p>Rows: the label. Columns: the prediction of a model that had not seen the example.</p>"
        f"<div class=scroll><table><tr><th></th>{head}</tr>{rows}</table></div>"
    )


def _shade(n: int, total: int) -> str:
    share = n / total if total else 0
    return f"<td class=n style='background:rgba(42,111,151,{0.6 * share:.2f})'>{n or ''}</td>"


def _audit(audit: Mapping[str, Any]) -> str:
    e = html.escape
    counts = "".join(f"<tr><td>{e(c)}</td><td class=n>{e(str(n))}</td></tr>" for c, n in audit["classes"].items())
    lists = [
        ("unreadable", [f"{name}: {why}" for name, why in audit["unreadable"].items()]),
        ("exact duplicates", [" = ".join(p) for p in audit["exact_duplicates"]]),
        ("near duplicates", [" ≈ ".join(p) for p in audit["near_duplicates"]]),
        ("duplicates with two labels", [f"{a} ({x}) = {b} ({y})" for a, x, b, y in audit["label_conflicts"]]),
        ("notes", audit["notes"]),
    ]
    parts = [
        f"<p>{len(items)} {title}</p><ul>{''.join(f'<li>{e(i)}</li>' for i in items[:50])}</ul>"
        for title, items in lists
        if items
    ]
    return f"<table>{counts}</table>{''.join(parts)}"
