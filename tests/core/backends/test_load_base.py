"""Base models in every form they come in, and every form that must be refused with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mini_models.golden import write_configs
from mini_models.networks import MiniModel
from mini_models.single_file import single_file
from refusals import refused
from safetensors.torch import load_file, save_file
from torch import Tensor

from osediff_core.backends.find_base import PACKAGED, find_base
from osediff_core.backends.load_base import Base, found_prediction_type, load_base
from osediff_core.backends.read_base import RawBase
from osediff_core.errors import BaseModelError
from osediff_core.ports import LatentCodec, NoisePredictor, PromptEncoder
from osediff_core.weights.checkpoint import read_weights, write_weights

PARTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def weights_of(base: Base) -> dict[str, Tensor]:
    networks = {"unet": base.unet.module, "vae": base.vae.module, "text": base.text.module}
    return {f"{part}.{k}": v for part, network in networks.items() for k, v in network.state_dict().items()}


def assert_same(one: Base, other: Base) -> None:
    a, b = weights_of(one), weights_of(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def reference(mini: MiniModel) -> Base:
    return load_base(mini.base, "fp32", "cpu")


@pytest.fixture
def folder(mini: MiniModel, tmp_path: Path) -> Path:
    """A copy of the base that a test may change."""
    return Path(shutil.copytree(mini.base, tmp_path / "base"))


def change(folder: Path, part: str, edit: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> None:
    path = folder / PARTS[part]
    tensors = {k: v.clone() for k, v in load_file(path).items()}
    save_file(edit(tensors) or tensors, path)


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# --- forms that load ---


def test_a_folder_loads_frozen_complete_and_ready(reference: Base) -> None:
    assert isinstance(reference.vae, LatentCodec) and isinstance(reference.unet, NoisePredictor)
    assert isinstance(reference.text, PromptEncoder)
    assert reference.vae.downscale == 8 and reference.vae.latent_channels == 4
    assert reference.vae.scaling_factor == 0.18215
    assert reference.schedule.prediction_type == "epsilon" and reference.schedule.num_timesteps == 1000
    for network in (reference.unet.module, reference.vae.module, reference.text.module):
        assert not network.training
        assert not any(p.requires_grad or p.is_meta for p in network.parameters())
        assert not any(b.is_meta for b in network.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_weight_is_cast(mini: MiniModel, reference: Base, dtype: torch.dtype) -> None:
    base = load_base(mini.base, dtype, "cpu")
    exact = weights_of(reference)
    for name, tensor in weights_of(base).items():
        assert tensor.dtype == dtype, name
        assert torch.equal(tensor, exact[name].to(dtype)), name


def test_weights_may_stay_as_they_are_stored(folder: Path, reference: Base) -> None:
    change(folder, "vae", lambda tensors: {k: v.half() for k, v in tensors.items()})
    base = load_base(folder, None, "cpu")
    assert (base.unet.dtype, base.vae.dtype) == (torch.float32, torch.float16)
    stored = {
        k: v.half() if k.startswith("vae.") and v.is_floating_point() else v
        for k, v in weights_of(reference).items()
    }
    assert all(v.dtype == stored[k].dtype and torch.equal(v, stored[k]) for k, v in weights_of(base).items())


def test_a_vae_of_another_depth_and_width_says_so(folder: Path) -> None:
    from diffusers import AutoencoderKL

    config = {
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "scaling_factor": 1.0,
    }
    shutil.rmtree(folder / "vae")
    AutoencoderKL(**config).save_pretrained(folder / "vae")
    vae = load_base(folder, "fp32", "cpu").vae
    assert (vae.downscale, vae.latent_channels, vae.scaling_factor) == (4, 4, 1.0)
    mean, std = vae.encode(torch.zeros(2, 3, 16, 24)).chunk(2, dim=1)
    assert mean.shape == std.shape == (2, 4, 4, 6)
    assert vae.decode(mean).shape == (2, 3, 16, 24)


def test_names_of_earlier_versions_are_understood(folder: Path, reference: Base) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_vae(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for key, value in tensors.items():
            for new_name, old_name in old.items():
                key = key.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
            renamed[key] = value
        assert renamed.keys() != tensors.keys()
        return renamed

    change(folder, "vae", old_vae)
    change(
        folder,
        "text_encoder",
        lambda tensors: {
            **{k.removeprefix("text_model."): v for k, v in tensors.items()},
            "embeddings.position_ids": torch.arange(77)[None],
        },
    )
    assert_same(load_base(folder, "fp32", "cpu"), reference)


def test_torch_files_and_shards_load_too(folder: Path, reference: Base) -> None:
    path = folder / PARTS["vae"]
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    path = folder / PARTS["unet"]
    tensors = load_file(path)
    names = sorted(tensors)
    shards = {"one.safetensors": names[:100], "two.safetensors": names[100:]}
    for shard, keys in shards.items():
        save_file({k: tensors[k].clone() for k in keys}, path.parent / shard)
    index = {"weight_map": {k: shard for shard, keys in shards.items() for k in keys}}
    (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))
    path.unlink()
    assert_same(load_base(folder, "fp32", "cpu"), reference)


@pytest.fixture(scope="module")
def ldm(mini: MiniModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    """The miniature as a single-file checkpoint's tensors, and the folder with its configs."""
    parts = {part: load_file(mini.base / path) for part, path in PARTS.items()}
    configs = tmp_path_factory.mktemp("configs") / "mini"
    write_configs(configs)
    return single_file(parts["unet"], parts["vae"], parts["text_encoder"]), configs


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_gives_the_same_networks_as_the_folder(
    ldm: tuple[dict[str, Tensor], Path], suffix: str, tmp_path: Path, reference: Base
) -> None:
    tensors, configs = ldm
    path = tmp_path / f"sd{suffix}"
    if suffix == ".ckpt":
        torch.save({"global_step": 7, "state_dict": tensors}, path)
    else:
        save_file(tensors, path)
    base = load_base(path, "fp32", "cpu", configs=configs)
    assert_same(base, reference)
    assert torch.equal(base.text(["a cat"]), reference.text(["a cat"]))


