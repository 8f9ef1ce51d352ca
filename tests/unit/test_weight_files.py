"""Weights that others publish: checked by the hash in their name, never a substitute."""

from __future__ import annotations

import hashlib

import pytest

from stepwise.foundation import weight_files
from stepwise.foundation.errors import UserError


def test_cached_weights_are_checked_by_the_hash_in_their_name(tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()
    good, bad = tmp_path / f"net-{digest[:8]}.pth", tmp_path / "net-00000000.pth"
    for path in (good, bad):
        path.write_bytes(b"weights")
    weight_files.check_name_hash(good, "net", "Get another.")
    with pytest.raises(UserError, match=r"cached net weights .* damaged[^$]*Get another\."):
        weight_files.check_name_hash(bad, "net", "Get another.")


def test_the_cache_comes_before_the_network(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weight_files, "reachable", lambda url: pytest.fail("asked the network"))
    digest = hashlib.sha256(b"weights").hexdigest()
    cached = tmp_path / "checkpoints" / f"net-{digest[:8]}.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"weights")
    assert weight_files.find(f"https://example.org/{cached.name}", "net", "") == (cached, "the cache")


def test_a_download_goes_into_the_cache(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    published = tmp_path / f"net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    published.write_bytes(b"weights")
    monkeypatch.setattr(weight_files, "reachable", lambda url: True)
    found, source = weight_files.find(published.as_uri(), "net", "")
    assert found == tmp_path / "hub" / "checkpoints" / published.name
    assert (found.read_bytes(), source) == (b"weights", published.as_uri())


def test_reachable_is_no_for_a_server_that_is_not_there():
    assert not weight_files.reachable("http://127.0.0.1:9/none", seconds=2.0)
    assert not weight_files.reachable("not an address", seconds=2.0)
