import errno
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from stepwise.data import latent_cache
from stepwise.data.latent_cache import LatentCache, listing
from stepwise.data.latents import EncodedBatch
from stepwise.foundation.errors import Interrupted, UserError

KEY = {"vae": "abc", "variants": 2}


def batches(count=5, each=2):
    rng = np.random.default_rng(0)
    for start in range(0, count, each):
        rows = min(each, count - start)
        posterior, told = rng.random((rows, 2, 2, 3, 4, 4)), rng.random((rows, 2, 8))
        digests = [f"digest {start + row}" for row in range(rows)]
        yield EncodedBatch(posterior.astype(np.float32), told.astype(np.float32), digests)


@pytest.fixture
def written(tmp_path):
    cache = LatentCache(tmp_path / "cache", KEY)
    cache.write(batches(), 5)
    return cache.folder


def test_what_is_written_is_read_back_and_mapped(written):
    posterior, told, digests = LatentCache(written.parent, KEY).open()
    wanted = list(batches())
    assert np.array_equal(posterior, np.concatenate([batch.posterior for batch in wanted]))
    assert np.array_equal(told, np.concatenate([batch.told for batch in wanted]))
    assert digests == [f"digest {number}" for number in range(5)]
    assert isinstance(posterior, np.memmap) and posterior.dtype == np.float32
    assert not posterior.flags.writeable


@pytest.mark.parametrize("key", [{**KEY, "vae": "other"}, {**KEY, "variants": 3}, {"vae": "abc"}])
def test_latents_made_otherwise_are_not_taken(written, key):
    other = LatentCache(written.parent, key)
    assert other.open() is None
    other.write(batches(3), 3)
    assert len(other.open()[2]) == 3
    assert len(LatentCache(written.parent, KEY).open()[2]) == 5, "each has a folder of its own"


def test_others_can_be_removed(written):
    for number in range(2):
        LatentCache(written.parent, {"vae": number}).write(batches(), 5)
    killed = LatentCache(written.parent, {"vae": 2}).folder
    for name in (".lock", ".latents.npy.tmp"):
        (killed / name).touch()
    for name in ("mine", "mine too"):
        (written.parent / name).mkdir()
    (written.parent / "mine too/.lock").touch()
    (written.parent / "mine too/notes.txt").touch()
    LatentCache(written.parent, KEY).remove_others()
    assert {path.name for path in written.parent.iterdir()} == {written.name, "mine", "mine too"}
    assert LatentCache(written.parent, KEY).open() is not None


@pytest.mark.parametrize("name", ["latents.npy", "told.npy", "cache.json"])
def test_a_damaged_or_missing_file_is_not_taken(written, name, capsys):
    content = bytearray((written / name).read_bytes())
    content[len(content) // 2] ^= 1
    (written / name).write_bytes(content)
    assert LatentCache(written.parent, KEY).open() is None
    if name != "cache.json":
        assert f"{name} is damaged" in capsys.readouterr().out
    (written / name).unlink()
    assert LatentCache(written.parent, KEY).open() is None


def test_an_interrupted_writing_leaves_no_cache_and_no_torn_file(written):
    def stops():
        yield from list(batches())[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LatentCache(written.parent, KEY).write(stops(), 5)
    assert LatentCache(written.parent, KEY).open() is None
    assert not list(written.glob(".*.tmp"))


def test_what_is_there_and_cannot_be_read_is_not_thrown_away(written, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(np, "load", refused)
    with pytest.raises(UserError, match="Cannot allocate memory"):
        LatentCache(written.parent, KEY).open()


def test_a_full_disk_is_noticed_at_the_first_batch(tmp_path, monkeypatch):
    drawn = []

    def counted():
        for batch in batches():
            drawn.append(batch)
            yield batch

    monkeypatch.setattr(latent_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(UserError, match="needs 4,160 bytes"):  # 5 images of 2 x 2 x 3 x 4 x 4 and 2 x 8 numbers
        LatentCache(tmp_path, KEY).write(counted(), 5)
    assert len(drawn) == 1 and not list(tmp_path.rglob("*.tmp"))


def test_waiting_for_another_run_can_be_stopped(tmp_path, capsys):
    cache = LatentCache(tmp_path, KEY)

    def stop():
        raise Interrupted("SIGTERM", 143)

    with cache.lock(stop):
        with pytest.raises(Interrupted):
            LatentCache(tmp_path, KEY).lock(stop)
        assert "waiting" in capsys.readouterr().out
    with LatentCache(tmp_path, KEY).lock(stop):
        pass


def test_the_description_is_plain_json(written):
    description = json.loads((written / "cache.json").read_text().splitlines()[0])
    assert description["key"] == {"format": 2, **KEY} and len(description["digests"]) == 5


def test_the_listing_sees_every_change_of_the_files(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        path.write_bytes(b"content")
        os.utime(path, ns=(10**18, 10**18))
    first = listing(tmp_path, paths)
    assert listing(tmp_path, paths) == first
    assert listing(tmp_path, paths[:1]) != first
    os.utime(paths[0], ns=(10**18, 10**18 + 1))
    assert listing(tmp_path, paths) != first
    os.utime(paths[0], ns=(10**18, 10**18))
    assert listing(tmp_path, paths) == first
    paths[1].write_bytes(b"longer content")
    os.utime(paths[1], ns=(10**18, 10**18))
    assert listing(tmp_path, paths) != first
