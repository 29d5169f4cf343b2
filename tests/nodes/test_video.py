"""Restore Video: frames one by one, tags once a scene, times and sound kept."""

import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from node_graph import decode, denoise, encode, prompt
from PIL import Image
from refusals import refused

RED, BLUE = (200, 60, 40), (40, 60, 200)


def film(path, colours=(RED,) * 3 + (BLUE,) * 3, size=(30, 22), sound="aac", rate=10, pixels="yuv420p"):
    """A film of so many frames of one colour with a grey square that wanders, and a tone of the same length."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=rate, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        tone = output.add_stream(sound, rate=16000, layout="mono") if sound else None
        for index, colour in enumerate(colours):
            picture = Image.new("RGB", size, colour)
            picture.paste((128, 128, 128), (2 * index, 4, 2 * index + 6, 10))
            frame = av.VideoFrame.from_image(picture)
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if tone:
            wave = np.sin(np.arange(16000 * len(colours) // rate) / 5).astype(np.float32)[None]
            heard = av.AudioFrame.from_ndarray((wave * 20000).astype(np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts = 16000, 0
            resampler = av.AudioResampler(format=tone.format.name, layout="mono", rate=16000)
            for part in resampler.resample(heard):
                output.mux(tone.encode(part))
            output.mux(tone.encode(None))
    return path


def opened(path):
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))


def restore(pack, models, video, **changes):
    inputs = {
        "scale": 2.0,
        "width": 0,
        "height": 0,
        "prompt": "",
        "scene_change": 0.12,
        "color_fix": "adain",
        "color_weight": 1.0,
        "tile": 96,
        **changes,
    }
    return pack.video.RestoreVideo.execute(video, *models, **inputs)


def sound_of(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_frames_times_scenes_and_sound(pack, tiny, tmp_path):
    path = film(tmp_path / "film.mp4")
    tagger = pack.prompt.LoadDAPE.execute(pack.prompt.EMBEDDED_TAGGER, pack.folders.NONE, "auto").args[0]
    made, scenes = restore(pack, tiny, opened(path), tagger=tagger, prompt="a square").args
    assert [line.split(" s: ")[0] for line in scenes.splitlines()] == ["0.00", "0.30"]
    assert all(line.endswith("a square") for line in scenes.splitlines())
    found = made.get_components()
    assert found.images.shape == (6, 44, 60, 3) and found.frame_rate == 10
    for index, colour in ((0, RED), (5, BLUE)):
        mean = found.images[index].mean(dim=(0, 1)) * 255
        assert torch.allclose(mean, torch.tensor(colour).float(), atol=12), mean
    assert sound_of(made.get_stream_source()) == sound_of(path)


def test_a_frame_is_what_the_chain_makes_of_it(pack, tiny, tmp_path):
    video = opened(film(tmp_path / "film.mp4", sound=None))
    made, _ = restore(pack, tiny, video, scale=2.0).args
    model, clip, vae = tiny
    frame = video.get_components().images[3:4]
    latent, reference = encode(pack, frame, vae, scale=2.0)
    latent = denoise(pack, model, prompt(pack, clip), latent)
    expected = decode(pack, latent, vae, reference=reference)
    assert (
        made.get_components().images[3] - expected[0]
    ).abs().mean() < 0.01  # H.264's chroma has half the size


@pytest.mark.parametrize(
    ("change", "scenes"), [({"scene_change": 0.0}, 6), ({"scene_change": 1.0}, 1), ({"width": 33}, 2)]
)
def test_scenes_and_sizes_as_asked(pack, tiny, tmp_path, change, scenes):
    made, words = restore(pack, tiny, opened(film(tmp_path / "film.mp4")), **change).args
    assert len(words.splitlines()) == scenes
    assert made.get_dimensions() == ((32, 24) if "width" in change else (60, 44))


def test_sound_that_an_mp4_does_not_hold_becomes_aac(pack, tiny, tmp_path):
    path = film(tmp_path / "film.mkv", sound="pcm_s16le")
    made, _ = restore(pack, tiny, opened(path), scale=1.0).args
    found = made.get_components().audio
    assert found["sample_rate"] == 16000
    assert found["waveform"].shape[-1] / 16000 == pytest.approx(0.6, abs=0.15)
    assert 0.3 < float(found["waveform"].std()) < 0.6


def test_a_trimmed_video_is_restored_in_that_part(pack, tiny, tmp_path):
    video = opened(film(tmp_path / "film.mp4", colours=(RED,) * 10 + (BLUE,) * 10)).as_trimmed(0.8, 0.5)
    made, words = restore(pack, tiny, video, scale=1.0).args
    assert made.get_frame_count() == 5 and made.get_duration() == pytest.approx(0.5, abs=0.15)
    assert [line.split(" s: ")[0] for line in words.splitlines()] == ["0.00", "0.20"]
    assert 0.3 < sum(len(part) > 0 for part in sound_of(made.get_stream_source())) * 1024 / 16000 < 0.7


def test_more_than_eight_bits_stay(pack, tiny, tmp_path):
    video = opened(film(tmp_path / "film.mp4", pixels="yuv420p10le"))
    made, _ = restore(pack, tiny, video, scale=1.0).args
    assert made.get_bit_depth() == 10


def test_one_frame_is_in_memory_at_a_time(pack, tmp_path):
    video = opened(film(tmp_path / "film.mp4", colours=(RED,) * 60))
    most, alive = 0, []
    with pack.native_clips.ClipReader(video) as reader:
        for part in reader.read():
            if isinstance(part, pack.native_clips.Frame):
                alive = [*(one for one in alive if one() is not None), weakref.ref(part.image)]
                most = max(most, len(alive))
    assert len(alive) >= 1 and most <= 2


def test_damaged_parts_are_left_out(pack, tiny, tmp_path):
    path, draw = tmp_path / "film.mkv", np.random.default_rng(0)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"g": "4", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(20):
            noise = draw.integers(0, 255, (24, 32, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        output.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    made, _ = restore(pack, tiny, opened(path), scale=1.0).args
    assert 10 <= made.get_frame_count() <= 20


def test_variable_times_are_kept(pack, tiny, tmp_path):
    path = tmp_path / "film.mkv"
    times = [0, 40, 500, 520]  # milliseconds
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_image(Image.new("RGB", (32, 24), (40 * index, 90, 90)))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    made, _ = restore(pack, tiny, opened(path), scale=1.0).args
    with av.open(made.get_stream_source()) as container:
        found = [round(1000 * frame.time) for frame in container.decode(video=0)]
    assert found == times


def test_a_file_without_pictures_is_refused_and_nothing_is_left_behind(pack, tiny, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        tone = output.add_stream("aac", rate=16000, layout="mono")
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        heard.sample_rate, heard.pts = 16000, 0
        output.mux(tone.encode(heard))
        output.mux(tone.encode(None))
    with refused(pack.core.errors.ImageError, "no pictures"):
        restore(pack, tiny, opened(tmp_path / "sound.mp4"))
    (tmp_path / "text.mp4").write_text("no film")
    with refused(pack.core.errors.ImageError, "cannot be read"):
        restore(pack, tiny, opened(tmp_path / "text.mp4"))
    import folder_paths

    before = set(Path(folder_paths.get_temp_directory()).glob("osediff_*"))
    with pytest.raises(Exception, match="MODEL"):
        restore(pack, (None, *tiny[1:]), opened(film(tmp_path / "film.mp4")))
    assert set(Path(folder_paths.get_temp_directory()).glob("osediff_*")) == before
