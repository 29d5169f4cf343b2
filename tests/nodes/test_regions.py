"""Conditioning that lies in the picture, in a tiled step: each tile sees its own part, as if cut out by hand."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from node_graph import denoise, distance, encode, prompt
from stock_nodes import run

SIZE = (32, 48)  # of the photo's latents
TILE = 16


@dataclass(frozen=True)
class Part:
    """A rectangle of the latents, and whether it is all of them."""

    y: int = 0
    x: int = 0
    height: int = SIZE[0]
    width: int = SIZE[1]

    def of(self, plane, ratio=1, dims=(-2, -1)):
        """The same rectangle of a tensor with so many pixels a latent."""
        for dim, start, length in zip(dims, (self.y, self.x), (self.height, self.width), strict=True):
            plane = plane.narrow(dim, start * ratio, length * ratio)
        return plane


PARTS = [Part(y, x, TILE, TILE) for y in range(0, SIZE[0], TILE) for x in range(0, SIZE[1], TILE)]


@pytest.fixture(scope="module")
def latent(pack, tiny, photo):
    with torch.inference_mode():
        return {"samples": encode(pack, photo, tiny[2])[0]["samples"]}


@pytest.fixture(scope="module")
def hint():
    """IMAGE of 8 pixels a latent, as ControlNets of Stable Diffusion take it."""
    return torch.rand(1, SIZE[0] * 8, SIZE[1] * 8, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def side():
    """A mask of the right half, with a soft edge within a tile."""
    return ((torch.arange(SIZE[1]) - 20) / 9).clamp(0, 1).expand(1, *SIZE).contiguous()


def random_weights(module, scale=0.3):
    draws = torch.Generator().manual_seed(2)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        parameter.copy_(torch.randn(parameter.shape, generator=draws) * scale / fan_in**0.5)
    return module


def controlnet(model):
    """ComfyUI's ControlNet, of random weights, for this MODEL."""
    import comfy.cldm.cldm
    import comfy.controlnet

    config = {**model.model.model_config.unet_config, "hint_channels": 3, "dtype": torch.float32}
    config.pop("out_channels")
    network = random_weights(comfy.cldm.cldm.ControlNet(**config))
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def adapter(model):
    """ComfyUI's T2IAdapter over what adds its hint to the features of the UNet's first layer."""
    import comfy.controlnet

    class AddsItsHint(torch.nn.Module):
        unshuffle_amount = 8

        def __init__(self):
            super().__init__()
            self.widen = torch.nn.Conv2d(3, model.model.model_config.unet_config["model_channels"], 1)

        def forward(self, hint):
            return {"input": [self.widen(torch.nn.functional.avg_pool2d(hint, 8))]}

    return comfy.controlnet.T2IAdapter(random_weights(AddsItsHint(), 3.0), 3, 8, "nearest-exact")


def with_control(positive, control, image):
    return run(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=positive,
        control_net=control,
        image=image,
        strength=0.8,
        start_percent=0.0,
        end_percent=1.0,
    )


def with_mask(positive, mask):
    return run("ConditioningSetMask", conditioning=positive, mask=mask, strength=0.7, set_cond_area="default")


def combined(one, other):
    return run("ConditioningCombine", conditioning_1=one, conditioning_2=other)