def test_a_hub_id_is_served_from_the_local_cache(
    mini: MiniModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    repo = tmp_path / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(mini.base, repo / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_base("someone/model").path.name == commit


def test_a_download_is_made_only_when_allowed_and_of_the_revision_that_was_asked(
    mini: MiniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(repo: str, **options: object) -> str:
        calls.append((repo, options["revision"], options["local_files_only"]))
        if repo == "someone/unreachable":
            raise ConnectionError("no route to the host\nand more")
        return str(mini.base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_base("someone/model", allow_download=True, revision="abc").path == mini.base
    assert find_base("someone/model").path == mini.base
    assert calls == [("someone/model", "abc", False), ("someone/model", None, True)]
    assert "no route to the host)" in refusal("someone/unreachable", allow_download=True)


def test_a_packaged_base_is_found_by_its_name(
    mini: MiniModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGED, "tiny", mini.base)
    assert find_base("tiny").path == mini.base
    monkeypatch.setitem(PACKAGED, "tiny", tmp_path / "gone")
    assert "install the package again" in refusal("tiny")


def test_weights_beside_a_folder_are_its_default(folder: Path) -> None:
    assert find_base(folder).default_weights is None
    (folder / "osediff.safetensors").write_bytes(b"any")
    assert find_base(folder).default_weights == folder / "osediff.safetensors"


# --- forms that are refused ---


def refusal(base: str | Path, **options: object) -> str:
    with refused(BaseModelError) as caught:
        load_base(base, "fp32", "cpu", **options)
    return str(caught.value)


def test_all_that_does_not_fit_is_reported_at_once(folder: Path) -> None:
    def edit_unet(tensors: dict[str, Tensor]) -> None:
        del tensors["conv_out.bias"]
        tensors["conv_in.weight"] = torch.zeros(32, 9, 3, 3)

    def edit_vae(tensors: dict[str, Tensor]) -> None:
        del tensors["quant_conv.weight"]
        tensors["encoder.conv_in.extra"] = torch.zeros(1)

    change(folder, "unet", edit_unet)
    change(folder, "vae", edit_vae)
    text = refusal(folder)
    for name in (
        "conv_out.bias",
        "conv_in.weight [32, 9, 3, 3]",
        "quant_conv.weight",
        "encoder.conv_in.extra",
    ):
        assert name in text


def test_v_prediction_is_refused_with_the_reason(folder: Path) -> None:
    change_json(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    text = refusal(folder)
    assert "v-prediction" in text and "2.1-base" in text
    assert load_base(folder, "fp32", "cpu", prediction_type="v_prediction").schedule.prediction_type == (
        "v_prediction"
    )


def test_weights_for_v_prediction_do_not_go_on_an_epsilon_base(mini: MiniModel) -> None:
    assert "predicts epsilon" in refusal(mini.base, prediction_type="v_prediction")


@pytest.mark.parametrize(("spread", "found"), [(0.2, "v_prediction"), (0.05, "epsilon")])
def test_v_prediction_is_found_by_content_whatever_the_scheduler_says(spread: float, found: str) -> None:
    name = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
    bias = torch.linspace(-1, 1, 320)
    raw = RawBase(
        configs={"unet": {"cross_attention_dim": 1024}},
        tensors={"unet": {name: bias / bias.std() * spread}},
        tokenizer=Path(),
        scheduler={"prediction_type": "epsilon"},
    )
    assert found_prediction_type(raw) == found
    raw.configs["unet"]["cross_attention_dim"] = 768  # the test is known to hold for SD 2 only
    assert found_prediction_type(raw) == "epsilon"


def test_another_kind_of_network_is_refused(folder: Path) -> None:
    change_json(folder / "unet" / "config.json", _class_name="SD3Transformer2DModel")
    assert "SD3Transformer2DModel" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.safetensors", b"", "empty"),
        ("picture.safetensors", b"\x89PNG\r\n\x1a\n" + b"0" * 99, "PNG"),
        ("cut.safetensors", b"\x00\x10\x00\x00\x00\x00\x00\x00{", "damaged"),
        ("broken.ckpt", b"PK\x03\x04" + b"0" * 99, "damaged"),
        ("model.onnx", b"abc", "no file of tensors"),
    ],
)
def test_files_that_are_no_base_are_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in refusal(tmp_path / name)


class _Code:
    def __reduce__(self) -> tuple:
        return (print, ("this must not be run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"state_dict": _Code()}, tmp_path / "evil.ckpt")
    refusal(tmp_path / "evil.ckpt")
    assert "must not" not in capsys.readouterr().out


def test_osediff_weights_given_as_the_base_are_named(mini: MiniModel, tmp_path: Path) -> None:
    write_weights(tmp_path / "ours.safetensors", read_weights(mini.weights))
    for path in (
        mini.weights,
        shutil.copy(mini.weights, tmp_path / "official"),
        tmp_path / "ours.safetensors",
    ):
        text = refusal(path)
        assert "is OSEDiff weights" in text and "pass it as the weights" in text


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_unet_x.lora_down.weight": (4, 4)}, "a LoRA in the kohya format"),
        ({"conv_in.weight": (320, 4, 3, 3), "down_blocks.0.x": (1,)}, "pass the folder of the whole model"),
        ({"model.diffusion_model.double_blocks.0.x": (1,)}, "another diffusion model"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,)}, "an unknown kind of model"),
    ],
)
def test_other_files_given_as_the_base_are_named(
    tensors: dict[str, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "file")
    assert words in refusal(tmp_path / "file")


def test_a_checkpoint_with_other_inputs_is_named(ldm: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**ldm[0], first: torch.zeros(32, 9, 3, 3)}, tmp_path / "inpainting.safetensors")
    with pytest.raises(BaseModelError, match="4 latent channels is needed"):
        load_base(tmp_path / "inpainting.safetensors", "fp32", "cpu", configs=ldm[1])


def test_a_checkpoint_of_another_family_is_named(ldm: tuple[dict[str, Tensor], Path], tmp_path: Path) -> None:
    tensors = dict(ldm[0])
    tensors["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] = torch.zeros(
        32, 768
    )
    save_file(tensors, tmp_path / "sd15.safetensors")
    assert "Stable Diffusion 1.x" in refusal(tmp_path / "sd15.safetensors")


def test_sdxl_is_named_though_its_first_level_has_no_attention(tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({first: torch.zeros(8, 4, 3, 3), name: torch.zeros(8, 2048)}, tmp_path / "sdxl.safetensors")
    assert "is an SDXL checkpoint" in refusal(tmp_path / "sdxl.safetensors")


def test_an_index_without_shards_is_named(folder: Path) -> None:
    (folder / PARTS["unet"]).unlink()
    (folder / f"{PARTS['unet']}.index.json").write_text("{}")
    assert "names no shards" in refusal(folder)


STRANGE = [
    "../outside.safetensors",
    "/etc/passwd",
    "..\\outside.safetensors",
    "C:outside.safetensors",
    "one.safetensors:stream",
    "sub/one.safetensors",
    "..",
    "",
    "a\0b",
    "n" * 300,
    3,
    None,
    ["one.safetensors"],
]


@pytest.mark.parametrize("name", STRANGE, ids=lambda name: str(name)[:30].replace("\0", "NUL"))
def test_an_index_names_only_files_beside_it(folder: Path, name: object) -> None:
    path = folder / PARTS["unet"]
    shutil.copy(path, folder / "outside.safetensors")
    path.rename(path.with_name("one.safetensors"))
    index = {"weight_map": {"conv_in.weight": "one.safetensors", "conv_in.bias": name}}
    (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))
    assert "is no file of the model's folder" in refusal(folder)


def test_a_shard_is_no_link_to_elsewhere_but_to_the_hubs_own_files(
    folder: Path, tmp_path: Path, reference: Base
) -> None:
    path = folder / PARTS["unet"]
    (tmp_path / "elsewhere").mkdir()
    path.rename(tmp_path / "elsewhere" / "x")
    path.with_name("one.safetensors").symlink_to(tmp_path / "elsewhere" / "x")
    index = {"weight_map": dict.fromkeys(load_file(tmp_path / "elsewhere" / "x"), "one.safetensors")}
    (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))
    assert "is no file of the model's folder" in refusal(folder)
    cached = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)  # as huggingface_hub lays it out
    shutil.copytree(folder, cached, symlinks=True)
    (tmp_path / "elsewhere").rename(tmp_path / "models--a--b" / "blobs")
    link = cached / "unet" / "one.safetensors"
    link.unlink()
    link.symlink_to("../../../blobs/x")
    assert_same(load_base(cached, "fp32", "cpu"), reference)


