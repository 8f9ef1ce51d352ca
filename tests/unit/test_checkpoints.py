"""Checkpoints: what goes in comes out, and nothing damaged or hostile is opened."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import namedtuple
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import ENVIRONMENT

from stepwise.foundation import checkpoints
from stepwise.foundation.checkpoints import BadCheckpoint, load, save, verify
from stepwise.foundation.errors import UserError


def same(a: object, b: object) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.fixture
def document() -> dict:
    """What a training run stores, small."""
    torch.manual_seed(0)
    net = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    return {
        "script": "3A",
        "args": {"epochs": 3, "learning_rate": 1e-4, "resume": None, "no_perceptual": True},
        "nets": {"vae": {"weights": dict(net.state_dict()), "optimizer": optimizer.state_dict()}},
        "history": [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": float("inf")}],
        "nested": {"list": [1, [2, (3, "four")]], 7: {}},
        **{str(kind): torch.arange(6).to(kind) for kind in (torch.bfloat16, torch.float16, torch.uint8, torch.int64)},
        "view": torch.arange(12.0).reshape(3, 4).t(),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
    }


@pytest.fixture
def saved(tmp_path: Path, document: dict) -> Path:
    save(tmp_path / "last.pt", document)
    return tmp_path / "last.pt"


def test_round_trip(saved: Path, document: dict) -> None:
    read = load(saved)
    assert read.pop("format") == checkpoints.FORMAT
    assert read.pop("format_version") == checkpoints.FORMAT_VERSION
    assert same(read, document)
    assert len(verify(saved)) == 64


def test_torch_load_opens_it(saved: Path, document: dict) -> None:
    read = torch.load(saved, weights_only=True)
    assert same({key: read[key] for key in document}, document)


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "item",
    [
        np.float64(1.0),
        np.int64(1),
        np.zeros(2),
        Path("x"),
        Pair(1, 2),
        torch.Size([1, 2]),
        {1, 2},
        b"bytes",
        1j,
        torch.nn.Parameter(torch.zeros(1)),
        torch.zeros(2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
        torch.zeros(1).expand(10),
    ],
    ids=lambda item: type(item).__name__,
)
def test_only_plain_data_is_saved(tmp_path: Path, item: object) -> None:
    with pytest.raises(TypeError, match=r"document\['args'\]\['x'\]"):
        save(tmp_path / "last.pt", {"args": {"x": item}})
    with pytest.raises(TypeError):
        save(tmp_path / "last.pt", {"x": [1, (item,)]})
    assert list(tmp_path.iterdir()) == []


def test_keys_are_plain_too(tmp_path: Path) -> None:
    for key in (np.int64(1), Path("x"), (1, 2)):
        with pytest.raises(TypeError, match="key"):
            save(tmp_path / "last.pt", {"args": {key: 1}})


def truncate(content: bytearray, rng: random.Random) -> bytearray:
    return content[: rng.randrange(len(content))]


def flip_bit(content: bytearray, rng: random.Random) -> bytearray:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def zero_fill(content: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(content) - 1)
    end = rng.randrange(start + 1, len(content))
    content[start : end + 1] = bytes(end + 1 - start)
    return content


@pytest.mark.parametrize("harm", [truncate, flip_bit, zero_fill])
def test_damage_is_found(saved: Path, harm) -> None:
    intact = saved.read_bytes()
    rng, harmed = random.Random(7), 0
    while harmed < 50:
        content = bytes(harm(bytearray(intact), rng))
        if content == intact:  # zeros over zeros
            continue
        harmed += 1
        saved.write_bytes(content)
        with pytest.raises(BadCheckpoint, match=r"last\.pt"):
            verify(saved)
        with pytest.raises(BadCheckpoint):
            load(saved)


@pytest.mark.parametrize("tail", [b"", b"x", b"\0" * 4096])
def test_missing_or_shifted_trailer(saved: Path, tail: bytes) -> None:
    saved.write_bytes((saved.read_bytes()[:-73] + b"\0\0") if not tail else saved.read_bytes() + tail)
    with pytest.raises(BadCheckpoint):
        load(saved)


def test_not_ours(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "plain.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello " * 100)
    (tmp_path / "folder.pt").mkdir()
    foreign = zip_file(data_pkl(pickle.dumps({"format": "other"}, protocol=2)))
    (tmp_path / "foreign.pt").write_bytes(with_trailer(foreign))
    for name in ("plain", "empty", "text", "folder", "foreign"):
        with pytest.raises(BadCheckpoint, match=rf"{name}\.pt"):
            load(tmp_path / f"{name}.pt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.pt")


def test_other_format_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 99)
    save(tmp_path / "last.pt", {})
    monkeypatch.undo()
    with pytest.raises(BadCheckpoint, match="format 99, this version reads 1"):
        load(tmp_path / "last.pt")


def test_disk_full_by_the_numbers(saved: Path, document: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    usage = shutil.disk_usage(saved.parent)._replace(free=len(before) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError) as caught:
        save(saved, document)
    assert str(saved) in str(caught.value)
    assert f"{len(before):,} bytes" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_disk_full_while_writing(saved: Path) -> None:
    """A limit on the file size stands for a disk that fills up between the check and the write."""
    before = saved.read_bytes()
    code = f"""
