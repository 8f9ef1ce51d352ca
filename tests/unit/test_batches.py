import itertools

import numpy as np
import pytest
import torch

from stepwise.data.augment import Augment
from stepwise.data.batches import AugmentedImages, Order, loader, room_for_images, useful_workers
from stepwise.data.folders import ROOM, ImageFiles
from stepwise.foundation.errors import UserError
from stepwise.foundation.torchrun import processes_here


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (7, 7), (9, 5)])
def test_an_epoch_takes_every_item_once_less_the_remainder(count, batch_size):
    order = Order(count, batch_size, seed=0)
    assert order.per_epoch == count // batch_size
    batches = [order.batch(3, i) for i in range(order.per_epoch)]
    assert all(len(batch) == batch_size for batch in batches)
    seen = np.concatenate(batches).tolist()
    assert len(set(seen)) == len(seen) == count - count % batch_size
    assert set(seen) <= set(range(count))


def test_the_remainder_comes_in_other_epochs():
    order = Order(13, 4, seed=0)
    left_out = [set(range(13)) - {i for b in range(3) for i in order.batch(epoch, b).tolist()} for epoch in range(40)]
    assert all(len(items) == 1 for items in left_out) and len(set().union(*left_out)) > 8


def test_a_small_set_is_one_batch():
    order = Order(3, 16, seed=0)
    assert (order.size, order.per_epoch) == (3, 1)
    assert sorted(order.batch(0, 0).tolist()) == [0, 1, 2]


def test_the_order_is_named_by_seed_and_epoch():
    order = Order(64, 64, seed=5)
    first = order.batch(0, 0).tolist()
    order.batch(1, 0)
    assert Order(64, 64, seed=5).batch(0, 0).tolist() == first != list(range(64))
    assert order.batch(1, 0).tolist() != first and Order(64, 64, seed=6).batch(0, 0).tolist() != first


def test_positions_go_on_from_the_middle():
    order = Order(10, 3, seed=0)
    whole = list(itertools.islice(order.positions(0, 0), 12))
    assert whole[:4] == [(0, 0), (0, 1), (0, 2), (1, 0)] and whole[-1] == (3, 2)
    assert list(itertools.islice(order.positions(1, 1), 8)) == whole[4:]
    assert next(order.positions(2, 3)) == (3, 0)  # the place after the last batch of an epoch


def dataset():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (12 + i, 15, 3), dtype=np.uint8) for i in range(7)]
    return AugmentedImages(images, list(range(7)), Augment("balanced", 8, 0, "train"))


def take(epoch, batch, count, workers=0):
    batches = loader(dataset(), Order(7, 3, seed=1), epoch, batch, workers, False)
    return [next(batches) for _ in range(count)]


def same(found, wanted):
    return len(found) == len(wanted) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_batches_are_uint8_images():
    for batch in take(0, 0, 3):
        assert batch.shape == (3, 3, 8, 8) and batch.dtype == torch.uint8


def test_batches_hold_the_images_of_the_order():
    images, order = dataset(), Order(7, 3, seed=1)
    (batch,) = take(2, 1, 1)
    for row, index in zip(batch, order.batch(2, 1), strict=True):
        wanted = images.augment(images.images[index], 2, int(index))
        np.testing.assert_array_equal(row.numpy().transpose(1, 2, 0), wanted)


def test_workers_change_nothing():
    assert same(take(0, 0, 6, workers=2), take(0, 0, 6))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_middle_of_a_run_gives_the_same_batches(workers):
    whole = take(0, 0, 7)
    assert same(take(1, 1, 4, workers), whole[3:])
    assert not same(whole[:2], whole[2:4])  # another epoch, other batches


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_gone_is_named_without_a_traceback(tmp_path, workers):
    images = ImageFiles([tmp_path / "gone.png"], 8)
    batches = loader(AugmentedImages(images, [0], Augment("none", 8, 0, "train")), Order(1, 1, 0), 0, 0, workers, False)
    with pytest.raises(UserError) as caught:
        next(batches)
    message = str(caught.value)
    assert message.startswith(f"Cannot use the image {tmp_path / 'gone.png'}") and "Traceback" not in message
    assert len(message.splitlines()) == 2


def test_only_the_chosen_images_are_taken():
    images = [np.full((8, 8, 3), value, dtype=np.uint8) for value in range(5)]
    chosen = AugmentedImages(images, [4, 2], Augment("none", 8, 0, "train"))
    assert len(chosen) == 2 and [int(chosen[0, place].max()) for place in (0, 1)] == [4, 2]


@pytest.mark.parametrize(("method", "share"), [("fork", 1), ("spawn", 3), ("forkserver", 3)])
def test_workers_that_copy_the_images_count(monkeypatch, method, share):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: method)
    monkeypatch.setattr("stepwise.data.batches.useful_workers", lambda wanted, processes: min(wanted, 1))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert room_for_images(8) == ROOM // share
    assert room_for_images(0) == ROOM
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert room_for_images(8) == ROOM // 8 // share, "eight processes together hold as much as one"
    assert room_for_images(0) == ROOM // 8


def test_the_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [useful_workers(4, processes) for processes in (1, 2, 4, 16)] == [4, 4, 2, 1]
    assert useful_workers(0, 4) == 0
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert processes_here() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert processes_here() == 4
    seen = []
    monkeypatch.setattr(
        "stepwise.data.batches.DataLoader", lambda *_, num_workers, **more: seen.append(num_workers) or []
    )
    list(loader(AugmentedImages([], [], Augment("none", 8, 0, "train")), Order(1, 1, 0), 0, 0, 4, False))
    assert seen == [2]