def test_nothing_that_is_code_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import filter_repo_objects

    files = [
        *(
            f"{folder}{name}"
            for folder in ("", "tokenizer/", "unet/", "text_encoder/", "scheduler/", "deep/er/")
            for name in ("own.py", "own.pyc", "own.so", "x.pkl", "x.sh", "config.py")
        ),
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.bin",
    ]
    fetched = []

    def download(repo: str, **options: object) -> str:
        fetched.extend(filter_repo_objects(files, allow_patterns=options["allow_patterns"]))
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    refusal("someone/model", allow_download=True)
    assert fetched == [
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]


def test_a_model_of_another_kind_is_told_by_its_class(tmp_path: Path) -> None:
    for name in ("SD3Transformer2DModel", "FluxTransformer2DModel"):
        (tmp_path / name / "transformer").mkdir(parents=True)
        (tmp_path / name / "transformer" / "config.json").write_text(json.dumps({"_class_name": name}))
        assert f"another kind ({name}" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "~nobody-of-this-name", "n/" * 3000, "\ud800"])
def test_an_impossible_path_is_no_base(name: str) -> None:
    assert "no base model at" in refusal(name)


def test_missing_things_are_named(folder: Path, tmp_path: Path) -> None:
    assert "no base model at" in refusal(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    assert "unet/config.json" in refusal(tmp_path / "other")
    shutil.rmtree(folder / "tokenizer")
    assert "tokenizer" in refusal(folder)
    (folder / PARTS["vae"]).unlink()
    assert "vae" in refusal(folder)


def test_a_hub_id_is_not_downloaded_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "--allow-download" in refusal("someone/model-that-is-not-there")


@pytest.mark.parametrize("way", ["tokenizer_config.json", "config.json"])
def test_code_that_a_tokenizer_brings_is_never_run(folder: Path, way: str, capfd) -> None:
    """Two ways in: a tokenizer's class of its own, and a configuration's, for which nothing looks."""
    ran = folder / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nfrom transformers import CLIPTextConfig as Own, CLIPTokenizer\n"
    (folder / "tokenizer" / "own.py").write_text(code + "class OwnTokenizer(CLIPTokenizer): pass\n")
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "tokenizer_class": "OwnTokenizer"}
    if way == "config.json":
        path.write_text(json.dumps({k: v for k, v in config.items() if k != "tokenizer_class"}))
        own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
        (folder / "tokenizer" / way).write_text(json.dumps(own))
        load_base(folder, "fp32", "cpu")
    else:
        path.write_text(json.dumps({**config, "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}))
        assert "asks for Python code of its own, which is never run" in refusal(folder)
    assert not ran.exists() and capfd.readouterr().out == ""


def test_a_configuration_gives_no_orders_to_the_libraries(
    folder: Path, reference: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that make transformers or diffusers fetch compiled code, quantise or import a class."""

    def connect(*_: object) -> None:
        raise AssertionError("a configuration made a library ask for something")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    kernel = "kernels-community/flash-attn2"
    orders = {
        "_attn_implementation": kernel,
        "attn_implementation": kernel,
        "_attn_implementation_internal": kernel,
        "_experts_implementation": kernel,
        "use_kernels": True,
        "auto_map": {"AutoModel": "own.Own", "AutoConfig": "someone/else--own.Own"},
        "_name_or_path": "someone/else",
        "custom_pipeline": "someone/else",
        "torch_dtype": "own.dtype",
    }
    for part in PARTS:
        change_json(folder / part / "config.json", **orders)
    base = load_base(folder, "fp32", "cpu")
    assert_same(base, reference)
    assert base.text.module.config._attn_implementation == reference.text.module.config._attn_implementation
    assert torch.equal(base.text(["a cat"]), reference.text(["a cat"]))


@pytest.mark.parametrize("part", PARTS)
def test_a_quantised_part_is_named(folder: Path, part: str) -> None:
    for method in ("bitsandbytes", "kernels-community/own", {"deep": 1}):
        change_json(folder / part / "config.json", quantization_config={"quant_method": method})
        assert "is quantised" in refusal(folder)
