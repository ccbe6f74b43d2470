"""The command. One thin function per public one; heavy imports happen inside, so that help is instant."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart._errors import HeadstartError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

Label = Annotated[str | None, typer.Option(help="Column of the labels, for tables.")]
Group = Annotated[str | None, typer.Option(help="Column of the groups (patient, speaker, author) kept together.")]
Seed = Annotated[int, typer.Option(help="Fixes everything random.")]
AllowBad = Annotated[bool, typer.Option("--allow-bad", help="Go on even if over 10 % of the files are unreadable.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="Folder per class, folder with metadata.csv, CSV or Parquet.")],
    source: Annotated[str | None, typer.Option(help="Pre-trained network (see `headstart sources`), or auto.")] = None,
    strategy: Annotated[str, typer.Option(help="auto, extract, light, partial, full or scratch.")] = "auto",
    cut: Annotated[str | None, typer.Option(help="Stage to cut after, or `all` depths at once with extract.")] = None,
    head: Annotated[str, typer.Option(help="linear or mlp.")] = "linear",
    label: Label = None,
    group: Group = None,
    test: Annotated[str | None, typer.Option(help="Examples kept aside, scored once.")] = None,
    budget: Annotated[str, typer.Option(help="Time within which things are begun: 90s, 2m, 1h.")] = "5m",
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
    from headstart._errors import DataError
    from headstart._runtime import say
    from headstart.modalities import Example
    from headstart.targets import read_examples

    names = (n for f in files for n in (_lines(sys.stdin) if f == "-" else [f]))
    for name in filter(str.strip, names):  # an empty name would be this folder
        try:
            found = read_examples(name) if Path(name).exists() or any(c in name for c in "*?[") else []
        except DataError as error:
            say(str(error))
            found = []
        yield from found or [Example(name, Path(name))]  # its row will say that it cannot be read


def _lines(stream: Iterable[str]) -> Iterator[str]:
    """Names from a stream: one a line, or ended by null characters as ``find -print0`` writes them."""
    for line in stream:
        yield from (name.strip("\r\n") for name in line.split("\0"))


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    files: Annotated[list[str], typer.Argument(help="Files or folders; - reads names from standard input.")],
    out: Out = Path("headstart-explained"),
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class to speak for, not the predicted one.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="auto, grad-cam, gradient-x-activation or integrated-gradients.")
    ] = "auto",
    seed: Seed = 0,
) -> None:
    """Show where MODEL looked at FILES, as pictures and a page, and test whether that is true."""
    from headstart._explain import explain as run

    found = run(model, list(_examples(files)), out=out, class_name=class_name, method=method, seed=seed)
    if found.unreadable:
        raise HeadstartError(f"{len(found.unreadable)} files could not be read; {out / 'index.html'} says why")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Annotated[str, typer.Argument(help="Labelled data, as for fit.")],
    label: Label = None,
    group: Group = None,
    allow_bad: AllowBad = False,
) -> None:
    """Score MODEL on labelled DATA that it has not seen; prints JSON."""
    from headstart._use import evaluate as run

    found = run(model, data, label=label, group=group, allow_bad=allow_bad)
    print(json.dumps(found, indent=1, ensure_ascii=False))


@app.command()
def sources(as_json: Annotated[bool, typer.Option("--json", help="All that is known, as JSON.")] = False) -> None:
    """List pre-trained networks: what is at hand without a network connection, and what is worth fetching."""
    from headstart.sources import list_sources

    entries = list_sources()
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    for at_hand, title in ((True, "at hand"), (False, "worth fetching (said how much first, then kept)")):
        lines = [f"  {_source_line(entry)}" for entry in entries if entry["at_hand"] is at_hand]
        print("\n".join([f"{title}:", *lines] if lines else []))
    print("also: timm/NAME (any timm architecture with weights), or the path of a source folder or an ONNX file;")
    print("--json tells more")


def _source_line(entry: dict[str, Any]) -> str:
    size = f"{entry['parameters']:g} M" if entry["parameters"] else ""
    learnt = f"{entry['trained_on']} ({_amount(entry['examples'])})" if entry["examples"] else ""
    return (
        f"{entry['name']:44} {entry['modality']:6} {size:>7}  {entry['input'] or '':>4}  {learnt:44} "
        f"{entry['licence']:11} {entry['about']}"
    )


def _amount(examples: int) -> str:
    for unit, word in ((1e9, " billion"), (1e6, " million")):
        if examples >= unit:
            return f"{examples / unit:.3g}{word}"
    return f"{examples:,}"


@app.command()
def rank(
    data: Annotated[str, typer.Argument(help="Labelled data, as for fit.")],
    sources: Annotated[str | None, typer.Option(help="Names with commas; default: all that are at hand.")] = None,
    label: Label = None,
    group: Group = None,
    budget: Annotated[str, typer.Option(help="Time for it: 90s, 2m, 1h.")] = "5m",
    as_json: Annotated[bool, typer.Option("--json", help="All that was measured, as JSON.")] = False,
    seed: Seed = 0,
    allow_bad: AllowBad = False,
) -> None:
    """Compare pre-trained networks on DATA by measurement: a shortlist, then probes inside the folds."""
    from headstart._rank import rank as run

    found = run(data, sources=sources, label=label, group=group, budget=budget, seed=seed, allow_bad=allow_bad)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if as_json else "\n".join(found.lines()))


@app.command()
def inspect(name: Annotated[str, typer.Argument(help="Model folder or source.")]) -> None:
    """Show what a MODEL or a SOURCE is; prints JSON."""
    from headstart.deliver import is_model

    if is_model(Path(name)):
        from headstart.deliver import load

        model = load(name)
        evidence = {key: value for key, value in model.evidence.items() if key != "trained_on"}
        shown: dict[str, Any] = {"config": model.config, "evidence": evidence}
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
    licence: Annotated[str, typer.Option(help="Licence of the material, for the card.")] = "unknown",
    try_on: Annotated[
        list[str] | None, typer.Option(help="Small labelled data to try the source on; may be given more than once.")
    ] = None,
    seed: Seed = 0,
    allow_bad: AllowBad = False,
) -> None:
    """Pre-train a network on DATA and write it as a source; the same command continues a killed run."""
    from headstart._pretrain import pretrain as run

    run(data, out=out, architecture=architecture, label=label, size=size, epochs=epochs, budget=budget,
        batch_size=batch_size, lr=lr, augment=augment, precision=precision, card={"licence": licence},
        try_on=try_on or (), seed=seed, allow_bad=allow_bad)  # fmt: skip


@app.command()
def push(
    path: Annotated[Path, typer.Argument(help="Model folder or source folder.")],
    name: Annotated[str, typer.Argument(help="user/name on the hub (HF_ENDPOINT names another hub).")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    with_examples: Annotated[
        bool, typer.Option("--with-examples", help="Send the names of examples and groups too, not numbers.")
    ] = False,
) -> None:
    """Send a MODEL or a SOURCE to the hub; prints the address of the commit."""
    from headstart._share import push as run

    done = run(path, name, private=private, dry_run=dry_run, message=message, with_examples=with_examples)
    if done["url"]:
        print(done["url"])


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="user/name on the hub (HF_ENDPOINT names another hub).")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: the name without the user.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
) -> None:
    """Fetch a model or a source from the hub; prints its folder."""
    from headstart._share import pull as run

    print(run(name, out=out, revision=revision))


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
    print(f"{cache_dir()}: {len(entries)} sets of features, {total / 1e6:.1f} MB of at most {size_limit() / 1e9:g} GB")


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


def _version(wanted: bool) -> None:
    if wanted:
        from headstart import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A head start for small labelled data sets: transfer learning that measures, and says if it was worth it."""


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
        print("headstart: stopped; the same command goes on from what was finished", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