import resource, signal, torch
from pathlib import Path
from stepwise.foundation import checkpoints, errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(Path({str(saved)!r}), {{"x": torch.zeros(1_000_000)}})
except errors.UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert str(saved) in done.stdout
    assert "bytes" in done.stdout
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(saved: Path) -> None:
    saved.chmod(0)
    with pytest.raises(UserError, match=r"last\.pt"):
        load(saved)


# Hostile files ---------------------------------------------------------------------------------


class Reduce:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(marker: Path) -> dict[str, bytes]:
    """Pickles that make `marker` when they are executed."""
    command = f"touch {marker}"
    inner = io.BytesIO()
    torch.save(Reduce(os.system, command), inner, _use_new_zipfile_serialization=False)
    hidden = marker.with_name("hidden.pt")
    hidden.write_bytes(inner.getvalue())
    stack_global = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c" + bytes([len(command)]) + command.encode() + b"\x85R."
    return {
        "os.system": pickle.dumps({"a": Reduce(os.system, command)}, protocol=2),
        "eval": pickle.dumps([Reduce(eval, f"open({str(marker)!r}, 'w')")], protocol=2),
        "Popen": pickle.dumps({"weights": Reduce(subprocess.Popen, ["touch", str(marker)])}, protocol=2),
        "torch.load": pickle.dumps(Reduce(torch.load, str(hidden), None, None), protocol=2),
        "numpy": pickle.dumps({"x": np.array([Reduce(os.system, command)], dtype=object)}, protocol=2),
        "STACK_GLOBAL": stack_global,
    }


PAYLOADS = ("os.system", "eval", "Popen", "torch.load", "numpy", "STACK_GLOBAL")


def data_pkl(content: bytes) -> dict[str, bytes]:
    return {"archive/data.pkl": content, "archive/byteorder": b"little", "archive/version": b"3\n"}