def gligen(model):
    """ComfyUI's GLIGEN, of random weights, a module for each transformer of the UNet."""
    import comfy.gligen
    import comfy.ldm.modules.attention
    import comfy.model_patcher

    blocks = [
        module
        for module in model.model.diffusion_model.modules()
        if isinstance(module, comfy.ldm.modules.attention.BasicTransformerBlock)
    ]
    widths = [block.norm1.normalized_shape[0] for block in blocks]
    modules = [comfy.gligen.GatedSelfAttentionDense(width, 24, 2, width // 2) for width in widths]
    network = comfy.gligen.Gligen(modules, comfy.gligen.PositionNet(16, 24), 16)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(random_weights(network, 1.0), cpu, cpu)


def with_boxes(positive, model, boxes):
    return [[embeds, {**extra, "gligen": ("position", model, boxes)}] for embeds, extra in positive]


def box_within(box, part):
    """(embedding, height, width, top, left) as seen from the part's corner; None outside of it."""
    embedding, height, width, top, left = box
    top, bottom = (min(max(at - part.y, 0), part.height) for at in (top, top + height))
    left, right = (min(max(at - part.x, 0), part.width) for at in (left, left + width))
    return (embedding, bottom - top, right - left, top, left) if bottom > top and right > left else None


@pytest.fixture(scope="module")
def kinds(pack, tiny, hint, side):
    """By kind: the conditioning for a part of the latents, cut out by hand."""
    import comfy.hooks

    with torch.inference_mode():
        model, clip, _ = tiny
        barn, sky = prompt(pack, clip, "barn"), prompt(pack, clip, "sky, clouds, tree")
        net, adds, boxed = controlnet(model), adapter(model), gligen(model)
        embedding = torch.randn(1, 16, generator=torch.Generator().manual_seed(3))
        boxes = [(embedding, 12, 20, 10, 8), (-embedding, 8, 8, 0, 40)]
        key = "diffusion_model.input_blocks.1.0.in_layers.2"
        shape = model.model.state_dict()[f"{key}.weight"].shape
        lora = {f"{key}.diff": 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(4))}
        hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=1.0, strength_clip=0.0)
        pixels = (1, 2)

    def in_a_region_with_a_lora(part):
        (there,) = comfy.hooks.set_conds_props([sky], 1.0, "default", mask=part.of(side), hooks=hooks)
        return combined(barn, there)

    return {
        "controlnet": lambda part: with_control(barn, net, part.of(hint, 8, pixels)),
        "two controls": lambda part: with_control(
            with_control(barn, net, part.of(hint, 8, pixels)), adds, part.of(1 - hint, 8, pixels)
        ),
        "t2i adapter": lambda part: with_control(barn, adds, part.of(hint, 8, pixels)),
        "mask": lambda part: combined(barn, with_mask(sky, part.of(side))),
        "gligen": lambda part: with_boxes(
            barn, boxed, [cut for box in boxes if (cut := box_within(box, part))]
        ),
        "regional lora": in_a_region_with_a_lora,
        "masked control": lambda part: combined(
            sky, with_mask(with_control(barn, adds, part.of(hint, 8, pixels)), part.of(side))
        ),
    }


KINDS = ("controlnet", "two controls", "t2i adapter", "mask", "gligen", "regional lora", "masked control")


def by_hand(pack, model, latent, conditioning, **changes):
    """The parts restored one by one, whole, and laid side by side."""
    out = torch.empty_like(latent["samples"])
    for part in PARTS:
        cut = {"samples": part.of(latent["samples"])}
        part.of(out).copy_(denoise(pack, model, conditioning(part), cut, tile=0, **changes)["samples"])
    return out


def tiled(pack, model, latent, positive, **changes):
    return denoise(pack, model, positive, latent, tile=TILE, overlap=0, **changes)["samples"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_tile_sees_its_own_part(pack, tiny, latent, kinds, kind):
    found = tiled(pack, tiny[0], latent, kinds[kind](Part()))
    expected = by_hand(pack, tiny[0], latent, kinds[kind])
    assert distance(found, expected) < 1e-5
    plain = tiled(pack, tiny[0], latent, prompt(pack, tiny[1], "barn"))
    assert distance(plain, expected) > 1e-3, "it changes nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_over_everything_sees_everything(pack, tiny, latent, kinds, kind):
    import comfy.sample

    class Twice(pack.core.tiles.unet.UNetTiling):
        """The whole as two tiles, of which each then counts exactly half."""

        def lay(self, height, width):
            return [pack.core.tiles.grid.Tile(0, 0, height, width)] * 2

    model, positive = tiny[0], kinds[kind](Part())
    samples = latent["samples"]
    sampler = pack.native_sampler.OneStepSampler(Twice(TILE, 0))
    sigmas = pack.denoise.one_step_sigmas(model)
    noise = torch.zeros_like(samples)
    found = comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, positive, positive, samples)
    assert torch.equal(found, denoise(pack, model, positive, latent, tile=0)["samples"])


