"""Videos with their classes on them: real files in, real files read back."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from xvit.cli import main
from xvit.config import ClipConfig, ModelConfig
from xvit.data import open_video
from xvit.errors import ConfigError, VideoReadError, XViTError
from xvit.models import build_model, save_model
from xvit.visualize.overlay import Caption, write_overlay

TITLES = [Caption(0, 1.0, (("running — 走る", 0.9), ("x" * 300, 0.1))), Caption(1.0, 99, (("jumping", 0.5),))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and film.mkv: 20 grey frames at uneven times, 160×96, with a tone."""
    root = tmp_path_factory.mktemp("overlay")
    args = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    config = ModelConfig(name="vit_tiny_patch16_224", backbone_args=args, head_num_heads=2)
    names = ("stand <&> \u00fc", "\u8d70\u308b")
    model = build_model(config, num_classes=2, clip=ClipConfig(num_frames=4, size=16), classes=[names])
    save_model(model, root / "model")
    with av.open(root / "film.mkv", "w") as out:
        video = out.add_stream("mpeg4", rate=10, width=160, height=96, pix_fmt="yuv420p")
        sound = out.add_stream("mp2", rate=32000, layout="mono")
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((96, 160, 3), 100, np.uint8), "rgb24")
            frame.pts = number + number // 5
            out.mux(video.encode(frame))
        tone = (8000 * np.sin(np.arange(2 * 32000) / 20)).astype(np.int16)[None]
        wave = av.AudioFrame.from_ndarray(tone, "s16", "mono")
        wave.sample_rate = 32000
        for stream in (sound, video):
            out.mux(stream.encode(wave if stream is sound else None))
        out.mux(sound.encode(None))
    return root


def frames_of(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(path) as file:
        frames = list(file.decode(video=0))
        return [frame.time for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def packets_of(path: Path) -> list[bytes]:
    with av.open(path) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_captions_times_and_sound(folder: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"out{ending}"
    write_overlay(str(folder / "film.mkv"), out, TITLES)
    times, frames = frames_of(out)
    assert times == pytest.approx([(n + n // 5) / 10 for n in range(20)], abs=2e-3)
    assert packets_of(out) == packets_of(folder / "film.mkv")
    assert frames[0].shape == (192, 320, 3)  # enlarged, so that text can be read
    for frame in frames:
        assert abs(frame[:100].astype(int) - 100).max() < 12
        assert frame[150:].max() > 200
    assert abs(frames[0].astype(int) - frames[-1]).max() > 100  # the second caption
    assert os_names(tmp_path) == [out.name]


def os_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sound_that_the_format_cannot_hold_is_encoded(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "pcm.mkv"
    with av.open(folder / "film.mkv") as file, av.open(source, "w") as out:
        video = out.add_stream_from_template(file.streams.video[0])
        sound = out.add_stream("pcm_u8", rate=32000, layout="mono")
        for packet in file.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video":
                packet.stream = video
                out.mux(packet)
                continue
            for frame in packet.decode():
                out.mux(sound.encode(frame))
    write_overlay(str(source), tmp_path / "out.mp4", TITLES)
    with av.open(tmp_path / "out.mp4") as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        heard = np.concatenate([f.to_ndarray().reshape(-1) for f in file.decode(audio=0)])
    assert len(heard) == pytest.approx(64000, abs=4096)
    assert np.abs(heard).max() > 0.1


def test_every_odd_file_is_written_or_says_why(shared: Path, tmp_path: Path) -> None:
    damaged = {"corrupted_middle.mp4", "corrupted_decord.mp4"}
    # The rest differs in codec alone.
    paths = [p for p in (shared / "videos" / "odd").glob("*/*") if p.stat().st_size < 20_000]
    paths += [shared / "videos" / "odd" / "made" / name for name in ("corrupted_middle.mp4", "vfr.mp4")]
    assert len(paths) > 15
    for path in paths:
        out = tmp_path / "out.mp4"
        try:
            with open_video(path) as video:
                info = video.info
            write_overlay(str(path), out, TITLES)
        except XViTError as err:
            reason = str(err)
            assert "\n" not in reason
            assert str(path) in reason
            known = path.name in damaged or "no video stream" in reason or "not a readable" in reason
            assert known or path.is_dir(), reason
            continue
        times, frames = frames_of(out)
        lost = 3 if path.name.startswith("truncated") else 0
        assert info.num_frames - lost <= len(times) <= info.num_frames, path
        assert all(a < b for a, b in pairwise(times)), path
        ratio = frames[0].shape[1] / frames[0].shape[0]
        assert ratio == pytest.approx(info.width / info.height, rel=0.03), path  # upright
        assert os_names(tmp_path) == ["out.mp4"]


def test_rotation_is_applied_to_the_picture(shared: Path, tmp_path: Path) -> None:
    path = shared / "videos" / "odd" / "made" / "rotated_90.mp4"
    write_overlay(str(path), tmp_path / "out.mp4", [])
    with open_video(path) as upright, open_video(tmp_path / "out.mp4") as written:
        a, b = (video.read([40]).float() for video in (upright, written))
    assert (a - b).abs().mean() < 4


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["xvit", *map(str, args)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    film, model, out = folder / "film.mkv", folder / "model", tmp_path / "a" / "out.mp4"
    for command in ("predict", "timeline"):
        code, _, err = run(capsys, monkeypatch, command, model, film, "--overlay", out)
        assert (code, out.exists()) == (0, True)
        assert f"saved {out}" in err
        assert frames_of(out)[1][-1][150:].max() > 200
        out.unlink()
    outputs = [tmp_path / "why" / f"why.{ending}" for ending in ("png", "mp4", "html")]
    options = [word for path in outputs for word in ("-o", path)]
    code, text, _ = run(capsys, monkeypatch, "explain", model, film, *options, "--class", "走る")
    assert code == 0
    assert text.startswith("走る  0.")
    assert text.count("frame") == 4
    with Image.open(outputs[0]) as picture:
        assert picture.width > 4 * 170
    assert len(frames_of(outputs[1])[0]) == 4
    page = outputs[2].read_text(encoding="utf8")
    assert page.count("data:image/png") == 9
    code, _, err = run(capsys, monkeypatch, "explain", model, film, "-o", outputs[2], "--class", "stand")
    assert (code, err) == (2, "xvit: no class 'stand' in the model: did you mean stand <&> ü?\n")


def test_what_cannot_be_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    film = str(folder / "film.mkv")
    for out, message in (("out.avi", ".mp4, .mov or .mkv"), (film, "is the video itself")):
        with pytest.raises(ConfigError, match=message):
            write_overlay(film, tmp_path / out, TITLES)
    with pytest.raises(VideoReadError, match="drawn on a video file"):
        write_overlay(str(tmp_path), tmp_path / "out.mp4", TITLES)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        write_overlay(film, tmp_path / "file" / "out.mp4", TITLES)
    many = run(
        capsys, monkeypatch, "predict", folder / "model", film, tmp_path / "b.mp4", "--overlay", "o.mp4"
    )
    assert (many[0], many[2]) == (2, "xvit: --overlay o.mp4: takes one video, and these are 2\n")
    wrong = run(capsys, monkeypatch, "explain", folder / "model", film, "-o", "why.gif")
    assert (wrong[0], wrong[2]) == (2, "xvit: --output why.gif: an explanation is one of .png, .mp4, .html\n")
