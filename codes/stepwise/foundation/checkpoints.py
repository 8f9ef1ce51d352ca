"""Checkpoints: plain data in a .pt file that carries its own SHA-256.

The file is what torch.save writes (an uncompressed ZIP) with the digest in the archive's comment,
so one file can be copied, verified and still be opened by torch.load. Writing is atomic: a
temporary file in the same folder, fsync, rename. Reading trusts nothing: digest first, then sizes
and the pickle's vocabulary, and only then torch.load(weights_only=True).
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from stepwise.foundation.errors import UserError
from stepwise.foundation.paths import write_atomically

if TYPE_CHECKING:
    import torch

FORMAT = "stepwise-checkpoint"
FORMAT_VERSION = 1
_TAG = b"sha256="
_COMMENT_SIZE = len(_TAG) + 64
_END_RECORD = struct.Struct("<4s4H2LH")  # ZIP end of central directory; its last field is the comment's length

# What torch.save writes for dicts, lists, numbers, strings and dense tensors, and nothing more.
_ALLOWED_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"} | {
    f"torch {kind}Storage"
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
_SCALARS = (str, int, float, bool, type(None))
_MAX_PICKLE_BYTES = 64 * 2**20


class BadCheckpoint(UserError):
    """The file is damaged, not a checkpoint of this project, or not safe to open."""

    def __init__(self, why: str, remedy: str = "Give an intact one that 3A or 3B wrote; no other .pt can be read."):
        super().__init__(f"{why}\n{remedy}")


def save(path: Path, document: dict[str, Any]) -> None:
    """Write `document` (plain data: dict, list, str, int, float, bool, None, dense tensors) to `path`.

    Raises UserError with the path and the bytes needed when the disk is full; whatever stood at
    `path` before is then still there.
    """
    import torch

    _require_plain(document)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "format_version": FORMAT_VERSION, **document}, buffer)
    _require_ordinary_pickle(buffer)
    content = buffer.getbuffer()
    comment = _TAG + hashlib.sha256(content).hexdigest().encode()
    advice = "The previous checkpoint is intact. Free some space, then run again with --resume auto."
    write_atomically(path, [content[:-2], struct.pack("<H", len(comment)), comment], advice=advice)


def load(path: Path) -> dict[str, Any]:
    """Verify and read a checkpoint that `save` wrote; tensors arrive on the CPU.

    Raises BadCheckpoint for a file that is damaged, foreign or hostile, and FileNotFoundError.
    """
    import torch

    verify(path)
    _refuse_hostile(path)
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BadCheckpoint(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}")
    _require_honest_tensors(path, document)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadCheckpoint(f"{path} is not a stepwise checkpoint.")
    if document["format_version"] != FORMAT_VERSION:
        raise BadCheckpoint(
            f"{path} has checkpoint format {document['format_version']}, this version reads {FORMAT_VERSION}.",
            "Use the stepwise version that wrote it, or train again.",
        )
    return document


def verify(path: Path) -> str:
    """Compare the file with the SHA-256 that it carries and return the digest. Raises BadCheckpoint."""
    if path.is_dir():
        raise BadCheckpoint(
            f"{path} is a folder, not a checkpoint file.", "Give the file in it, such as best_model.pt."
        )
    size = path.stat().st_size
    if size < _COMMENT_SIZE + _END_RECORD.size:
        raise BadCheckpoint(f"{path} is damaged: only {size} bytes long.")
    digest = hashlib.sha256()
    with _open(path) as file:
        remaining = size - _COMMENT_SIZE - 2
        while remaining:
            block = file.read(min(2**20, remaining))
            if not block:
                break
            digest.update(block)
            remaining -= len(block)
        digest.update(b"\0\0")  # the comment's length as it stood when the digest was taken
        length, comment = file.read(2), file.read()
    if length != struct.pack("<H", _COMMENT_SIZE) or not comment.startswith(_TAG):
        raise BadCheckpoint(f"{path} is truncated or was not written by stepwise: it carries no SHA-256.")
    if comment[len(_TAG) :] != digest.hexdigest().encode():
        raise BadCheckpoint(f"{path} is damaged: its content does not fit its SHA-256.")
    return digest.hexdigest()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied.\nCheck the permissions of the file.")


def _refuse_hostile(path: Path) -> None:
    """Refuse archives that unpack to more than they are, and pickles that name anything but tensors."""
    with _open(path) as file:
        if file.read(4) != b"PK\x03\x04":  # zipfile skips what stands before; torch.load would read that as a pickle
            raise BadCheckpoint(f"{path} is refused: it is not the ZIP archive that torch.save writes.")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise BadCheckpoint(f"{path} is refused: it holds compressed entries, which torch.save never writes.")
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise BadCheckpoint(f"{path} is refused: its entries are larger than the file.")
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
                raise BadCheckpoint(f"{path} is refused: it should hold one data.pkl of ordinary size.")
            foreign = _globals(archive.read(pickles[0])) - _ALLOWED_GLOBALS
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadCheckpoint(f"{path} is not a readable checkpoint: {error}")
    if foreign:
        raise BadCheckpoint(f"{path} is refused: it asks for {sorted(foreign)[0]}, which no checkpoint needs.")


def _globals(pickle: bytes) -> set[str]:
    """Every global that a pickle would import. Reads the opcodes, executes nothing."""
    found: set[str] = set()
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(str(argument))
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            found.add(opcode.name)  # torch.save writes protocol 2, where these do not occur
    return found


def _require_honest_tensors(path: Path, document: Any) -> None:
    """Refuse tensors that claim more elements than their storage holds (stride 0 expands for free)."""
    for tensor in tensors_in(document):
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise BadCheckpoint(f"{path} is refused: it declares a tensor of {tuple(tensor.shape)} without its data.")


def tensors_in(document: Any) -> list[torch.Tensor]:
    """Every tensor in a tree of dicts and lists, each container visited once."""
    import torch

    seen: set[int] = set()
    found: list[torch.Tensor] = []
    waiting = [document]
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return found


def _require_ordinary_pickle(archive: BinaryIO) -> None:
    """Refuse what `load` would refuse: numbers by the million belong into tensors."""
    with zipfile.ZipFile(archive) as opened:
        size = sum(entry.file_size for entry in opened.infolist() if entry.filename.endswith(".pkl"))
    if size > _MAX_PICKLE_BYTES:
        raise TypeError(f"a pickle of {size:,} bytes would not be loaded again: put long lists into tensors")


def _require_plain(item: Any, name: str = "document") -> None:
    """Refuse what `load` would refuse: subclasses, and tensors without a dense storage of their own."""
    import torch

    if type(item) in (dict, OrderedDict):
        for key, value in item.items():
            if type(key) not in _SCALARS:
                raise TypeError(f"{name} has a key of type {type(key).__name__}: checkpoints hold plain data only")
            _require_plain(value, f"{name}[{key!r}]")
    elif type(item) in (list, tuple):
        for index, value in enumerate(item):
            _require_plain(value, f"{name}[{index}]")
    elif type(item) is torch.Tensor:
        if item.layout != torch.strided or f"torch {_storage_name(item.dtype)}" not in _ALLOWED_GLOBALS:
            raise TypeError(f"{name} is a tensor of {item.layout}, {item.dtype}, which checkpoints do not hold")
        if item.numel() * item.element_size() > item.untyped_storage().nbytes():
            raise TypeError(f"{name} is an expanded tensor: give a contiguous one")
    elif type(item) not in _SCALARS:
        raise TypeError(f"{name} is a {type(item).__name__}: checkpoints hold plain data only")


def _storage_name(dtype: torch.dtype) -> str:
    import torch

    return torch.storage._dtype_to_storage_type_map().get(dtype, "")


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names and bytes of a state dict: the identity of a trained network."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
