"""Any network, split at any stage, computes what the whole network computes, and is left as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from headstart._errors import SourceError
from headstart.sources import Backbone, open_source
from headstart.sources.builders.timm import create

SMALL_SWIN = {"img_size": 64, "embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4)}
FAMILIES: list[tuple[str, dict[str, Any], int]] = [
    ("resnet10t", {}, 32),
    ("regnetx_002", {}, 32),
    ("regnety_002", {}, 32),
    ("inception_v3", {}, 96),
    ("inception_next_atto", {}, 32),
    ("vit_tiny_patch16_224", {"img_size": 64, "depth": 4}, 64),
    ("deit3_small_patch16_224", {"img_size": 32, "depth": 3}, 32),
    ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 3}, 28),
    ("swin_tiny_patch4_window7_224", SMALL_SWIN, 64),
    ("convnext_atto", {}, 32),
    ("densenet121", {}, 32),
    ("mobilenetv2_050", {}, 32),
    ("mobilenetv3_small_050", {}, 32),
    ("tf_efficientnet_lite0", {}, 32),
    ("maxvit_rmlp_pico_rw_256", {"img_size": 64}, 64),
    ("edgenext_xx_small", {}, 64),
    ("fastvit_t8", {}, 64),
    ("repvit_m0_9", {}, 32),
    ("ghostnet_050", {}, 32),
    ("pvt_v2_b0", {}, 64),
    ("poolformer_s12", {}, 32),
    ("mobilevit_xxs", {}, 64),
    ("lcnet_050", {}, 32),
    ("mnasnet_small", {}, 32),
]


def lively(architecture: str, args: dict[str, Any], size: int) -> Backbone:
    """A random network in which every stage matters (fresh ones have zeros and tiny scales inside)."""
    network = create(architecture, args, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
    return Backbone(network, {"size": [size, size]})


def patched(network: torch.nn.Module) -> list[str]:
    """Modules with something left behind: a replaced forward, or a hook."""
    return [
        n for n, m in network.named_modules() if "forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks
    ]


@pytest.fixture
def small() -> Backbone:
    return lively("resnet10t", {"channels": [8, 16, 16, 32]}, 32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("architecture", "args", "size"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_the_suffix_of_the_prefix_is_the_whole_network(architecture: str, args: dict[str, Any], size: int) -> None:
    backbone = lively(architecture, args, size)
    before = {n: t.clone() for n, t in backbone.network.state_dict().items()}
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert len(backbone.stages) >= 3
    with torch.inference_mode():
        whole = backbone.network(x)
        for k in range(1, len(backbone.stages) + 1):
            cut = backbone.cut(k)
            with cut.prefix() as prefix:
                activation = prefix(x)
            assert len(activation) == 3
            with cut.suffix() as suffix:
                torch.testing.assert_close(suffix(activation), whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))
    assert not patched(backbone.network)
    assert all(torch.equal(t, before[n]) for n, t in backbone.network.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_a_network_without_stages_has_no_cuts_and_says_so() -> None:
    backbone = lively("hrnet_w18_small", {}, 64)
    assert backbone.stages == []
    with pytest.raises(SourceError, match="cut"):
        backbone.cut(1)
    with backbone.depths() as depths, torch.inference_mode():
        x = backbone.example_input()
        assert torch.equal(depths(x), backbone.network(x))


def test_a_network_that_is_not_reproduced_is_refused() -> None:
    class Remembers(torch.nn.Module):
        """Its output depends on more than what the stage gives: a skip connection over the cut."""

        def __init__(self) -> None:
            super().__init__()
            self.stage, self.last = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)
            self.feature_info = [{"module": "stage", "num_chs": 3}]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.last(self.stage(x)) + x).mean((2, 3))

    network = Remembers().eval()
    backbone = Backbone(network, {"size": [8, 8]})
    with pytest.raises(SourceError, match="stage does not reproduce this network"):
        backbone.cut(1)
    assert not patched(network)


def test_a_cut_outside_the_network_is_named(small: Backbone) -> None:
    for k in (0, -1, 6):
        with pytest.raises(SourceError, match=f"between 1 and 5 for this network, not at {k}"):
            small.cut(k)


def test_the_stages_before_the_cut_do_not_run(small: Backbone) -> None:
    ran: list[str] = []
    with small.cut(4).prefix() as prefix, torch.inference_mode():
        activation = prefix(small.example_input())
    for name, module in small.network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    with small.cut(4).suffix() as suffix, torch.inference_mode():
        suffix(activation)
    assert ran
    assert all(name.startswith("layer4") for name in ran)


def test_trainable_are_the_parameters_above_the_cut(small: Backbone) -> None:
    everything = {n for n, _ in small.network.named_parameters()}
    above = {name for name in everything if name.startswith("layer4")}
    assert set(small.cut(4).trainable()) == above
    assert set(small.cut(3).trainable()) == above | {n for n in everything if n.startswith("layer3")}
    assert small.cut(5).trainable() == []
    assert all(p.requires_grad and p.grad is None for p in small.network.parameters())


def test_trainable_leaves_mode_and_flags_alone(small: Backbone) -> None:
    small.network.train()
    small.network.layer1.requires_grad_(False)
    buffers = {n: b.clone() for n, b in small.network.named_buffers()}
    small.cut(3).trainable()
    assert small.network.training
    assert not any(p.requires_grad for p in small.network.layer1.parameters())
    assert all(torch.equal(b, buffers[n]) for n, b in small.network.named_buffers())


def test_gradients_of_the_suffix_are_those_of_the_whole_network(small: Backbone) -> None:
    x = small.example_input(4)
    names = small.cut(4).trainable()
    parameters = [small.network.get_parameter(n) for n in names]
    expected = torch.autograd.grad(small.network(x).square().sum(), parameters)
    with torch.no_grad(), small.cut(4).prefix() as prefix:
        activation = prefix(x)
    with small.cut(4).suffix() as suffix:
        found = torch.autograd.grad(suffix(activation).square().sum(), parameters)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


def test_prefix_and_depths_from_many_threads(small: Backbone) -> None:
    inputs = [torch.randn(1 + i % 3, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(24)]
    for opened in (small.cut(3).prefix, small.depths):
        with opened() as run, torch.inference_mode():
            expected = [run(x) for x in inputs]

            def threaded(x: torch.Tensor, run: Any = run) -> torch.Tensor:
                with torch.inference_mode():
                    return run(x)

            with ThreadPoolExecutor(4) as pool:
                for a, b in zip(pool.map(threaded, inputs), expected):
                    torch.testing.assert_close(a, b)
    assert not patched(small.network)


def test_a_suffix_within_a_suffix(small: Backbone) -> None:
    """As validation does in the middle of training: the outer one goes on as before."""
    x = small.example_input(3)
    with torch.inference_mode(), small.cut(3).prefix() as prefix:
        activation = prefix(x)
    with torch.inference_mode():
        whole = small.network(x)
    with torch.inference_mode(), small.cut(3).suffix() as outer:
        with small.cut(3).suffix() as inner:
            torch.testing.assert_close(inner(activation), whole)
        torch.testing.assert_close(outer(activation), whole)
    assert not patched(small.network)


def test_nothing_is_left_behind_after_an_error(small: Backbone) -> None:
    wrong = torch.zeros(2, 5, 7, 7)
    with pytest.raises(RuntimeError), small.cut(3).suffix() as suffix:
        suffix(wrong)
    with pytest.raises(RuntimeError), small.cut(3).prefix() as prefix:
        prefix(wrong)
    assert not patched(small.network)


def test_depths_are_the_stages_averaged_and_then_the_output(small: Backbone) -> None:
    x = small.example_input(3)
    with small.depths() as depths, torch.inference_mode():
        found = depths(x)
        output = small.network(x)
    widths = [width for _, width in small.stages]
    assert found.shape == (3, sum(widths) + output.shape[1])
    assert torch.equal(found[:, sum(widths) :], output)
    for k, (start, width) in enumerate(zip([sum(widths[:i]) for i in range(len(widths))], widths), start=1):
        with small.cut(k).prefix() as prefix, torch.inference_mode():
            torch.testing.assert_close(found[:, start : start + width], prefix(x).mean((2, 3)))


@pytest.mark.parametrize(
    "shape", [(2, 5, 3, 4), (2, 3, 4, 5), (2, 7, 5), (2, 5)], ids=["nchw", "nhwc", "tokens", "flat"]
)
def test_pooling_finds_the_channels(shape: tuple[int, ...]) -> None:
    from headstart.sources._backbone import pool

    x = torch.zeros(shape)
    axis = shape.index(5)
    for i in range(5):
        x.select(axis, i).fill_(i)
    assert torch.equal(pool(x, 5), torch.arange(5.0).expand(2, 5))


def test_the_bundled_sources_can_be_cut_everywhere() -> None:
    for name in ("bundled/glyphs", "bundled/efficientnet-lite0"):
        source = open_source(name)
        backbone = source.backbone()
        assert len(backbone.stages) == len(source.stages) >= 5
        for k in range(1, len(backbone.stages) + 1):
            backbone.cut(k)
