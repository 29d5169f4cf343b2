"""Pictures for the tests of the data: each of its own colour, so that a crop tells which one it is of."""

import io
import tarfile

import numpy as np
from PIL import Image

from training.data import DataConfig, PairLoader, SourceConfig


def picture(number, size=(48, 40)):
    """Noise around a grey that says the number; the exact level survives in no crop, the bytes do in all."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(number, size=(48, 40), kind="PNG"):
    buffer = io.BytesIO()
    picture(number, size).save(buffer, kind)
    return buffer.getvalue()


def fill(folder, count, size=(48, 40), first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:03d}.png").write_bytes(encoded(number, size))
    return folder


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def config(*sources, **changes):
    sources = tuple(s if isinstance(s, SourceConfig) else SourceConfig(str(s)) for s in sources)
    return DataConfig(sources, **({"resolution": 32, "degradation": "jpeg", "workers": 0} | changes))


def loader(*sources, batch=2, seed=5, rank=0, world=1, state=None, tagger=None, **changes):
    return PairLoader(config(*sources, **changes), batch, seed, rank, world, state, tagger)


def take(pairs, count):
    batches = iter(pairs)
    found = [next(batches) for _ in range(count)]
    batches.close()  # its workers end here, not when it is collected
    return found


def stems(batches):
    return [name.rsplit("/", 1)[-1].removesuffix(".png") for batch in batches for name in batch.names]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert (one.names, one.prompts, one.indices) == (other.names, other.prompts, other.indices)
        assert one.lq.equal(other.lq) and one.hq.equal(other.hq)
