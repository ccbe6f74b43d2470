"""Sharing through a hub: a stand-in on loopback speaks its HTTP; nothing private leaves, nothing hostile comes in."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from safetensors.numpy import load_file, save_file

from headstart._errors import HeadstartError, HubError, OptionError
from headstart._fit import fit
from headstart._runtime import quiet
from headstart._share import pull, push
from headstart._share._strip import Stripper
from headstart.deliver import load
from headstart.sources import open_source
from hub_standin import TOKEN, Hub
from pictures import textures, write_folders

FRESH = textures(8, seed=5)[0]
NAME = "ada/textures"
PATIENTS = ("mrs_smith", "john_doe_1970", "anna_b", "patient-0815")


@pytest.fixture(scope="module")
def original(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose evidence names patients and whose source lies at an absolute path."""
    place = tmp_path_factory.mktemp("jane doe")
    photos, fresh = write_folders(place / "photos", 24), write_folders(place / "fresh", 12, seed=4)
    shutil.copy(photos / "across" / "000.png", photos / "across" / "mrs_smith.png")
    (photos / "down" / "john_doe_1970.png").write_text("no picture")
    shutil.copy(photos / "across" / "002.png", fresh / "across" / "anna_b.png")
    rows = [f"{p.relative_to(photos).as_posix()},{p.parent.name},patient-{i}" for i, p in enumerate(_pngs(photos))]
    (photos / "metadata.csv").write_text("\n".join(["file_name,label,group", *rows]))
    rows = [f"{p.relative_to(fresh).as_posix()},{p.parent.name},patient-0815" for p in _pngs(fresh)]
    (fresh / "metadata.csv").write_text("\n".join(["file_name,label,group", *rows]))
    (photos / "metadata.csv").write_text((photos / "metadata.csv").read_text().replace("patient-3\n", "patient-0815\n"))
    source = shutil.copytree(tiny, place / "my source")
    with quiet():
        model = fit(photos, source=source, strategy="extract", control="none", test=fresh, group="group")
    return model.save(place / "model")


