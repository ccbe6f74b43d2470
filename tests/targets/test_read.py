"""Reading: every layout a user may have, and one clear line for what cannot be used."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from headstart._errors import DataError, OptionError
from headstart.targets import read, read_examples


def png(shade=0):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (shade % 256, 0, 0)).save(out, "PNG")
    return out.getvalue()


def put(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


def names(target):
    return [e.name for e in target.examples]


def labelled(target):
    return {e.name: target.classes[i] for e, i in zip(target.examples, target.labels)}


def test_no_heavy_import():
    code = (
        "import sys, headstart.targets;print([x for x in ('torch', 'sklearn', 'pyarrow', 'scipy') if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- folders


def test_a_folder_per_class_with_folders_in_it(tmp_path):
    put(tmp_path, "cat/1.png", "cat/deep/er/2.JPG", "dog/3.png", "dog/.hidden.png", "dog/Thumbs.db", ".git/x.png")
    (tmp_path / "dog/notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    target = read(tmp_path)
    assert labelled(target) == {"cat/1.png": "cat", "cat/deep/er/2.JPG": "cat", "dog/3.png": "dog"}
    assert target.classes == ("cat", "dog")
    assert target.labels.dtype == np.int64
    assert target.modality.name == "image"
    assert target.groups is None
    assert target.test is None
    assert list(target.skipped) == ["dog/notes.txt"]
    assert any("empty" in note for note in target.notes)


def test_numbered_classes_are_in_order_of_number(tmp_path):
    put(tmp_path, *(f"{i}/a.png" for i in (10, 9, 1, 2)))
    assert read(str(tmp_path)).classes == ("1", "2", "9", "10")


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Test"])
def test_train_and_test_folders(tmp_path, test):
    put(tmp_path, "train/a/1.png", "train/b/2.png", f"{test}/b/3.png", f"{test}/a/4.png")
    target = read(tmp_path)
    assert names(target) == ["train/a/1.png", "train/b/2.png"]
    assert labelled(target.test) == {f"{test}/a/4.png": "a", f"{test}/b/3.png": "b"}
    assert target.test.classes == target.classes


def test_val_joins_training_where_there_is_a_test(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "test/b/4.png")
    target = read(tmp_path)
    assert len(target) == 3
    assert names(target.test) == ["test/b/4.png"]
    assert any("val/ was added" in note for note in target.notes)


def test_train_can_be_a_class(tmp_path):
    put(tmp_path, "train/1.png", "aeroplane/2.png")
    assert read(tmp_path).classes == ("aeroplane", "train")


def test_metadata_wins_over_folders(tmp_path):
    put(tmp_path, "x/1.png", "x/2.png", "x/3.png")
    (tmp_path / "metadata.csv").write_text("\ufefffile_name,label,group\nx/1.png,a,p1\nx/2.png,b,\n", encoding="utf-8")
    target = read(tmp_path)
    assert labelled(target) == {"x/1.png": "a", "x/2.png": "b"}
    assert target.groups.tolist() == ["p1", ""]
    assert any("1 files" in note and "not named" in note for note in target.notes)


def test_metadata_in_each_part_or_above_both(tmp_path):
    put(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n1.png,a\n2.png,b\n")
    (tmp_path / "test/metadata.csv").write_text("file_name,label\n3.png,b\n")
    each = read(tmp_path)
    assert (names(each), names(each.test)) == (["train/1.png", "train/2.png"], ["test/3.png"])
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/1.png,a\ntest/3.png,b\ntrain/2.png,b\n")
    above = read(tmp_path)
    assert (labelled(above), labelled(above.test)) == (labelled(each), labelled(each.test))


def test_what_metadata_names_in_vain_is_skipped_with_its_reason(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,a\n2.png,b\n3.png, \ngone.png,a\n,a\n")
    target = read(tmp_path)
    assert len(target) == 2
    assert target.skipped.keys() == {"3.png", "gone.png", "metadata.csv row 5"}
    assert "no label" in target.skipped["3.png"]
    assert "not there" in target.skipped["gone.png"]


def test_a_test_part_of_its_own(tmp_path):
    put(tmp_path, "data/a/1.png", "data/b/2.png", "kept/b/3.png", "odd/c/4.png", "odd/a/5.png")
    target = read(tmp_path / "data", test=tmp_path / "kept")
    assert labelled(target.test) == {"b/3.png": "b"}
    assert target.test.labels.tolist() == [1]
    with pytest.raises(DataError, match=r"'c'.*spell the classes alike"):
        read(tmp_path / "data", test=tmp_path / "odd")


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_text_tables(tmp_path, suffix, separator):
    put(tmp_path, "p/1.png", "p/2, b.png", "p/3.png")
    rows = [("Path", "Label", "patient"), ("p/1.png", "1", "A"), ('"p/2, b.png"', "10", "B"), ("p/3.png", "9", "A")]
    table = tmp_path / f"t.{suffix}"
    table.write_text("\n".join(separator.join(row) for row in rows), encoding="utf-8")
    target = read(table, group="patient")
    assert target.classes == ("1", "9", "10")
    assert labelled(target) == {"p/1.png": "1", "p/2, b.png": "10", "p/3.png": "9"}
    assert target.groups.tolist() == ["A", "B", "A"]
    assert target.name == "t"
    assert read(table, label="patient").classes == ("A", "B")


def test_an_unnamed_column_is_guessed_and_said(tmp_path):
    put(tmp_path, "1.png", "2.png")
    (tmp_path / "t.csv").write_text("what,which\n1.png,a\n2.png,b\n")
    target = read(tmp_path / "t.csv")
    assert target.classes == ("a", "b")
    assert len(target.notes) == 2


def test_windows_paths_in_a_table(tmp_path):
    put(tmp_path, "p/1.png", "p/2.png")
    (tmp_path / "t.csv").write_text("file_name,label\np\\1.png,a\np\\2.png,b\n")
    assert names(read(tmp_path / "t.csv")) == ["p/1.png", "p/2.png"]


def parquet(path, image, label, features=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": image, "label": label})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def test_parquet_with_contents(tmp_path):
    cells = [{"bytes": png(i), "path": None} for i in range(3)]
    plain = parquet(tmp_path / "plain.parquet", [png(i) for i in range(3)], ["a", "b", "a"])
    hub = parquet(
        tmp_path / "hub.parquet", cells, [0, 1, 0], {"label": {"names": ["ant", "bee"]}, "image": {"_type": "Image"}}
    )
    assert read(plain).classes == ("a", "b")
    target = read(hub)
    assert target.classes == ("ant", "bee")
    assert target.examples[1].content == png(1)
    assert names(target)[0] == "hub.parquet row 1"


def test_parquet_with_paths(tmp_path):
    put(tmp_path, "x/1.png", "x/2.png")
    cells = [{"bytes": None, "path": "x/1.png"}, {"bytes": None, "path": "x/2.png"}]
    assert names(read(parquet(tmp_path / "t.parquet", cells, [3, 4]))) == ["x/1.png", "x/2.png"]


# ---------------------------------------------------------------- lists


def test_lists_of_anything(tmp_path):
    put(tmp_path, "1.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    items = [tmp_path / "1.png", str(tmp_path / "1.png"), png(), np.zeros((4, 4, 3), np.uint8), palette]
    target = read(items, [1, "1", 2.0, np.int64(2), 10], groups=["a", None, "b", float("nan"), 7])
    assert target.classes == ("1", "2", "10")
    assert target.labels.tolist() == [0, 0, 1, 1, 2]
    assert target.groups.tolist() == ["a", "", "b", "", "7"]
    decoded = [target.modality.decode(e.raw()) for e in target.examples]
    assert decoded[4].getpixel((0, 0)) == (10, 200, 30)


def test_an_array_of_images_and_a_test_pair():
    images = np.zeros((4, 8, 8), np.uint8)
    target = read(images, ["a", "b", "a", "b"], test=(images[:1], ["b"]))
    assert len(target) == 4
    assert target.test.labels.tolist() == [1]


def test_unlabelled_examples(tmp_path):
    put(tmp_path, "d/2.png", "d/e/1.png", "3.png")
    (tmp_path / "d/notes.txt").write_text("x")
    found = read_examples([tmp_path / "d", str(tmp_path / "*.png"), png()])
    assert [e.name.removeprefix(str(tmp_path)).replace("\\", "/") for e in found] == [
        "/d/2.png", "/d/e/1.png", "/3.png", "item 2",
    ]  # fmt: skip
    assert len(read_examples(str(tmp_path / "3.png"))) == 1
    with pytest.raises(DataError, match="no file or folder"):
        read_examples([tmp_path / "gone.png"])


# ---------------------------------------------------------------- one clear line


@pytest.mark.parametrize("value", ["../secret.png", "sub/../../secret.png", "{outside}/secret.png", "link/secret.png"])
@pytest.mark.parametrize("table", ["metadata.csv", "list.csv"])
def test_a_path_outside_the_folder_is_refused(tmp_path, value, table):
    outside = put(tmp_path / "outside", "secret.png")
    (tmp_path / "secret.png").write_bytes(png())
    root = put(tmp_path / "data", "1.png", "sub/2.png")
    try:
        (root / "link").symlink_to(outside, target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let us make links")
    value = value.format(outside=outside)
    (root / table).write_text(f"file_name,label\n1.png,a\nsub/2.png,b\n{value},a\n")
    with pytest.raises(DataError, match="outside its folder"):
        read(root if table == "metadata.csv" else root / table)


def test_an_absolute_path_inside_is_fine(tmp_path):
    put(tmp_path, "1.png", "2.png")
    (tmp_path / "t.csv").write_text(f"file_name,label\n{tmp_path / '1.png'},a\n2.png,b\n")
    assert len(read(tmp_path / "t.csv")) == 2


def one_class(root):
    put(root, "a/1.png", "a/2.png")


def loose(root):
    put(root, "1.png", "2.png")


def only_text(root):
    (root / "a").mkdir()
    (root / "a/x.txt").write_text("x")


def not_images(root):
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "x").write_text("x")


def metadata(text, encoding="utf-8"):
    def build(root):
        put(root, "1.png", "2.png")
        (root / "metadata.csv").write_bytes(text.encode(encoding))

    return build


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: None, r"holds no examples; sort them"),
        (one_class, r"one class only \('a'\)"),
        (loose, r"holds 2 files but no labels; sort them into one folder per class, or add metadata\.csv"),
        (only_text, r"holds no labelled examples"),
        (not_images, r"can be read as images"),
        (metadata(""), r"is empty"),
        (metadata("file_name,label\n"), r"no labelled examples"),
        (metadata("file_name,label\ngone.png,a\n"), r"for example gone\.png: named in metadata\.csv but not there"),
        (metadata("file_name,a,b\n1.png,1,2\n"), r"no column called label.*its columns: file_name, a, b"),
        (metadata("a,label\nx,1\ny,2\n"), r"no column of files"),
        (metadata("file_name,label,label\n1.png,1,2\n"), r"names a column twice"),
        (metadata("file_name,label\n1.png,a,b\n"), r"3 cells in line 2 but 2 columns"),
        (metadata("file_name,label\n1.png,\u00e9t\u00e9\n", "latin-1"), r"not UTF-8 \(line 2\)"),
        (metadata("file_name,label\n1.png,a\n", "utf-16"), r"not UTF-8"),
        (metadata('file_name,label\n"1.png,a\n'), r"cannot be read as a table"),
        (metadata("file_name,label\n1\0.png,a\n"), r"null character|cannot be read as a table"),
        (lambda root: put(root, "train/a/1.png", "train/b/1.png", "test/c/1.png"), r"the class 'c'"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, build, message):
    build(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_wrong_place(tmp_path):
    with pytest.raises(DataError, match="there is no"):
        read(tmp_path / "nowhere")
    put(tmp_path, "1.png")
    with pytest.raises(DataError, match="neither a folder nor a table"):
        read(tmp_path / "1.png")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(tmp_path / "t.parquet")


def test_options_that_do_not_fit(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    with pytest.raises(OptionError, match=r"no column 'patient'.*metadata\.csv"):
        read(tmp_path, group="patient")
    (tmp_path / "metadata.csv").write_text("file_name,label\na/1.png,a\nb/2.png,b\n")
    with pytest.raises(OptionError, match="its columns: file_name, label"):
        read(tmp_path, group="patient")
    with pytest.raises(OptionError, match="brings its own labels"):
        read(tmp_path, ["a", "b"])
    with pytest.raises(OptionError, match="name columns of a table"):
        read([png()], ["a"], group="patient")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([b"x", b"y"],), "without labels"),
        (([b"x", b"y"], ["a"]), "2 examples but 1 labels"),
        (([b"x", b"y"], ["a", None]), "example 1 of the list has an empty label"),
        (([b"x", b"y"], ["a", "a"]), "one class only"),
        (([], []), "holds no labelled examples"),
        (([b"x", b"y"], ["a", "b"]), "can be read as images"),
        ((7,), "a int is no data"),
    ],
)
def test_lists_that_cannot_be_used(arguments, message):
    with pytest.raises(DataError, match=message):
        read(*arguments)


# ---------------------------------------------------------------- real data


@pytest.mark.field
def test_the_kits_sets_are_read(kit):
    xray = read(kit / "data/image/chest_xray")
    assert (len(xray), xray.classes, xray.skipped, xray.notes) == (1200, ("NORMAL", "PNEUMONIA"), {}, ())
    assert xray.groups is not None
    digits = read(kit / "data/image/handwritten_digits")
    assert digits.classes == tuple("0123456789")
    assert digits.groups is None
    assert len(read(kit / "pretrain/tiny_imagenet_val.parquet")) == 5000