def test_a_negative_shares_the_control(pack, tiny, latent, kinds):
    """As ControlNet's node makes it; and each tile of both conditionings goes through the UNet in one batch."""
    cfg = {"cfg": 2.0}
    conditioning, negative = kinds["controlnet"], kinds["t2i adapter"]
    found = tiled(pack, tiny[0], latent, conditioning(Part()), negative=conditioning(Part()), **cfg)
    assert distance(found, tiled(pack, tiny[0], latent, conditioning(Part()))) < 1e-5
    found = tiled(pack, tiny[0], latent, conditioning(Part()), negative=negative(Part()), **cfg)
    expected = torch.empty_like(found)
    for part in PARTS:
        cut = {"samples": part.of(latent["samples"])}
        one = denoise(pack, tiny[0], conditioning(part), cut, tile=0, negative=negative(part), **cfg)
        part.of(expected).copy_(one["samples"])
    assert distance(found, expected) < 1e-5


def test_an_area_keeps_its_place_and_its_soft_edges(pack, tiny, latent):
    """The middle tile of the upper row: in it both prompts count, by the soft edges of the area, elsewhere one."""
    model, clip, _ = tiny
    barn, sky = prompt(pack, clip, "barn"), prompt(pack, clip, "sky, clouds, tree")
    area = run(
        "ConditioningSetArea",
        conditioning=sky,
        width=TILE * 8,
        height=TILE * 8,
        x=TILE * 8,
        y=0,
        strength=0.6,
    )
    found = tiled(pack, model, latent, combined(barn, area))
    expected, other = tiled(pack, model, latent, barn), tiled(pack, model, latent, sky)
    rr = TILE // 4
    ramp = torch.ones(TILE)
    ramp[:rr] = torch.arange(1, rr + 1) / rr
    weight = (
        0.6 * ramp.flip(0)[:, None] * ramp[None] * ramp.flip(0)[None]
    )  # it touches the picture's upper side
    inside = (..., slice(0, TILE), slice(TILE, 2 * TILE))
    expected[inside] = (expected[inside] + weight * other[inside]) / (1 + weight)
    assert distance(found, expected) < 1e-5
    assert not torch.allclose(found[inside], other[inside], atol=1e-3)


def test_an_area_across_tiles_equals_its_mask(pack, tiny, latent):
    """Where tiles overlap; an area over everything is no area."""
    model, clip, _ = tiny
    barn = prompt(pack, clip, "barn")
    whole = run(
        "ConditioningSetArea",
        conditioning=barn,
        width=SIZE[1] * 8,
        height=SIZE[0] * 8,
        x=0,
        y=0,
        strength=1.0,
    )
    plain = denoise(pack, model, barn, latent, tile=TILE, overlap=8)["samples"]
    assert distance(denoise(pack, model, whole, latent, tile=TILE, overlap=8)["samples"], plain) < 1e-5
    sky = prompt(pack, clip, "sky")
    part = run("ConditioningSetArea", conditioning=sky, width=72, height=240, x=40, y=16, strength=1.0)
    found = denoise(pack, model, combined(barn, part), latent, tile=TILE, overlap=8)["samples"]
    changed = (found - plain).abs().amax((0, 1)) > 1e-4
    assert changed[2:32, 5:14].float().mean() > 0.9
    changed[2:32, 5:14] = False
    assert not changed.any()


