"""Tars, tables, lists and object stores: what comes of their pictures is what comes of the same ones as files."""

import json
import tarfile
from pathlib import Path

import pytest
from cluster_pictures import files_in, noise, png, write_tar

from osediff_core.cli import main as cli

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -e '.[cluster]'")

import pyarrow as pa
import pyarrow.parquet as pq


@pytest.fixture
def osediff(capsys, monkeypatch, tmp_path, small):
    """Runs `osediff upscale` in a folder of its own; returns exit code, document, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        capsys.readouterr()  # what making the model said
        status = cli.main(["upscale", *map(str, args), *small, "--json", "--no-progress"])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, json.loads(out), err

    return run


def read_tar(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def statuses(document):
    return {record["input"]: record["status"] for record in document["results"]}


def as_files(osediff, pictures):
    """name -> bytes of what comes of pictures as files."""
    Path("files").mkdir()
    for name, data in pictures.items():
        Path("files", name).write_bytes(data)
    assert osediff("files", "-o", "restored")[0] == 0
    return files_in(Path("restored"))


def test_a_tar_becomes_a_tar_and_a_cut_one_is_done_again(osediff):
    """The test plan's point 7."""
    good = {"a.jpg": png(0, "JPEG"), "a.txt": b"a photo", "b.png": png(1), "b.json": b"{}"}
    write_tar(Path("in/0.tar"), good | {"b.seg.png": b"no photo", "README": b"of all"})
    write_tar(Path("in/1.tar"), {"c.png": png(2), "d.png": b"broken", "d.txt": b"of a broken one"})
    write_tar(Path("in/2.tar"), {"e.png": png(3), "f.png": png(4), "g.png": png(5)})
    whole = Path("in/2.tar").read_bytes()
    header = whole.index(b"g.png")
    Path("in/2.tar").write_bytes(whole[:header])
    status, document, err = osediff("in", "-o", "out")
    assert status == 1 and "in/2.tar ends too soon, after 2 members" in err
    assert statuses(document) == {
        "in/0.tar/a.jpg": "restored", "in/0.tar/b.png": "restored", "in/1.tar/c.png": "restored",
        "in/1.tar/d.png": "failed", "in/2.tar": "failed",
    }  # fmt: skip
    assert sorted(files_in(Path("out"))) == ["0.tar", "1.tar"]
    files = as_files(osediff, {"a.jpg": good["a.jpg"], "b.png": good["b.png"], "c.png": png(2)})
    expected = {"a.png": files["a.png"], "a.txt": b"a photo", "b.png": files["b.png"], "b.json": b"{}"}
    assert read_tar("out/0.tar") == expected | {"b.seg.png": b"no photo", "README": b"of all"}
    assert read_tar("out/1.tar") == {"c.png": files["c.png"]}

    before = files_in(Path("out"))
    Path("in/2.tar").write_bytes(whole)
    status, document, _ = osediff("in", "-o", "out", "--skip-existing")
    assert status == 0 and (document["restored"], document["skipped"]) == (3, 2)
    assert before.items() <= files_in(Path("out")).items()


def test_others_read_the_tar(osediff, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets are not installed: pip install -e '.[train]'")
    write_tar(Path("in.tar"), {f"{n}.{end}": data for n in range(3) for end, data in
                               (("jpg", png(n, "JPEG")), ("txt", f"photo {n}".encode()))})  # fmt: skip
    assert osediff("in.tar", "-o", "out.tar", "--format", "webp")[0] == 0
    rows = list(datasets.load_dataset("webdataset", data_files="out.tar", split="train", streaming=True))
    assert [(row["__key__"], row["txt"], row["webp"].size) for row in rows] == [
        (str(n), f"photo {n}", (80, 64)) for n in range(3)
    ]


@pytest.mark.parametrize("where", [100, 1200, 2000, -1024], ids=["header", "data", "second", "end"])
def test_a_tar_that_is_cut_anywhere_is_told(osediff, where):
    write_tar(Path("in.tar"), {"a.png": png(0, size=(8, 8)), "b.png": png(1, size=(8, 8))})
    data = Path("in.tar").read_bytes()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512 if where < 0 else where
    Path("in.tar").write_bytes(data[:end])
    status, document, err = osediff("in.tar", "-o", "out")
    assert status == 1 and err.count("error: ") == 1 and err.endswith("copy it here again.\n")
    assert statuses(document) == {"in.tar": "failed"} and not files_in(Path("out"))


def test_a_column_of_pictures_becomes_such_a_column(osediff):
    pictures = [png(0), None, png(1, "WEBP", size=(16, 24)), b"broken", png(2, "JPEG")]
    packed = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(pictures)]
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    about = {b"huggingface": b'{"info": {"features": {"image": {"_type": "Image"}}}}'}
    fields = {"image": pa.array(packed, image), "text": pa.array(list("abcde")), "raw": pa.array(pictures)}
    table = pa.table(fields).replace_schema_metadata(about)
    Path("in").mkdir()
    pq.write_table(table, "in/0.parquet")
    status, document, err = osediff("in", "-o", "out")
    assert status == 1 and statuses(document) == {
        "in/0.parquet/0": "restored", "in/0.parquet/2": "restored", "in/0.parquet/3": "failed",
        "in/0.parquet/4": "restored",
    }  # fmt: skip
    made = pq.read_table("out/0.parquet")
    assert made.schema.equals(table.schema, check_metadata=True)
    assert made["text"].to_pylist() == list("abce") and made["raw"].to_pylist()[1] is None
    files = as_files(osediff, {"0.png": pictures[0], "2.webp": pictures[2], "4.jpg": pictures[4]})
    assert made["image"].to_pylist() == [
        {"bytes": files["0.png"], "path": "0.png"}, {"bytes": None, "path": "1.jpg"},
        {"bytes": files["2.webp"], "path": "2.webp"}, {"bytes": files["4.png"], "path": "4.png"},
    ]  # fmt: skip
    status, document, _ = osediff("in", "-o", "raw", "--column", "raw")
    assert pq.read_table("raw/0.parquet")["raw"].to_pylist() == [
        files["0.png"], None, files["2.webp"], files["4.png"]
    ]  # fmt: skip
    status, document, err = osediff("in", "-o", "none", "--column", "text")
    assert status != 0 and "image, raw" in err and len(err.splitlines()) == 1


