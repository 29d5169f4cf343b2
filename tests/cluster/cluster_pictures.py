"""Pictures of the cluster's tests, and what a run left of them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
LONG = 600  # seconds; on an idle machine a run takes 20


def noise(number, size=(40, 32), mode="RGB"):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(number, kind="PNG", **options):
    """The bytes of such a picture's file."""
    file = io.BytesIO()
    noise(number, **options).save(file, kind)
    return file.getvalue()


def write_tar(path, members):
    """members: name -> bytes, in their order."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1_700_000_000
            archive.addfile(member, io.BytesIO(data))


def files_in(folder):
    """name -> bytes of every picture; what else lies there is no result."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("_manifest")}


def ended(process):
    """(exit code, stdout, stderr)"""
    out, err = process.communicate(timeout=LONG)
    return process.returncode, out, err


class Bucket:
    """A bucket of an S3 on this machine."""

    def __init__(self, client, name):
        self.client, self.name = client, name

    def put(self, key, data):
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key):
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def times(self, prefix):
        """Key below the prefix -> when it was written."""
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {one["Key"].removeprefix(prefix): one["LastModified"] for one in found}

    def files(self, prefix):
        """Key below the prefix -> bytes."""
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", [])
        return {one["Key"].removeprefix(prefix): self.get(one["Key"]) for one in found}
