"""The families of inputs: each makes a command line and its files from good ones, by a random generator."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .mutate import (
    HOSTILE,
    changed_json,
    changed_png,
    changed_safetensors,
    changed_torch,
    damaged,
    json_bytes,
)
from .seeds import Seeds

OUT = "out"  # where results go, within the folder of an input


@dataclass
class Input:
    """argv: of `osediff`. content: what makes it another input than all others. result: a file that exit 0 promises.

    signal, after: sent so many seconds after the start. stdin: given on standard input.
    """

    argv: list[str]
    content: bytes = b""
    result: str | None = None
    signal: int | None = None
    after: float = 0.0
    stdin: bytes = field(default=b"", repr=False)


Family = Callable[[Random, Path, Seeds], Input]


def images(rng: Random, folder: Path, seeds: Seeds) -> Input:
    """A damaged picture through every command that reads some."""
    name = rng.choice(list(seeds.images))
    data = seeds.images[name]
    data = changed_png(data, rng) if name.endswith(".png") and rng.random() < 0.7 else damaged(data, rng)
    if rng.random() < 0.1:
        name = f"{name}.{rng.choice(('png', 'jpg', 'tif', 'webp', 'avif'))}"
    path = folder / name
    path.write_bytes(data)
    result = f"{OUT}/r.{rng.choice(('png', 'png', 'jpg', 'webp', 'tif'))}"
    match rng.randrange(16):
        case 0:
            argv = ["upscale", path.name, "-o", result, "--scale", "1"]
        case 1 | 2 | 3:
            argv, result = ["upscale", path.name, "-o", f"{OUT}/", "--scale", "2", "--dry-run"], None
        case 4 | 5:
            argv, result = ["evaluate", path.name, str(seeds.picture), "--metrics", "psnr,ssim"], None
        case 6:
            argv, result = ["tag", path.name, "--dape", "tiny"], None
        case _:
            argv, result = ["degrade", path.name, "-o", f"{OUT}/", "--seed", str(rng.randrange(9))], None
    return Input(argv + _shown(rng), data, result)


def checkpoints(rng: Random, folder: Path, seeds: Seeds) -> Input:
    """A damaged file of weights as weights, base, tagger, and for `info` and `convert`."""
    name = rng.choice(list(seeds.weights))
    data = seeds.weights[name]
    if name.endswith(".safetensors") and rng.random() < 0.7:
        data = changed_safetensors(data, rng)
    elif name == "official.pkl" and rng.random() < 0.7:
        data = changed_torch(data, rng)
    else:
        data = damaged(data, rng)
    path = folder / (
        name if rng.random() < 0.8 else rng.choice(("w", "w.ckpt", "w.bin", "w.safetensors", "w.pkl"))
    )
    path.write_bytes(data)
    result = None
    match rng.randrange(9):
        case 0:
            argv = [
                "upscale",
                str(seeds.picture),
                "-o",
                f"{OUT}/r.png",
                "--scale",
                "1",
                "--weights",
                path.name,
            ]
            result = f"{OUT}/r.png"
        case 1:
            argv = ["upscale", str(seeds.picture), "-o", f"{OUT}/r.png", "--scale", "1", "--base", path.name]
            result = f"{OUT}/r.png"
        case 2:
            argv = ["tag", str(seeds.picture), rng.choice(("--dape", "--ram")), path.name]
        case 3 | 4 | 5:
            result = f"{OUT}/w.{rng.choice(('safetensors', 'pkl'))}"
            (folder / OUT).mkdir()
            argv = ["convert", path.name, result]
        case _:
            argv = ["info", path.name]
    return Input(argv + _shown(rng), data, result)


_TEXTS = [
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/vocab.json",
    "model_index.json",
]
_PARTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "osediff.safetensors",
    "tokenizer/merges.txt",
]


def bases(rng: Random, folder: Path, seeds: Seeds) -> Input:
    """A base with one or two files changed, missing, or of another part."""
    base = folder / "base"
    for part in seeds.base.iterdir():
        if part.is_dir():
            shutil.copytree(part, base / part.name, copy_function=os.symlink)
        else:
            (base / part.name).symlink_to(part)
    content = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        file = rng.choice(_TEXTS if rng.random() < 0.75 else _PARTS)
        path = base / file
        if not path.exists():
            continue
        data = path.read_bytes()
        path.unlink()
        match rng.randrange(8):
            case 0:
                data = b""
            case 1:
                continue
            case 2:
                data = damaged(data, rng)
            case 3 if file.endswith("diffusion_pytorch_model.safetensors"):
                shard = rng.choice([str(value)[:200] for value in HOSTILE] + ["x.safetensors"])
                index = {"weight_map": {"conv_in.weight": shard, "b": rng.choice(HOSTILE)}}
                path = path.with_name(f"{path.name}.index.json")
                data = json_bytes(index)
            case _:
                data = _changed(file, data, rng)
        path.write_bytes(data)
        content.append(f"{file}:{len(data)}:".encode() + data)
    if rng.random() < 0.15:
        return Input(["info", "base", *_shown(rng)], b"".join(content))
    argv = [
        "upscale",
        str(seeds.picture),
        "-o",
        f"{OUT}/r.png",
        "--scale",
        "1",
        "--base",
        "base",
        "--prompt",
        "a wall",
    ]
    return Input(argv + _shown(rng), b"".join(content), f"{OUT}/r.png")


def _changed(file: str, data: bytes, rng: Random) -> bytes:
    """By what the file is, unless an earlier change has left nothing of that."""
    try:
        if file.endswith(".json"):
            return json_bytes(changed_json(json.loads(data), rng))
        if file.endswith(".safetensors"):
            return changed_safetensors(data, rng)
    except (ValueError, RecursionError, struct.error):
        pass
    return damaged(data, rng)


_VALUES = [
    *"0 -1 1 2 0.5 1.5 -0.0 1e308 -1e308 1e-320 nan inf -inf 1,5 1,2,3 abc １ 0x10 1e3 1_0 +1 None true".split(),
    *"16x16 0x0 1x99999999 16X16 x 16x - -- tiny psnr fp8 cpu cuda:99 meta %s".split(),
    *"{stem} {0} {stem.x} {number:99999999}".split(),
    *("", " ", "9" * 30, "9" * 5000, "a" * 3000, "\x1b[31m", "\udcff"),
]
_OPTIONS = {
    "upscale": (
        "--scale --size --format --name --jpeg-quality --base --weights --method --decoder --strength --dtype --device "
        "--revision --prompt --fidelity --pixel --semantic --color-fix --color-weight --tile --overlap --tile-grid "
        "--vae-tile --vae-memory --vae-attention --seed --dape --ram --exclude-tags --tag-offset --recursive "
        "--keep-metadata --skip-existing --sample-posterior --official-prompt --no-progress --json-lines --nonsense"
    ).split(),
    "degrade": "--preset --seed --format --sheet --recursive --scale --records --count --nonsense".split(),
    "evaluate": "--metrics --lq -o --device --recursive --ids --crop --nonsense".split(),
    "compare": (
        "--with --truth --scale --size --base --prompt --dape --ram --tile --dtype --device --metrics --seed --title "
        "--report-pictures --recursive --nonsense"
    ).split(),
    "tag": "--dape --ram --tag-offset --exclude-tags --language --dtype --device --count".split(),
    "info": "--method --nonsense".split(),
    "convert": "--dtype --dape --method --nonsense".split(),
    "doctor": ["--nonsense"],
    "completion": "--nonsense bash zsh tcsh".split(),
}
_SIZES = {"--scale", "--size"}  # large ones are work and no fault


def options(rng: Random, folder: Path, seeds: Seeds) -> Input:
    """One to three options with values of all kinds."""
    command = rng.choice(["upscale"] * 5 + list(_OPTIONS))
    argv = [command]
    if command in ("upscale", "degrade", "evaluate", "tag", "compare"):
        argv.append(str(seeds.picture))
    if command in ("upscale", "degrade", "compare"):
        argv += ["-o", f"{OUT}/"]
    if command == "compare":
        argv += ["--with", "tiny", "--metrics", "psnr"]
    if command == "evaluate":
        argv.append(str(seeds.picture))
    if command in ("info", "convert"):
        argv.append("tiny" if command == "info" else str(seeds.base / "osediff.safetensors"))
    if command == "convert":
        argv.append("w.safetensors")
    chosen = rng.sample(_OPTIONS[command], min(len(_OPTIONS[command]), rng.choice((1, 1, 2, 3))))
    for name in chosen:
        value = rng.choice(_VALUES)
        match rng.randrange(6):
            case 0:
                argv.append(name)
            case 1:
                argv.append(f"{name}={value}")
            case _:
                argv += [name, value]
    if command == "upscale":
        dry = _SIZES & set(chosen) or rng.random() < 0.6
        argv += ["--dry-run"] if dry else ["--scale", "1"]
    return Input(argv + _shown(rng))


_PATHS = (
    "~nobody-here/x.png . .. - -- -x.png * {000..9}.png http://localhost:9/x.png file:///x C:\\x.png con é.png tiny "
    "odd/../odd/./empty.png someone/model /proc/self/mem /proc/nothing/x.png /dev/zero /dev/full /dev/stdin"
).split()


def paths(rng: Random, folder: Path, seeds: Seeds) -> Input:
    """Odd paths in every place that takes one."""
    odd = folder / "odd"
    odd.mkdir()
    os.mkfifo(odd / "pipe")
    (odd / "empty.png").touch()
    (odd / "loop.png").symlink_to("loop.png")
    (odd / "gone.png").symlink_to("nowhere/x.png")
    (odd / "folder.png").mkdir()
    (odd / "a\x1b[31m\nosediff: fine.png").write_bytes(seeds.images["rgb.png"])
    server = socket.socket(socket.AF_UNIX)
    place = os.getcwd()
    os.chdir(odd)  # a socket's whole path must be short
    server.bind("socket")
    os.chdir(place)
    names = [str(path.relative_to(folder)) for path in sorted(odd.iterdir())]
    names += [
        *_PATHS,
        "n" * 300,
        "n" * 300 + ".png",
        "n/" * 3000,
        "a\0b",
        "\udcff.png",
        "\u202egnp.exe",
        "a b",
        "",
    ]
    read = rng.choice(names)
    written = rng.choice([name for name in names if not name.startswith(("/dev", "..", "/"))])
    good = str(seeds.picture)
    model = rng.choice(("--base", "--weights", "--decoder", "--dape", "--ram"))
    weights = str(seeds.base / "osediff.safetensors")
    argv = rng.choice(
        [
            ["upscale", read, "-o", OUT, "--scale", "1"],
            ["upscale", good, "-o", written, "--scale", "1"],
            ["upscale", good, "-o", f"{OUT}/r.png", "--scale", "1", model, read],
            ["degrade", read, "-o", OUT],
            ["degrade", good, "-o", written],
            ["degrade", good, "-o", OUT, "--preset", read],
            ["evaluate", read, good],
            ["evaluate", good, read],
            ["evaluate", good, good, "-o", written],
            ["tag", read, "--dape", rng.choice(("tiny", read))],
            ["info", read],
            ["convert", read, f"{written}.safetensors"],
            ["convert", weights, written],
            ["convert", weights, f"{written}.safetensors"],
        ]
    )
    return Input(argv + _shown(rng), stdin=rng.choice((b"", b"y\n", seeds.images["photo.jpg"])))


def signals(rng: Random, folder: Path, seeds: Seeds) -> Input:
    """Ctrl-C, termination and a lost terminal at any moment of a run."""
    sources = folder / "in"
    sources.mkdir()
    for number in range(rng.choice((1, 3))):
        (sources / f"{number}.png").symlink_to(seeds.picture)
    argv = rng.choice(
        [
            ["upscale", "in", "-o", OUT, "--scale", "1"],
            ["degrade", "in", "-o", OUT],
            ["convert", str(seeds.base / "osediff.safetensors"), "w.safetensors"],
            ["tag", "in", "--dape", "tiny"],
        ]
    )
    sent = rng.choice((signal.SIGINT, signal.SIGINT, signal.SIGTERM))
    after = rng.uniform(0, 1.2 if argv[0] == "upscale" else 0.4)
    return Input(argv + _shown(rng), f"{after}".encode(), signal=sent, after=after)


def _shown(rng: Random) -> list[str]:
    return rng.choice(([], [], ["--json"], ["-q"]))


FAMILIES: dict[str, Family] = {
    "images": images,
    "checkpoints": checkpoints,
    "bases": bases,
    "options": options,
    "paths": paths,
    "signals": signals,
}
