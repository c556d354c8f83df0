from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import xvit
from xvit.config import Mixing
from xvit.errors import ConfigError, WeightsError
from xvit.models import create_model, save_model
from xvit.models.convert import convert_weights
from xvit.models.published import FILES, K600, PUBLISHED, is_cached, pull


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a real server on loopback mirrors, with a small model under the K600 file's name."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    model = create_model(
        "vit_tiny_patch16_224",
        num_classes=5,
        num_frames=8,
        size=32,
        mixing=Mixing(fraction=0.25, group=8),
        spatial_resize="released",
        backbone_args={"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32},
    )
    save_model(model, tmp_path / "made")
    convert_weights(tmp_path / "made", folder / FILES[K600])
    monkeypatch.setenv("XVIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("XVIT_MIRRORS", f"http://127.0.0.1:{server.server_address[1]}")
        yield folder
        server.shutdown()
        thread.join()


def test_a_model_by_name_is_fetched_converted_and_cached(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_cached(K600)
    model = xvit.load_model(K600)
    frames = torch.randn(1, 8, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(frames), xvit.load_model(tmp_path / "made")(frames))
    assert is_cached(K600)
    assert FILES[K600] in json.loads((tmp_path / "home" / "downloads" / "lock.json").read_text())
    (mirror / FILES[K600]).unlink()
    monkeypatch.setenv("XVIT_OFFLINE", "1")
    assert xvit.load_model(K600).num_classes == (5,)


def test_one_mirror_may_stand_without_a_list(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "zoo.yaml").write_text(f"mirrors: {os.environ['XVIT_MIRRORS']}\n")
    monkeypatch.delenv("XVIT_MIRRORS")
    assert pull(K600) == home / "models" / K600


def test_offline_by_file_and_unknown_names(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "zoo.yaml").write_text("offline: true\n")
    with pytest.raises(WeightsError, match=f"put the file into {home / 'downloads'}"):
        pull(K600)
    (home / "zoo.yaml").write_text("mirror: x\n")
    with pytest.raises(ConfigError, match="the keys are mirrors and offline"):
        pull(K600)
    (home / "zoo.yaml").write_text("mirrors: [mirror.example.org]\n")
    with monkeypatch.context() as without:
        without.delenv("XVIT_MIRRORS")
        with pytest.raises(ConfigError, match=r"zoo\.yaml: a mirror begins with https.*got 'mirror\.example"):
            pull(K600)
    monkeypatch.setenv("XVIT_MIRRORS", "mirror.example.org")
    with pytest.raises(ConfigError, match="XVIT_MIRRORS: a mirror begins with https"):
        pull(K600)
    with pytest.raises(WeightsError, match="no published file of this name"):
        pull("xvit_huge")


def test_published_rows_say_where_they_come_from() -> None:
    assert {row.source for row in PUBLISHED} == {"README", "paper"}
    assert [(row.views, row.top1) for row in PUBLISHED if row.name == K600] == [
        ("3x1", 84.51),
        ("3x2", 84.71),
    ]
    assert all(row.source == "README" for row in PUBLISHED if row.file)