def test_a_list_names_pictures_wherever_they_are(osediff):
    for name in ("x/a.png", "y/a.png", "y/b.png"):
        Path(name).parent.mkdir(exist_ok=True)
        noise(0).save(name)
    Path("x/list.txt").write_text(
        f"a.png\n\n{Path('y/b.png').resolve()}\n{Path('y/b.png').resolve().as_uri()}\n"
    )
    status, document, _ = osediff("x/list.txt", "-o", "out")
    assert status == 0 and sorted(files_in(Path("out"))) == ["a.png", "b.png"]
    Path("x/list.txt").write_text("a.png\n../y/a.png\nmissing.png\n")
    status, _, err = osediff("x/list.txt", "-o", "out2")
    assert status == 2 and "both become" in err
    status, document, _ = osediff("x/list.txt", "-o", "out2", "--recursive")
    assert status == 1 and document["failed"] == 1
    assert sorted(files_in(Path("out2"))) == ["x/a.png", "y/a.png"]


@pytest.mark.slow
def test_objects_become_objects(osediff, bucket):
    """The test plan's point 8, without Ray."""
    names = ["a b#.png", "sub/ü?.png", "sub/%20.png", "sub/deep/c.jpg"]
    for number, name in enumerate(names):
        bucket.put(f"in/{name}", png(number, "JPEG" if name.endswith("jpg") else "PNG"))
    bucket.put("in/.hidden.png", b"")
    status, document, err = osediff("s3://pictures/in", "-o", "s3://pictures/in/out", "--recursive")
    assert status == 0, err
    made = bucket.files("in/out/")
    assert sorted(made) == sorted(name.replace(".jpg", ".png") for name in names)
    Path("near").mkdir()
    for name in names:
        target = Path("near", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bucket.get(f"in/{name}"))
    assert osediff("near", "-o", "made", "--recursive")[0] == 0
    assert made == files_in(Path("made"))
    status, document, _ = osediff(
        "s3://pictures/in", "-o", "s3://pictures/in/out", "--recursive", "--skip-existing"
    )
    assert status == 0 and (document["restored"], document["skipped"]) == (0, 4)
    bucket.put("list.txt", b"in/sub/%20.png\ns3://pictures/in/a b#.png\n")
    assert osediff("s3://pictures/list.txt", "-o", "listed")[0] == 0
    assert sorted(files_in(Path("listed"))) == ["%20.png", "a b#.png"]
    write_tar(Path("0.tar"), {"a.png": png(0), "a.txt": b"a"})
    for number in range(2):
        bucket.put(f"shards/{number}.tar", Path("0.tar").read_bytes())
    assert osediff("s3://pictures/shards/{0..1}.tar", "-o", "s3://pictures/more")[0] == 0
    Path("1.tar").write_bytes(bucket.get("more/1.tar"))
    assert read_tar("1.tar") == {"a.png": made["a b#.png"], "a.txt": b"a"}
    assert sorted(bucket.files("more/")) == ["0.tar", "1.tar"]
    assert osediff("s3://pictures/shards/*.tar", "-o", "s3://pictures/globbed/")[0] == 0
    assert sorted(bucket.files("globbed/")) == ["0.tar", "1.tar"]


@pytest.mark.slow
def test_what_is_wrong_with_a_bucket_is_one_sentence(osediff, bucket, monkeypatch):
    bucket.put("in/a.png", png(0))
    status, document, err = osediff("s3://pictures/none.png", "s3://nowhere/in", "-o", "out")
    assert status == 1 and document["failed"] == 2
    assert "s3://pictures/none.png does not exist" in err and "s3://nowhere/in" in err
    status, _, err = osediff("s3://pictures/in", "-o", "s3://nowhere/out")
    assert status == 1 and "s3://nowhere" in err and len(err.splitlines()) == 1
    status, _, err = osediff("s3://KEY:SECRET@pictures/in", "-o", "out")
    assert status == 2 and "KEY:SECRET" not in err and "environment" in err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    status, _, err = osediff("s3://pictures/in?region=eu-west-1", "-o", "out")
    assert status == 1 and len(err.splitlines()) <= 2 and "check the network" in err


def test_a_put_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """The test plan's point 5, of places that publish a file while it is written."""
    from pyarrow import fs

    from osediff_core.batch import places
    from osediff_core.errors import ImageError

    top = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(places, "_system", lambda root, query: (top, "in"))
    place = places.place_of("sftp://host/in/a.png")
    places.write_bytes(place, b"whole")
    with pytest.raises(ImageError), places.written_whole(place) as file:
        file.write(b"half")
        raise ImageError("mid-put")
    assert places.read_bytes(place) == b"whole"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.png"]
