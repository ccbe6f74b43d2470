"""Writing a source: timm's ``local-dir`` layout plus a card, so that timm itself can open it too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._front_matter import front_matter, licence_facts

if TYPE_CHECKING:
    import torch


def save_source(
    folder: Path,
    network: torch.nn.Module,
    *,
    architecture: str,
    model_args: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    card: Mapping[str, Any],
    classes: Sequence[str],
    half: bool = False,
) -> None:
    """Fill an existing ``folder`` with ``model.safetensors``, ``config.json`` and ``README.md``.

    ``network`` is a timm network with its output layer over ``classes``. ``half`` stores the weights as fp16, half
    the size; they are read back as fp32. Wrap the call in ``atomic_folder`` so that no reader sees a part.
    """
    import torch
    from safetensors.torch import save_file

    kind = torch.float16 if half else torch.float32
    tensors = {
        name: (t.detach().to("cpu", kind) if t.is_floating_point() else t.detach().cpu()).clone().contiguous()
        for name, t in network.state_dict().items()
    }
    full_card = {**card, "stored_as": "fp16" if half else "fp32"}
    config = _config(network, architecture, model_args, preprocessing, full_card, classes)
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # some versions write it for the owner only
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(source_page(architecture, preprocessing, full_card), encoding="utf-8")


def _config(
    network: Any, architecture: str, model_args: Mapping[str, Any], preprocessing: Mapping[str, Any],
    card: Mapping[str, Any], classes: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    known = dict(getattr(network, "pretrained_cfg", None) or {})
    height, width = preprocessing["size"]
    return {
        "architecture": architecture,
        "num_classes": len(classes),
        "num_features": int(getattr(network, "head_hidden_size", network.num_features)),
        "label_names": list(classes),
        "model_args": dict(model_args),
        "pretrained_cfg": {
            "input_size": [int(preprocessing["channels"]), height, width],
            "fixed_input_size": bool(known.get("fixed_input_size", False)),
            "interpolation": preprocessing["interpolation"],
            "crop_pct": preprocessing["crop_pct"],
            "crop_mode": preprocessing["crop_mode"],
            "mean": list(preprocessing["mean"]),
            "std": list(preprocessing["std"]),
            "num_classes": len(classes),
            "pool_size": None,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
        "card": dict(card),
    }


def source_page(architecture: str, preprocessing: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """The card as a page: the hub's front matter, one sentence, one table."""
    height, width = preprocessing["size"]
    lines = [
        front_matter(_front(card)),
        f"# {card.get('name', 'A source')}",
        "",
        str(card.get("about", "")),
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| architecture | {architecture}, input {width} × {height} pixels |"]
    lines += [f"| {key.replace('_', ' ')} | {_cell(value)} |" for key, value in card.items() if key not in _SHOWN]
    curve = "\n![loss and accuracy while training](curve.png)\n" if card.get("steps") else ""
    return "\n".join([*lines, curve, *(str(note) + "\n" for note in card.get("notes", ()))])


def _front(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card's facts in the hub's words; its accuracy on held-out examples as a result, if it was measured."""
    task = f"{card.get('modality') or 'image'}-classification"
    metric = {"type": "accuracy", "value": card.get("accuracy"), "name": "accuracy on held-out examples"}
    result = {"task": {"type": task}, "dataset": {"name": "pre-training data", "type": "custom"}, "metrics": [metric]}
    index = [{"name": str(card.get("name") or "source"), "results": [result]}]
    return {
        "library_name": "timm",
        **licence_facts(card.get("licence")),
        "pipeline_tag": task,
        "tags": ["headstart", "transfer-learning", "timm"],
        "model-index": index if card.get("accuracy") is not None else None,
    }


_FEW = 12
_SHOWN = ("name", "about", "notes", "recipe")


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        few = ", ".join(map(str, value[:_FEW]))
        return few if len(value) <= _FEW else f"{few} and {len(value) - _FEW} more (all in config.json)"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