def zip_file(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_trailer(archive: bytes) -> bytes:
    """`archive` with a valid SHA-256: the digest guards against accidents, not against an author."""
    comment = b"sha256=" + sha256(archive).hexdigest().encode()
    return archive[:-2] + struct.pack("<H", len(comment)) + comment


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_really_fire(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    payload = payloads(marker)[name]
    if name == "torch.load":
        torch.load(marker.with_name("hidden.pt"), weights_only=False)
    else:
        result = pickle.loads(payload)
    if name == "Popen":
        result["weights"].wait()
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "legacy before a zip"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_payload_is_refused(tmp_path: Path, name: str, form: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / "last.pt"
    payload = payloads(marker)[name]
    harmless = zip_file(data_pkl(pickle.dumps({"format": checkpoints.FORMAT, "format_version": 1}, protocol=2)))
    legacy = b"".join(
        pickle.dumps(part, protocol=2)
        for part in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True})
    )
    content = {
        "zip": zip_file(data_pkl(payload)),
        "legacy": legacy + payload + pickle.dumps([], protocol=2) + bytes(200),
        "legacy before a zip": legacy + payload + pickle.dumps([], protocol=2) + harmless,
    }[form]
    path.write_bytes(with_trailer(content))
    with pytest.raises(BadCheckpoint, match=r"last\.pt"):
        load(path)
    assert not marker.exists()


def tensor_pickle(numel: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of {"x": tensor} over storage "0" which is said to hold `numel` floats."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, size, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(item, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"format": checkpoints.FORMAT, "format_version": 1, "x": Tensor()})
    return buffer.getvalue()


def bombs() -> dict[str, bytes]:
    data = {"archive/data/0": bytes(4)}
    plain = tensor_pickle(2**26, (2**26,), (1,))
    return {
        "compressed": zip_file({**data_pkl(plain), "archive/data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED),
        "expanded": zip_file({**data_pkl(tensor_pickle(1, (10**6, 10**6), (0, 0))), **data}),
        "longer than its storage": zip_file({**data_pkl(tensor_pickle(1, (2**30,), (1,))), **data}),
        "storage longer than its data": zip_file({**data_pkl(tensor_pickle(2**30, (2**30,), (1,))), **data}),
        "storage without data": zip_file(data_pkl(tensor_pickle(2**40, (2**40,), (1,)))),
        "two pickles": zip_file({**data_pkl(pickle.dumps({}, protocol=2)), "archive/constants.pkl": b"."}),
        "legacy storage": legacy_bomb(),
    }


def legacy_bomb() -> bytes:
    """A pickle of the old format that asks for 2**40 floats, ahead of a harmless archive."""
    parts = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    harmless = zip_file(data_pkl(pickle.dumps({"format": checkpoints.FORMAT, "format_version": 1}, protocol=2)))
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    return head + tensor_pickle(2**40, (2**40,), (1,)) + pickle.dumps(["0"], protocol=2) + harmless


def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    contents = bombs()
    for number, content in enumerate(contents.values()):
        (tmp_path / f"bomb_{number}.pt").write_bytes(with_trailer(content))
    code = f"""
import resource, torch
from pathlib import Path
from stepwise.foundation import checkpoints
checkpoints.save(Path({str(tmp_path)!r}) / "fine.pt", {{"x": torch.zeros(2)}})
checkpoints.load(Path({str(tmp_path)!r}) / "fine.pt")
for path in sorted(Path({str(tmp_path)!r}).glob("bomb_*.pt")):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        checkpoints.load(path)
        print(path.stem, "opened", 0)
    except checkpoints.BadCheckpoint as error:
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(path.stem, "refused", grown, error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines() if line.startswith("bomb_")]
    assert len(lines) == len(contents)
    for name, line in zip(contents, lines, strict=True):
        assert line[1] == "refused", f"{name}: {line}"
        assert int(line[2]) < 200, f"{name} took {line[2]} MiB"


def test_fingerprint_names_weights() -> None:
    state = {"a": torch.zeros(2), "b": torch.ones(3, dtype=torch.bfloat16)}
    first = checkpoints.fingerprint(state)
    assert first == checkpoints.fingerprint(dict(reversed(state.items())))
    assert first != checkpoints.fingerprint({**state, "a": torch.tensor([0.0, 1e-30])})
    assert first != checkpoints.fingerprint({"c": state["a"], "b": state["b"]})


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_MAX_PICKLE_BYTES", 2**16)
    with pytest.raises(TypeError, match="put long lists into tensors"):
        checkpoints.save(tmp_path / "last.pt", {"history": [number / 7 for number in range(20_000)]})
    assert not (tmp_path / "last.pt").exists()
