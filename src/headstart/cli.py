"""The command. One thin function per public one; heavy imports happen inside, so that help is instant."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart._errors import HeadstartError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="A head start for small labelled data sets: transfer learning that measures, and says if it was worth it.",
)  # fmt: skip

Label = Annotated[str | None, typer.Option(help="Column of the labels, for tables.")]
Group = Annotated[str | None, typer.Option(help="Column of the groups (patient, speaker, author) kept together.")]
Seed = Annotated[int, typer.Option(help="Fixes everything random.")]
AllowBad = Annotated[bool, typer.Option("--allow-bad", help="Go on even if over 10 % of the files are unreadable.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="Folder per class, folder with metadata.csv, CSV or Parquet.")],
    source: Annotated[str | None, typer.Option(help="Pre-trained network (see `headstart sources`).")] = None,
    strategy: Annotated[str, typer.Option(help="auto, extract, light, partial, full or scratch.")] = "auto",
    cut: Annotated[str | None, typer.Option(help="Stage to cut after, or `all` depths at once with extract.")] = None,
    head: Annotated[str, typer.Option(help="linear or mlp.")] = "linear",
    label: Label = None,
    group: Group = None,
    test: Annotated[str | None, typer.Option(help="Examples kept aside, scored once.")] = None,
    budget: Annotated[str, typer.Option(help="Time for trying things: 90s, 2m, 1h.")] = "5m",
    views: Annotated[int | None, typer.Option(help="Variations per example when a part of the network trains.")] = None,
    control: Annotated[str, typer.Option(help="From-scratch control: auto, scratch (always) or none.")] = "auto",
    seed: Seed = 0,
    out: Out = Path("headstart-model"),
    allow_bad: AllowBad = False,
) -> None:
    """Adapt a pre-trained network to DATA; writes a model folder, prints score and verdict."""
    from headstart._fit import fit as run

    depth: int | str | None = int(cut) if cut and cut.isdigit() else cut
    run(data, source=source, strategy=strategy, cut=depth, head=head, label=label, group=group, test=test,
        budget=budget, views=views, control=control, seed=seed, out=out, allow_bad=allow_bad)  # fmt: skip


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    files: Annotated[list[str], typer.Argument(help="Files or folders; - reads names from standard input.")],
    json_lines: Annotated[bool, typer.Option("--json", help="JSON lines instead of CSV.")] = False,
) -> None:
    """Print label and calibrated probabilities of FILES; exit code 1 if one could not be read."""
    from headstart._use import as_csv, as_json_lines, predictions
    from headstart.deliver import load

    loaded, failed = load(model), 0

    def rows() -> Iterator[Any]:
        nonlocal failed
        for row in predictions(loaded, _examples(files)):
            failed += row[1] is None
            yield row

    for line in (as_json_lines if json_lines else as_csv)(list(loaded.classes_), rows()):
        print(line, flush=True)
    if failed:
        raise HeadstartError(f"{failed} files could not be read; the column error says why")


def _examples(files: list[str]) -> Iterator[Any]:
    from headstart.modalities import Example
    from headstart.targets import read_examples

    names = (n for f in files for n in ((line.strip("\r\n") for line in sys.stdin) if f == "-" else [f]))
    for name in filter(str.strip, names):  # an empty name would be this folder
        if Path(name).exists() or any(c in name for c in "*?["):
            yield from read_examples(name)
        else:
            yield Example(name, Path(name))  # its row will say that it cannot be read


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Annotated[str, typer.Argument(help="Labelled data, as for fit.")],
    label: Label = None,
    group: Group = None,
) -> None:
    """Score MODEL on labelled DATA; prints JSON."""
    from headstart._use import evaluate as run

    print(json.dumps(run(model, data, label=label, group=group), indent=1, ensure_ascii=False))


@app.command()
def sources() -> None:
    """List the pre-trained networks that are at hand without a network connection."""
    from headstart.sources import list_sources

    for entry in list_sources():
        name, kind, network = entry["name"], entry["modality"], entry["architecture"]
        print(f"{name:28} {kind:6} {network:22} {entry['licence']:11} {entry['about']}")
    print("also: timm/NAME (any timm architecture; downloads its weights once), the path of a source folder, or of an")
    print("ONNX file")


@app.command()
def inspect(name: Annotated[str, typer.Argument(help="Model folder or source.")]) -> None:
    """Show what a MODEL or a SOURCE is; prints JSON."""
    if (Path(name) / "evidence.json").is_file():
        from headstart.deliver import load

        model = load(name)
        shown: dict[str, Any] = {"config": model.config, "evidence": model.evidence}
    else:
        from headstart.sources import open_source

        source = open_source(name)
        shown = {
            "name": source.name, "modality": source.modality, "architecture": source.architecture,
            "preprocessing": dict(source.preprocessing), "card": dict(source.card), **source.facts,
        }  # fmt: skip
    print(json.dumps(shown, indent=1, ensure_ascii=False))


@app.command()
def pretrain(
    data: Annotated[str, typer.Argument(help="Labelled images: folders or a table.")],
    out: Annotated[Path, typer.Option(help="Source folder to write.")],
    architecture: Annotated[str, typer.Option(help="Any timm architecture.")] = "resnet10t",
    label: Label = None,
    size: Annotated[int | None, typer.Option(help="Input size in pixels.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time to train for instead: 20m, 2h.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    augment: Annotated[str, typer.Option(help="photo, shift (letters, scans) or none.")] = "photo",
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16; default: what the machine does well.")] = None,
    seed: Seed = 0,
    allow_bad: AllowBad = False,
) -> None:
    """Pre-train a network on DATA and write it as a source; the same command continues a killed run."""
    from headstart._pretrain import pretrain as run

    run(data, out=out, architecture=architecture, label=label, size=size, epochs=epochs, budget=budget,
        batch_size=batch_size, lr=lr, augment=augment, precision=precision, seed=seed, allow_bad=allow_bad)  # fmt: skip


@app.command()
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete features, converted weights, unfinished runs.")
    ] = False,
) -> None:
    """Show the feature cache: place, size, limit."""
    from headstart._runtime import cache_dir
    from headstart.features import clear_cache, size_limit, usage

    if clear:
        print(f"freed {clear_cache() / 1e6:.1f} MB in {cache_dir()}")
        return
    entries = usage()
    total = sum(size for _, size, _ in entries)
    print(
        f"{cache_dir()}: {len(entries)} sets of features, {total / 1e6:.1f} MB of at most {size_limit() / 1e9:.0f} GB"
    )


@app.command()
def demo(
    name: Annotated[str, typer.Argument(help="digits")] = "digits",
    out: Out = Path("demo-out"),
    seed: Seed = 0,
) -> None:
    """Run the main job offline on real data: 100 labelled digits, 4,900 kept aside as the truth."""
    from headstart._demo import demo_digits
    from headstart._errors import OptionError

    if name != "digits":
        raise OptionError(f"no demo is called {name!r}; there is: digits")
    demo_digits(out, seed=seed)


@app.command()
def version() -> None:
    """Print the version."""
    from headstart import __version__

    print(__version__)


class _Interrupted(BaseException):
    """Ctrl-C; not KeyboardInterrupt, which the command-line library would turn into its own message."""


def _interrupt(number: int, frame: Any) -> None:
    raise _Interrupted


def main() -> None:
    """Entry point: headstart's own errors are one line and exit code 1; Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except HeadstartError as error:
        print(f"headstart: {error}", file=sys.stderr)
        sys.exit(1)
    except (_Interrupted, KeyboardInterrupt):
        print("headstart: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
