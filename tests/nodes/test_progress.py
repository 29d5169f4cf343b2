"""The bar of a node: one for its whole run, that never goes back, ends full, and tells the time left."""

import pytest
import torch
from node_graph import encode, prompt


@pytest.fixture
def told(pack):
    """What ComfyUI is told of progress: (value, max) of each message."""
    import comfy.utils

    found = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_, **__: found.append((value, total)))
    yield found
    comfy.utils.set_progress_bar_global_hook(None)


@pytest.fixture
def shown(pack, monkeypatch):
    """What is shown on the node, at ten seconds a look at the clock."""
    found, now = [], iter(range(0, 10**6, 10))
    monkeypatch.setattr(pack.progress, "show", found.append)
    monkeypatch.setattr(pack.progress, "time", type("Clock", (), {"monotonic": lambda: next(now)}))
    return found


def test_several_frames_in_parts_are_one_bar(pack, told):
    bar = pack.progress.Bar("Encode LQ", 3)
    for _ in bar.frames():
        for part in range(1, 5):
            bar.parts(part, 4)
    assert told[-1] == (12, 12) and {total for _, total in told} == {12}
    assert sorted(told) == told


def test_a_frame_that_begins_anew_does_not_go_back(pack, told):
    """As where memory is short, in more and smaller parts."""
    bar = pack.progress.Bar("Encode LQ", 1)
    for _ in bar.frames():
        for part in range(1, 4):
            bar.parts(part, 4)
        for part in range(1, 101):
            bar.parts(part, 100)
    assert told[-1] == (4, 4) and sorted(told) == told


def test_frames_without_parts(pack, told):
    assert list(pack.progress.each_frame("Degrade", 3)) == [0, 1, 2]
    assert told[-1] == (3, 3) and sorted(told) == told


def test_the_time_left_is_shown_and_then_the_time_taken(pack, shown):
    bar = pack.progress.Bar("Encode LQ", 1)
    for _ in bar.frames():
        for part in range(1, 5):
            bar.parts(part, 4)
    assert shown == [
        "Encode LQ: 25 %, about 00:30 left",
        "Encode LQ: 50 %, about 00:20 left",
        "Encode LQ: 75 %, about 00:10 left",
        "Encode LQ took 01:00.",
    ]


def test_after_an_interruption_nothing_stays(pack, shown):
    import comfy.model_management

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        bar = pack.progress.Bar("Encode LQ", 1)
        for _ in bar.frames():
            bar.parts(1, 4)
            comfy.model_management.interrupt_current_processing()
            bar.parts(2, 4)
    del bar
    assert shown == ["Encode LQ: 25 %, about 00:30 left", ""]


def test_previews_show_the_tiles_that_are_done(pack, tiny, photo):
    import comfy.sample

    model, clip, vae = tiny
    samples = encode(pack, photo, vae)[0]["samples"].repeat(2, 1, 1, 1)
    positive, seen = prompt(pack, clip, "barn"), []
    result = comfy.sample.sample_custom(
        model,
        torch.zeros_like(samples),
        1.0,
        pack.denoise.make_sampler(16, 0, 1.0),
        pack.denoise.one_step_sigmas(model),
        positive,
        positive,
        samples,
        callback=lambda step, x0, _, steps: seen.append((step, x0.clone(), steps)),
    )
    assert [(step, steps) for step, _, steps in seen] == [(step, 12) for step in range(12)]
    done, came = model.model.process_latent_in(result), model.model.process_latent_in(samples)
    for step, x0, _ in seen[:5]:  # of the first frame; tiles go down the columns
        restored = torch.zeros(32, 48, dtype=torch.bool)
        for tile in range(step + 1):
            restored[16 * (tile % 2) :, 16 * (tile // 2) :][:16, :16] = True
        assert torch.allclose(x0, torch.where(restored, done[:1], came[:1]), atol=1e-4)
    assert torch.allclose(seen[-1][1], done, atol=1e-5)