def test_an_inpainting_model(pack, latent):
    """Its UNet takes mask and masked picture beside the latents, whole pictures of both."""
    model, clip, _ = pack.load.LoadOSEDiff.execute(
        pack.folders.EMBEDDED, pack.folders.EMBEDDED, 1.0, 1.0, "fp32"
    ).args
    first = model.model.diffusion_model.input_blocks[0][0]
    channels = latent["samples"].shape[1]
    wide = copy.deepcopy(first)
    with torch.inference_mode(False), torch.no_grad():
        added = 0.1 * torch.randn(first.weight.shape[0], channels + 1, 3, 3)
        wide.weight = torch.nn.Parameter(torch.cat([first.weight, added], dim=1), requires_grad=False)
    model.model.diffusion_model.input_blocks[0][0] = wide
    model.patches = {key: patch for key, patch in model.patches.items() if "input_blocks.0.0" not in key}
    model.model.set_inpaint()
    positive = prompt(pack, clip, "barn")
    mask = (torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(5)) > 0.5).float()

    def conditioning(part):
        extra = {
            "concat_latent_image": part.of(latent["samples"].flip(-1)),
            "concat_mask": part.of(mask),
        }
        return [[embeds, {**options, **extra}] for embeds, options in positive]

    found = tiled(pack, model, latent, conditioning(Part()))
    assert distance(found, by_hand(pack, model, latent, conditioning)) < 1e-5
    assert distance(found, tiled(pack, model, latent, positive)) > 1e-3


def test_each_frame_has_its_own_hint_and_mask(pack, tiny, latent, hint, side):
    model, clip, _ = tiny
    barn, sky = prompt(pack, clip, "barn"), prompt(pack, clip, "sky")
    adds = adapter(model)
    hints, masks = torch.cat([hint, hint.flip(1)]), torch.cat([side, side.flip(-1)])
    two = {"samples": latent["samples"].repeat(2, 1, 1, 1)}

    def conditioning(images, places):
        return combined(with_control(barn, adds, images), with_mask(sky, places))

    for tile in (0, TILE):
        found = denoise(pack, model, conditioning(hints, masks), two, tile=tile, overlap=0)["samples"]
        for frame in range(2):
            one = slice(frame, frame + 1)
            own = conditioning(hints[one], masks[one])
            assert torch.equal(found[one], denoise(pack, model, own, latent, tile=tile, overlap=0)["samples"])
        assert distance(found[:1], found[1:]) > 1e-3


def test_what_cannot_be_cropped_is_named_and_the_step_is_done_whole(pack, tiny, latent, hint):
    import comfy.controlnet

    class OfAnotherPack(comfy.controlnet.T2IAdapter):
        def copy(self):
            out = OfAnotherPack(
                self.t2i_model, self.channels_in, self.compression_ratio, self.upscale_algorithm
            )
            self.copy_to(out)
            return out

    own = adapter(tiny[0])
    other = OfAnotherPack(own.t2i_model, 3, 8, "nearest-exact")
    positive = with_control(prompt(pack, tiny[1], "barn"), other, hint)
    out = pack.denoise.OneStepDenoise.execute(tiny[0], positive, latent, TILE, 0, 1.0, 1.0)
    assert torch.equal(out.args[0]["samples"], denoise(pack, tiny[0], positive, latent, tile=0)["samples"])
    assert "a control of another pack (OfAnotherPack)" in out.ui["text"][0]
    assert "cannot be cropped to tiles, so the step is done whole" in out.ui["text"][0]


def test_controls_are_left_as_they_were(pack, tiny, latent, kinds):
    positive = kinds["two controls"](Part())
    control = positive[0][1]["control"]
    before = SimpleNamespace(hint=control.cond_hint_original, previous=control.previous_controlnet)
    first = tiled(pack, tiny[0], latent, positive)
    assert control.cond_hint_original is before.hint and control.previous_controlnet is before.previous
    assert control.cond_hint is None
    assert torch.equal(tiled(pack, tiny[0], latent, positive), first)