def _pngs(root: Path) -> list[Path]:
    return sorted(root.rglob("*.png"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "home of ada" / "model"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The stand-in, and this process's hub library set to it and logged in, with an empty cache."""
    import huggingface_hub

    with Hub() as standin:
        home = tmp_path_factory.mktemp("hf")
        for name, value in {
            "ENDPOINT": standin.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": standin.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "AGENT_HARNESSES_PATH": str(home / "harnesses.json"),
        }.items():
            monkeypatch.setattr(constants, name, value, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's attempts
        close = getattr(huggingface_hub, "close_session", lambda: None)
        close()  # the address of a proxy is read when a session begins
        yield standin
        close()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What the user saw since the last call."""

    def read() -> str:
        found = capsys.readouterr()
        return found.out + found.err

    return read


def logged_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")


def message(error: pytest.ExceptionInfo[HeadstartError]) -> str:
    """The one line that the user sees."""
    text = str(error.value)
    assert "\n" not in text
    assert TOKEN not in text
    return text


def refused_pull(name: str, out: Path, **options: Any) -> str:
    """The line with which a pull ends; nothing may be left of it."""
    before = {p.name for p in out.parent.iterdir()}
    with pytest.raises(HeadstartError) as error:
        pull(name, out=out, **options)
    assert {p.name for p in out.parent.iterdir()} == before
    return message(error)


def published(original: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in original.iterdir()}


def front(text: bytes | str) -> Any:
    return ModelCard(text.decode() if isinstance(text, bytes) else text).data


# ---------------------------------------------------------------- there and back


def test_a_model_comes_back_with_the_same_predictions(hub: Hub, original: Path, tmp_path: Path) -> None:
    done = push(original, NAME)
    assert pull(NAME, out=tmp_path / "back") == tmp_path / "back"
    one, other = load(original), load(tmp_path / "back")
    assert np.array_equal(one.predict_proba(FRESH), other.predict_proba(FRESH))
    assert other.evidence["score"] == one.evidence["score"]
    assert other.summary()
    assert done["url"] == f"{hub.address}/{NAME}/commit/{hub.repos[NAME].commits[-1][0]}"
    assert hub.count("POST", "/commit/") == 1
    names = {p.name for p in (tmp_path / "back").iterdir()}
    assert names == {p.name for p in original.iterdir()} | {"pulled.json"}


def test_a_source_comes_back_and_can_be_fitted_from(hub: Hub, tiny: str, tmp_path: Path) -> None:
    assert push(tiny, "ada/tiny")["kind"] == "source"
    back = pull("ada/tiny", out=tmp_path / "back")
    one, other = (load_file(Path(p) / "model.safetensors") for p in (tiny, back))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[n], other[n]) for n in one)
    assert open_source(back).digest == open_source(tiny).digest
    pictures, labels = textures(24)
    with quiet():
        model = fit(pictures, labels, source=back, strategy="extract", control="none", out=tmp_path / "model")
        expected = fit(pictures, labels, source=tiny, strategy="extract", control="none")
    assert np.array_equal(model.predict_proba(FRESH), expected.predict_proba(FRESH))
    push(tmp_path / "model", "ada/from-tiny")
    assert front(hub.files("ada/from-tiny")["README.md"]).base_model == "ada/tiny"


def test_the_commands_in_processes_of_their_own(original: Path, tmp_path: Path) -> None:
    """With the hub library set by its variables alone, and its Xet storage on, which the stand-in has not."""
    with Hub() as hub:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
        env = kept | {
            "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN,
            "NO_PROXY": "127.0.0.1,localhost",
        }  # fmt: skip

        def run(*words: object) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "headstart", *map(str, words)]
            done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stdout + done.stderr
            return done

        sent = run("push", original, NAME, "--private", "--message", "the first")
        assert sent.stdout.strip() == f"{hub.address}/{NAME}/commit/{hub.repos[NAME].commits[-1][0]}"
        xet = importlib.util.find_spec("hf_xet") is not None and hasattr(constants, "HF_HUB_DISABLE_XET")
        assert ("going on over plain HTTP" in sent.stderr) == xet
        assert hub.repos[NAME].private
        assert hub.repos[NAME].messages[-1] == "the first"
        assert run("pull", NAME).stdout.strip() == "textures"
    assert np.array_equal(*(load(p).predict_proba(FRESH) for p in (tmp_path / "textures", original)))


def test_a_saved_model_object_will_do(hub: Hub, original: Path, tiny: str) -> None:
    push(load(original), NAME)
    assert "model.safetensors" in hub.files(NAME)
    with quiet():
        unsaved = fit(*textures(12), source=tiny, strategy="extract", control="none")
    with pytest.raises(OptionError, match="was not saved yet"):
        push(unsaved, NAME)


# ---------------------------------------------------------------- what leaves


def test_a_dry_run_says_everything_and_asks_nothing(
    hub: Hub, folder: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "train.py").write_text("x")
    done = push(folder, NAME, dry_run=True)
    text = said()
    assert hub.asked == []
    assert done["url"] is None
    assert f"would send to {hub.address}/{NAME}: 5 files, 0.2 MB" in text
    for name in ("model.safetensors", "config.json", "evidence.json", "README.md", "report.html"):
        assert re.search(rf"^  {name}: \d", text, re.MULTILINE)
    assert "names of your examples and groups are replaced by numbers (--with-examples" in text
    assert "paths of this machine" in text
    assert "stays here: train.py" in text
    logged_out(monkeypatch)
    hub.close()
    push(folder, NAME, dry_run=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(folder, NAME, dry_run=True)["files"] == done["files"]


def test_a_dry_run_foretells_what_is_sent(hub: Hub, folder: Path) -> None:
    foretold = push(folder, NAME, dry_run=True)
    assert push(folder, NAME) == foretold | {"url": f"{hub.address}/{NAME}/commit/{hub.repos[NAME].commits[-1][0]}"}
    sent = hub.files(NAME)
    assert {n: len(c) for n, c in sent.items() if n != ".gitattributes"} == foretold["files"]


def test_nobody_is_named_and_no_path_leaves(hub: Hub, original: Path) -> None:
    told = (original / "evidence.json").read_text()
    assert [patient for patient in PATIENTS if patient not in told] == []  # or this test proves nothing
    assert "jane doe" in (original / "config.json").read_text()
    done = push(original, NAME)
    everything = b"\n".join([*hub.files(NAME).values(), *(a.body for a in hub.asked)]).decode("latin-1")
    for secret in (*PATIENTS, "jane doe", "across/000", str(original), str(Path.home()) + "/"):
        assert secret not in everything
    assert json.loads(hub.files(NAME)["config.json"])["source"] == "my source"
    assert any("names" in change for change in done["changed"])
    assert any("path" in change for change in done["changed"])


def test_what_is_counted_stays_countable(hub: Hub, original: Path) -> None:
    push(original, NAME)
    before, after = (json.loads(t)["audit"] for t in ((original / "evidence.json").read_text(), _evidence(hub)))
    assert [len(pair) for pair in after["exact_duplicates"]] == [len(pair) for pair in before["exact_duplicates"]]
    assert len(after["unreadable"]) == len(before["unreadable"]) == 1
    assert set(after["unreadable"].values()) == set(before["unreadable"].values())
    assert after["classes"] == before["classes"]
    numbers = {name for pair in after["exact_duplicates"] for name in pair} | set(after["unreadable"])
    assert all(re.fullmatch(r"(example|group) \d+", name) for name in numbers)
    assert len(numbers) == 3


def _evidence(hub: Hub) -> str:
    return hub.files(NAME)["evidence.json"].decode()


def test_every_list_of_names_becomes_one_of_numbers() -> None:
    stripper = Stripper()
    audit = {
        "name": "../jane/photos",
        "exact_duplicates": [["a.png", "b.png"]],
        "near_duplicates": [["b.png", "c.png"]],
        "label_conflicts": [["a.png", "ant", "d.png", "bee"]],
        "unreadable": {"e.png": "cannot be read"},
        "passed_over": {"f.txt": "no known file type (.txt)"},
        "notes": ["column 'patient' of secret.csv is taken as the labels"],
    }
    overlap = {"name": "x (test part)", "repeated": [["g.png", "a.png", "near"]], "shared_groups": ["jane"]}
    found = stripper.evidence({"audit": audit, "test": {"overlap": overlap | {"unreadable": {"h.png": "broken"}}}})
    assert found["audit"] == {
        "name": "photos",
        "exact_duplicates": [["example 1", "example 2"]],
        "near_duplicates": [["example 2", "example 3"]],
        "label_conflicts": [["example 1", "ant", "example 4", "bee"]],
        "unreadable": {"example 5": "cannot be read"},
        "passed_over": {"example 6": "no known file type (.txt)"},
        "notes": [],
    }
    assert found["test"]["overlap"]["repeated"] == [["example 7", "example 1", "near"]]
    assert found["test"]["overlap"]["shared_groups"] == ["group 8"]
    assert found["test"]["overlap"]["unreadable"] == {"example 9": "broken"}
    assert len(stripper.numbers) == 9


def test_names_go_when_they_are_asked_to_but_paths_never(hub: Hub, original: Path) -> None:
    push(original, NAME, with_examples=True)
    assert "across/mrs_smith.png" in _evidence(hub)
    assert b"mrs_smith" in hub.files(NAME)["report.html"]
    assert b"jane doe" not in b"".join(hub.files(NAME).values())


def test_entries_of_the_evidence_that_nobody_knows_stay_here(hub: Hub, folder: Path) -> None:
    evidence = json.loads((folder / "evidence.json").read_text())
    evidence["heatmaps"] = [{"file": "mrs_smith.png"}]
    evidence["audit"]["faces"] = ["mrs_smith"]
    evidence["nothing"] = None
    (folder / "evidence.json").write_text(json.dumps(evidence))
    done = push(folder, NAME)
    assert "heatmaps" not in _evidence(hub)
    assert "faces" not in _evidence(hub)
    assert all(
        any(entry in change for change in done["changed"]) for entry in ("heatmaps", "audit.faces", "trained_on")
    )
    assert not any("nothing" in change for change in done["changed"])
    push(folder, NAME, with_examples=True)
    assert "heatmaps" in _evidence(hub)


@pytest.mark.parametrize(
    "content", ["{}", '{"score": 3}', '{"verdict": {"comparisons": 3}}', '{"audit": {"classes": [1]}}']
)
def test_evidence_of_another_kind_is_no_obstacle(hub: Hub, folder: Path, content: str) -> None:
    (folder / "evidence.json").write_text(content)
    push(folder, NAME)
    assert b"mrs_smith" not in b"".join(hub.files(NAME).values())
    assert "report.html" not in hub.files(NAME)
    pull(NAME, out=folder.parent / "back")
    assert len(load(folder.parent / "back").predict(FRESH)) == 8


def test_a_card_in_the_users_own_words_is_kept(hub: Hub, folder: Path) -> None:
    own = (
        f"---\nlicense: mit\ntags: [ants]\n---\n# Mine\n\nMade of {folder}/x.png; mrs_smith.png is odd. C:\\jane\\a.png"
    )
    (folder / "README.md").write_text(own)
    push(folder, NAME)
    sent = hub.files(NAME)["README.md"].decode()
    data = front(sent)
    assert (data.license, data.tags, data.library_name) == ("mit", ["ants", "headstart"], "headstart")
    assert re.search(r"# Mine\n\nMade of x\.png; example \d+ is odd\. a\.png", sent)


def test_a_card_that_is_no_card(hub: Hub, folder: Path) -> None:
    (folder / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(OptionError, match=r"front matter of .*README.md is no YAML"):
        push(folder, NAME)
    (folder / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(HeadstartError, match=r"model"):
        push(folder, NAME)
    (folder / "README.md").unlink()
    push(folder, NAME)
    assert front(hub.files(NAME)["README.md"]).library_name == "headstart"


def test_only_known_files_go(hub: Hub, folder: Path) -> None:
    (folder / "LICENSE").write_text(f"mine, from {folder}/terms")
    for name in (".env", ".git", "token", "train.py", "model.pkl", "optimizer.pt", "photo.png", "pulled.json"):
        (folder / name).write_text("private")
    (folder / "photos").mkdir()
    done = push(folder, NAME)
    assert set(hub.files(NAME)) == {*done["files"], ".gitattributes"}
    assert hub.files(NAME)["LICENSE"] == b"mine, from terms"
    assert done["left_out"] == sorted(
        [".env", ".git", "model.pkl", "optimizer.pt", "photo.png", "photos/", "pulled.json", "token", "train.py"]
    )


def test_access_keys_are_noticed(hub: Hub, folder: Path) -> None:
    for key in (TOKEN, "hf_" + "a" * 34, "AKIA" + "A" * 16, "-----BEGIN RSA PRIVATE KEY-----"):
        (folder / "README.md").write_text(f"# Mine\n\nlog in with {key}")
        with pytest.raises(OptionError, match=r"README.md holds what looks like an access key") as error:
            push(folder, NAME)
        assert key not in str(error.value)
    assert hub.asked == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_out_of_the_folder_are_not_followed(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("{}")
    for name in ("README.md", "LICENSE", "evidence.json"):
        kept = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "private")
        with pytest.raises(OptionError, match=rf"{name} is a link out of its folder"):
            push(folder, NAME)
        (folder / name).unlink()
        if kept is not None:
            (folder / name).write_bytes(kept)
    assert hub.asked == []


def test_weights_go_as_tensors_alone(hub: Hub, folder: Path, tiny: str, tmp_path: Path) -> None:
    import torch

    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "made in": str(folder)})
    push(folder, NAME)
    assert str(folder).encode() not in hub.files(NAME)["model.safetensors"]
    pickled = Path(shutil.copytree(tiny, tmp_path / "pickled"))
    tensors = {n: torch.from_numpy(a) for n, a in load_file(pickled / "model.safetensors").items()}
    torch.save(tensors, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "pytorch_model.bin" in push(pickled, "ada/pickled")["left_out"]
    assert hub.files("ada/pickled").keys() == {".gitattributes", "model.safetensors", "config.json", "README.md"}
    back = pull("ada/pickled", out=tmp_path / "back")
    assert all(np.array_equal(a, tensors[n]) for n, a in load_file(back / "model.safetensors").items())


def test_what_is_no_model_and_no_source_is_not_sent(hub: Hub, folder: Path, tmp_path: Path) -> None:
    for change, part in (
        (lambda: (folder / "model.safetensors").write_bytes(b"torn"), "is damaged"),
        (lambda: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda: (folder / "config.json").write_text('{"a": 1}'), "is no model and no source"),
        (lambda: (folder / "config.json").unlink(), "has no config.json"),
        (lambda: shutil.rmtree(folder), "there is no folder"),
    ):
        change()
        with pytest.raises(HeadstartError, match=part) as error:
            push(folder, NAME)
        message(error)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane doe/x.png", "x.png"),
        ("from /home/jane/x.png on", "from x.png on"),
        ("(/a/b/c)", "(c)"),
        ("a=/a/b/c, b", "a=c, b"),
        ("at:/a/b/c", "at:c"),
        (r"C:\Users\jane\x.png", "x.png"),
        (r"in C:\Users\jane\x.png; D:/jane/y", "in x.png; y"),
        (r"\\server\share\x.png", "x.png"),
        ("~/private/x", "x"),
        ("see ~jane/private/x.", "see x."),
        ("file:///home/jane/x", "x"),
        ("/home/jane/", "jane"),
        ("https://example.org/a/b/c", "https://example.org/a/b/c"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("and/or, 1/2/3, </td></tr>", "and/or, 1/2/3, </td></tr>"),
        ("PyPI package x 0.1.0", "PyPI package x 0.1.0"),
    ],
)
def test_paths_are_cut_to_their_last_part(text: str, expected: str) -> None:
    assert Stripper().text(text) == expected


def test_classes_that_look_like_paths_stay(hub: Hub, tiny: str, tmp_path: Path) -> None:
    pictures, labels = textures(16)
    with quiet():
        named = [{"across": "/m/01/g3", "down": "/m/02/x"}[label] for label in labels]
        fit(pictures, named, source=tiny, strategy="extract", control="none", out=tmp_path / "m")
    push(tmp_path / "m", NAME)
    back = load(pull(NAME, out=tmp_path / "back"))
    assert back.classes_.tolist() == ["/m/01/g3", "/m/02/x"]
    assert back.predict(FRESH).tolist() == load(tmp_path / "m").predict(FRESH).tolist()


# ---------------------------------------------------------------- cards


def test_the_card_is_one_by_the_hubs_own_rules(hub: Hub, original: Path) -> None:
    push(original, NAME)
    data = front(hub.files(NAME)["README.md"])
    assert (data.library_name, data.license, data.pipeline_tag) == ("headstart", "apache-2.0", "image-classification")
    assert {"headstart", "transfer-learning"} <= set(data.tags)
    assert data.base_model is None  # its source lies on no hub
    score = load(original).evidence["score"]
    measured = {r.metric_type: r.metric_value for r in data.eval_results if r.dataset_split == "cross-validation"}
    assert measured["accuracy"] == pytest.approx(score["accuracy"]["value"], abs=1e-4)
    assert {r.dataset_split for r in data.eval_results} == {"cross-validation", "test"}
    assert data.model_name == "textures"
    text = hub.files(NAME)["README.md"].decode()
    assert "headstart pull ada/textures" in text
    assert "| Preprocessing | size 32, 32;" in text


def test_cards_on_disk_are_cards_too(original: Path, tiny: str) -> None:
    assert front((original / "README.md").read_text()).eval_results
    source = front((Path(tiny) / "README.md").read_text())
    assert (source.library_name, source.license, source.pipeline_tag) == ("timm", "apache-2.0", "image-classification")


# ---------------------------------------------------------------- the login


def test_the_token_goes_into_one_header_and_nowhere_else(
    hub: Hub, folder: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    push(folder, NAME, private=True)
    pull(NAME, out=tmp_path / "back")
    for asked in hub.asked:
        others = {k: v for k, v in asked.headers.items() if k.lower() != "authorization"}
        assert TOKEN not in asked.path + str(others)
        assert TOKEN.encode() not in asked.body
        if "/store/" in asked.path:
            assert "authorization" not in {key.lower() for key in asked.headers}
    assert TOKEN not in said()
    for file in (*tmp_path.rglob("*"), *Path(constants.HF_HUB_CACHE).rglob("*")):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()


def test_not_logged_in(hub: Hub, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged_out(monkeypatch)
    with pytest.raises(HubError, match=r"not logged in to http.*`hf auth login` once, or set HF_TOKEN"):
        push(original, NAME)
    assert hub.asked == []


def test_a_login_from_the_librarys_own_file(hub: Hub, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged_out(monkeypatch)
    Path(constants.HF_TOKEN_PATH).write_text(TOKEN)
    push(original, NAME)
    assert NAME in hub.repos


def test_a_token_that_cannot_be_sent(hub: Hub, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ü secret")
    with pytest.raises(HubError, match="characters that cannot be sent") as error:
        push(original, NAME)
    assert "secret" not in str(error.value)


def test_a_hub_that_repeats_the_token_in_its_answer(hub: Hub, original: Path, tmp_path: Path) -> None:
    hub.fail("POST", "/api/repos/create", 400, f"bad header Bearer {TOKEN}")
    with pytest.raises(HubError) as error:
        push(original, NAME)
    assert "bad header Bearer …" in message(error)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__  # or a traceback would print it


# ---------------------------------------------------------------- what a push can meet


@pytest.mark.parametrize(
    ("where", "status", "part"),
    [
        ("/api/repos/create", 401, "does not accept your access token (401); `hf auth login`"),
        ("/api/repos/create", 403, "your access token may not write to ada/textures; use a token with write access"),
        ("/api/repos/create", 500, "has trouble of its own (500"),
        ("/api/repos/create", 429, "asks for a pause"),
        ("/preupload/", 403, "your access token may not write"),
        ("/preupload/", 404, "there is no model ada/textures"),
        ("/lfs/objects/batch", 500, "has trouble of its own (500"),
        ("/lfs/objects/batch", 413, "refused the request for ada/textures (413"),
        ("/commit/", 401, "does not accept your access token"),
        ("/commit/", 409, "was changed by someone else at the same moment (409"),
        ("/commit/", 412, "was changed by someone else at the same moment (412"),
        ("/commit/", 500, "has trouble of its own (500"),
    ],
)
def test_a_hub_that_refuses(hub: Hub, original: Path, where: str, status: int, part: str) -> None:
    hub.fail("POST", where, status, "because")
    with pytest.raises(HubError) as error:
        push(original, NAME)
    assert part in message(error)
    assert "model.safetensors" not in (hub.files(NAME) if NAME in hub.repos else {})


def test_weights_that_do_not_arrive(hub: Hub, original: Path) -> None:
    hub.fail("PUT", "/store/", 403, "expired")
    with pytest.raises(HubError) as error:
        push(original, NAME)
    assert "403" in message(error)
    assert hub.count("POST", "/commit/") == 0


def test_a_name_of_someone_else(hub: Hub, original: Path) -> None:
    with pytest.raises(HubError) as error:
        push(original, "grace/textures")
    assert "may not write to grace/textures" in message(error)


def test_someone_elses_commit_in_between_is_not_overwritten(
    hub: Hub, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    push(original, NAME)
    create = HfApi.create_commit

    def late(self: HfApi, *args: Any, **options: Any) -> Any:
        hub.publish(NAME, hub.files(NAME) | {"notes.txt": b"new"})
        return create(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(HubError, match=r"was changed by someone else .* run the same command again"):
        push(original, NAME)


@pytest.mark.parametrize("name", ["textures", "", "/x", "x/", "a/b/c", "a b/c", "../x", "a/..", "ada/te--xt", "a\n/b"])
def test_names_that_are_none(hub: Hub, original: Path, name: str, tmp_path: Path) -> None:
    for call in (lambda: push(original, name), lambda: pull(name, out=tmp_path / "x")):
        with pytest.raises(OptionError, match=r"is no name on a hub .*; write it as user/name") as error:
            call()
        message(error)
    assert hub.asked == []


def test_a_repository_with_another_model_is_left_alone(hub: Hub, original: Path) -> None:
    hub.publish(NAME, {"config.json": b"{}", "model.safetensors": b"x", "tokenizer.json": b"{}"})
    with pytest.raises(HubError, match=r"holds a model that headstart did not write .*choose another name"):
        push(original, NAME)
    assert hub.written() == []
    hub.publish("ada/empty", {".gitattributes": b"", "README.md": b"# soon"})
    push(original, "ada/empty")


def test_private_is_not_taken_for_granted(hub: Hub, original: Path) -> None:
    push(original, NAME)
    sent = len(hub.written())
    with pytest.raises(HubError, match="is there already and public"):
        push(original, NAME, private=True)
    assert len(hub.written()) == sent


def test_a_push_leaves_exactly_what_it_sends(hub: Hub, folder: Path, said: Callable[[], str]) -> None:
    push(folder, NAME, with_examples=True)
    (folder / "report.html").unlink()
    hub.publish(NAME, hub.files(NAME) | {"LICENSE": b"added on the hub's pages"})
    push(folder, NAME)
    assert "LICENSE" in hub.files(NAME)
    assert "report.html" not in hub.files(NAME)
    assert "taken out there, because this model has none: report.html" in said()
    assert len(hub.repos[NAME].commits) == 4  # the hub's own first, that of its pages, and one a push


# ---------------------------------------------------------------- what a pull can meet


def test_the_size_is_said_before_anything_is_downloaded(
    hub: Hub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, published(original) | {"more.bin": b"x", "train.py": b"x"})
    lines: list[str] = []

    def listen(text: str) -> None:
        if not lines:
            assert hub.count("GET", "/resolve/") == 0
        lines.append(text)

    monkeypatch.setattr("headstart._share._pull.say", listen)
    pull(NAME, out=tmp_path / "back")
    assert re.fullmatch(r"ada/textures at [0-9a-f]{7}: 4 files, 0\.2 MB, up to 0\.2 MB to download", lines[0])
    assert lines[1] == "not fetched: more.bin, train.py"
    assert hub.count("GET", "more.bin") == hub.count("GET", "train.py") == hub.count("GET", "report.html") == 0


def test_what_is_in_the_cache_is_not_downloaded_again(
    hub: Hub, original: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    commit = hub.publish(NAME, published(original))
    one = pull(NAME, out=tmp_path / "one")
    assert hub.count("GET", "/store/") == 1
    said()
    again = pull(NAME, out=tmp_path / "one")
    assert again == one
    assert "is ada/textures at" in said()
    pull(NAME, out=tmp_path / "two")
    assert "all in the local hub cache" in said()
    assert hub.count("GET", "/store/") == 1
    assert hub.count("GET", "config.json") == 1
    before = len(hub.asked)
    pull(NAME, out=tmp_path / "three", revision=commit)  # a commit never changes: nobody has to be asked
    assert len(hub.asked) == before
    for other in ("two", "three"):
        assert load(tmp_path / other).predict(FRESH).tolist() == load(one).predict(FRESH).tolist()


def test_a_new_commit_with_the_same_weights(hub: Hub, original: Path, tmp_path: Path) -> None:
    hub.publish(NAME, published(original))
    pull(NAME, out=tmp_path / "one")
    commit = hub.publish(NAME, published(original) | {"README.md": b"# new"})
    pull(NAME, out=tmp_path / "one")
    assert (tmp_path / "one" / "README.md").read_text() == "# new"
    assert json.loads((tmp_path / "one" / "pulled.json").read_text())["revision"] == commit
    assert hub.count("GET", "/store/") == 1


def test_without_the_hub_the_cache_serves(hub: Hub, original: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    hub.publish(NAME, published(original))
    pull(NAME, out=tmp_path / "one")
    hub.fail("GET", "/api/", 503)
    pull(NAME, out=tmp_path / "two")
    assert "has trouble of its own (503" in said()
    hub.close()
    said()
    pull(NAME, out=tmp_path / "three")
    assert re.search(r"cannot be reached .*; taking ada/textures from the local hub cache, at [0-9a-f]{7}", said())
    pull(NAME, out=tmp_path / "three")
    assert "already" in said()
    assert load(tmp_path / "three").predict(FRESH).tolist() == load(original).predict(FRESH).tolist()


def test_without_the_hub_and_without_a_copy(
    hub: Hub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.close()
    text = refused_pull(NAME, tmp_path / "back")
    assert f"{hub.address} cannot be reached" in text
    assert f"looked for {NAME}/config.json and {NAME}/model.safetensors in the local hub cache" in text
    with pytest.raises(HubError, match="cannot be reached"):
        push(original, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused_pull(NAME, tmp_path / "back")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        push(original, NAME)


@pytest.mark.parametrize(
    ("where", "status", "part"),
    [
        ("/api/models/", 401, "does not accept your access token"),
        ("/api/models/", 403, "may not read ada/textures"),
        ("/api/models/", 404, "there is no model ada/textures"),
        ("/api/models/", 500, "has trouble of its own (500"),
        ("/resolve/", 500, "has trouble of its own (500"),
        ("/resolve/.*safetensors", 404, "there is no"),
        ("/store/", 403, "may not read ada/textures (403"),
        ("/store/", 500, "has trouble of its own (500"),
    ],
)
def test_a_hub_that_refuses_to_give(
    hub: Hub, original: Path, tmp_path: Path, where: str, status: int, part: str
) -> None:
    hub.publish(NAME, published(original))
    for method in ("GET", "HEAD"):
        hub.fail(method, where, status, "because")
    assert part in refused_pull(NAME, tmp_path / "back")


def test_a_repository_that_asks_to_be_asked(hub: Hub, original: Path, tmp_path: Path) -> None:
    hub.publish(NAME, published(original))
    for method in ("GET", "HEAD"):
        hub.fail(method, "/resolve/", 403, "restricted", "GatedRepo")
    assert f"must be asked for first: open {hub.address}/{NAME}" in refused_pull(NAME, tmp_path / "back")


def test_an_address_that_is_no_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("GET", "/api/models", 200)
    assert "HF_ENDPOINT" in refused_pull(NAME, tmp_path / "back")
    monkeypatch.setattr(constants, "ENDPOINT", "nowhere")
    assert "HF_ENDPOINT" in refused_pull(NAME, tmp_path / "back")
    monkeypatch.setattr(constants, "ENDPOINT", "http://ada:password@127.0.0.1:9")
    assert "password" not in refused_pull(NAME, tmp_path / "back")
    monkeypatch.setattr(constants, "ENDPOINT", hub.address.replace("//", "//ada:password@"))
    hub.failures.clear()
    hub.publish(NAME, {"config.json": b"{}", "model.safetensors": b"x"})
    hub.fail("HEAD", "/resolve/", 200)  # an answer without the hub's headers
    assert "password" not in refused_pull(NAME, tmp_path / "back")


def test_what_is_not_there_or_hidden(hub: Hub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("ada/hidden", published(original), private=True)
    hub.publish("ada/photos", {"a.parquet": b"x"}, kind="dataset")
    assert "there is no model ada/nothing" in refused_pull("ada/nothing", tmp_path / "x")
    assert "ada/photos is a dataset, no model" in refused_pull("ada/photos", tmp_path / "x")
    hub.publish(NAME, published(original))
    assert "no such revision" in refused_pull(NAME, tmp_path / "x", revision="v9")
    logged_out(monkeypatch)
    assert "or it is private: `hf auth login`" in refused_pull("ada/hidden", tmp_path / "x")


def test_an_older_revision(hub: Hub, original: Path, tmp_path: Path) -> None:
    first = hub.publish(NAME, published(original) | {"LICENSE": b"first"})
    hub.publish(NAME, published(original) | {"LICENSE": b"second"})
    assert (pull(NAME, out=tmp_path / "new") / "LICENSE").read_text() == "second"
    assert (pull(NAME, out=tmp_path / "old", revision=first) / "LICENSE").read_text() == "first"


def test_a_download_that_tears_leaves_nothing_and_can_be_repeated(hub: Hub, original: Path, tmp_path: Path) -> None:
    hub.publish(NAME, published(original))
    hub.torn = "model.safetensors"
    text = refused_pull(NAME, tmp_path / "back")
    assert NAME in text or hub.address in text
    hub.torn = None
    assert load(pull(NAME, out=tmp_path / "back")).predict(FRESH).tolist() == load(original).predict(FRESH).tolist()


@pytest.mark.parametrize("moment", ["shutil.copyfile", "headstart._share._pull.load"])
def test_a_kill_leaves_no_part_of_a_folder(
    hub: Hub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    hub.publish(NAME, published(original))
    (tmp_path / "place").mkdir()

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, killed)
    with pytest.raises(KeyboardInterrupt):
        pull(NAME, out=tmp_path / "place" / "back")
    assert list((tmp_path / "place").iterdir()) == []


# ---------------------------------------------------------------- hostile repositories


def _config(original: Path, **changes: Any) -> bytes:
    return json.dumps(json.loads((original / "config.json").read_text()) | changes).encode()


HOSTILE: dict[str, tuple[Callable[[Path], dict[str, bytes | None]], str]] = {
    "a name above": (lambda o: {"../../.bashrc": b"x"}, "leaves its folder"),
    "a name from the root": (lambda o: {"/etc/cron.d/x": b"x"}, "leaves its folder"),
    "a name for windows": (lambda o: {"..\\x": b"x"}, "leaves its folder"),
    "a drive": (lambda o: {"C:/x": b"x"}, "leaves its folder"),
    "a pickle instead": (
        lambda o: {"model.safetensors": None, "pytorch_model.bin": pickle.dumps({})},
        "a format that can run code (pytorch_model.bin)",
    ),
    "a pickle in disguise": (lambda o: {"model.safetensors": pickle.dumps({"a": 1})}, "is refused"),
    "a link as git keeps it": (lambda o: {"config.json": b"../../../etc/passwd"}, "config.json is no JSON"),
    "a large config": (lambda o: {"config.json": b" " * 33_000_000}, "config.json has 33.0 MB, too much"),
    "a deep config": (lambda o: {"config.json": b"[" * 100_000 + b"]" * 100_000}, "is no JSON"),
    "a long number": (lambda o: {"config.json": b'{"a": ' + b"9" * 5000 + b"}"}, "is no JSON"),
    "no object": (lambda o: {"config.json": b"[1]"}, "names no head and no architecture"),
    "another library": (lambda o: {"config.json": b'{"architectures": ["Bert"]}'}, "names no head and no architecture"),
    "nothing": (lambda o: {"config.json": None, "model.safetensors": None}, "no headstart model and no source"),
    "torn weights": (lambda o: {"model.safetensors": (o / "model.safetensors").read_bytes()[:-9]}, "is refused"),
    "too few classes": (lambda o: {"config.json": _config(o, classes=["one"])}, "does not fit the classes"),
    "another temperature": (lambda o: {"config.json": _config(o, temperature="hot")}, "temperature"),
    "a newer format": (lambda o: {"config.json": _config(o, format=99)}, "newer headstart (format 99); upgrade"),
    "odd evidence": (lambda o: {"evidence.json": b"[" * 100_000}, "cannot be read"),
    "an odd source": (
        lambda o: {"config.json": b'{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, -1, 1]}}'},
        "is refused",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_repository_is_refused(hub: Hub, original: Path, tmp_path: Path, case: str) -> None:
    change, part = HOSTILE[case]
    changes = change(original)
    files = {n: c for n, c in (published(original) | changes).items() if c is not None}
    hub.publish("eve/model", files)
    (tmp_path / "place").mkdir()
    text = refused_pull("eve/model", tmp_path / "place" / "back")
    assert part in text
    assert str(tmp_path) not in text.replace(constants.HF_HUB_CACHE, "")


def test_weights_are_not_downloaded_for_a_repository_of_another_kind(hub: Hub, original: Path, tmp_path: Path) -> None:
    hub.publish("eve/model", published(original) | {"config.json": b'{"architectures": ["Bert"]}'})
    refused_pull("eve/model", tmp_path / "back")
    assert hub.count("GET", "/store/") == 0


def test_a_hub_that_understates_a_size(hub: Hub, original: Path, tmp_path: Path) -> None:
    hub.publish("eve/model", published(original) | {"README.md": b"x" * 33_000_000})
    hub.said_sizes["README.md"] = 10
    assert "README.md has 33.0 MB" in refused_pull("eve/model", tmp_path / "back")


def test_other_weights_than_announced(hub: Hub, original: Path, tmp_path: Path) -> None:
    """Someone between the hub and here changes what lies in its store."""
    hub.publish(NAME, published(original))
    hub.tampered = True
    assert "model.safetensors of ada/textures is not what the hub announced" in refused_pull(NAME, tmp_path / "back")


def test_no_markup_of_strangers_is_written(hub: Hub, original: Path, tmp_path: Path) -> None:
    evidence = json.loads((original / "evidence.json").read_text())
    evidence["verdict"]["headline"] = evidence["chosen"] = evidence["candidates"][0]["note"] = "<script>x</script>"
    evidence["audit"]["unreadable"] = {"<img src=x>": "<script>"}
    evidence["audit"]["notes"] = ["<script>"]
    files = published(original) | {"report.html": b"<script>run()</script>"}
    hub.publish("eve/model", files | {"evidence.json": json.dumps(evidence).encode()})
    back = pull("eve/model", out=tmp_path / "back")
    assert hub.count("GET", "report.html") == 0
    page = (back / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    evidence["candidates"][0]["examples"] = "<script>"
    hub.publish("eve/model", files | {"evidence.json": json.dumps(evidence).encode()})
    back = pull("eve/model", out=tmp_path / "other")
    assert not (back / "report.html").exists()


# ---------------------------------------------------------------- folders that are there already


def test_other_folders_are_left_alone(
    hub: Hub, original: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, published(original))
    own, file = tmp_path / "letters", tmp_path / "file"
    own.mkdir()
    (own / "mine.txt").write_text("mine")
    file.write_text("mine")
    for place in (own, file, folder):  # also a model of the same kind that was made here
        assert "was not pulled from ada/textures; it is left alone" in refused_pull(NAME, place)
    assert (own / "mine.txt").read_text() == "mine"
    assert hub.asked == []
    (tmp_path / "empty").mkdir()
    assert load(pull(NAME, out=tmp_path / "empty"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is left alone" in refused_pull(NAME, Path())


def test_what_was_changed_here_is_left_alone(hub: Hub, original: Path, tmp_path: Path) -> None:
    hub.publish(NAME, published(original))
    for number, change in enumerate(
        (
            lambda p: (p / "README.md").write_text("my notes"),
            lambda p: (p / "mine.txt").write_text("mine"),
            lambda p: (p / "evidence.json").unlink(),
        )
    ):
        out = pull(NAME, out=tmp_path / str(number))
        change(out)
        hub.publish(NAME, published(original) | {"LICENSE": str(number).encode()})
        before = {p.name: p.read_bytes() for p in out.iterdir()}
        assert "was changed since it was pulled; it is left alone" in refused_pull(NAME, out)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_the_default_folder_is_the_short_name(
    hub: Hub, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, published(original))
    monkeypatch.chdir(tmp_path)
    assert pull(NAME) == Path("textures")
    assert load("textures").path == Path("textures")
    pulled = json.loads(Path("textures/pulled.json").read_text())
    assert (pulled["repo"], pulled["hub"]) == (NAME, hub.address)


def test_a_model_on_an_onnx_file_comes_back_whole(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("onnx2torch")
    from onnx_files import export, small_resnet

    export(small_resnet(), tmp_path / "network.onnx")
    pictures, labels = textures(16)
    with quiet():
        model = fit(pictures, labels, source=str(tmp_path / "network.onnx"), strategy="extract", control="none")
        model.save(tmp_path / "m")
        push(tmp_path / "m", NAME)
        fetched = load(pull(NAME, out=tmp_path / "fetched"))
    assert "network.onnx" in hub.files(NAME)
    np.testing.assert_array_equal(fetched.predict_proba(pictures), model.predict_proba(pictures))
