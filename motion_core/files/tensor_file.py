"""Reading and writing weight files: lazily, from untrusted sources, and never half.

``.safetensors`` is memory-mapped and read tensor by tensor; ``.ckpt``, ``.pth``, ``.pt`` and ``.bin`` are
pickles and are opened with torch's weights-only loader, which refuses anything but tensors and plain
containers.
"""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .weights import require_plain
from .words import shown

PICKLE_SUFFIXES = (".ckpt", ".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "controlnet", "module", "model")
"""Keys under which other tools nest the weights."""

MAX_NESTING = 8
"""Containers around the weights, at most."""

REMAP_BYTES = 8 * 2**20
"""A mapped page counts as this process's memory until the map is dropped: map anew after this many bytes."""


class TensorFile:
    """The tensors of a file by name, read when asked for. Nothing of the file is held in between.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of an unknown type, or holds more than tensors.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise FileNotFoundError(f"{self.path} is a folder. Name the file with the weights in it.")
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} does not exist.")
        self.metadata: dict[str, str] = {}
        self._tensors: dict[str, torch.Tensor] | None = None  # of a pickle, while it is held
        self._state = _state(self.path)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        if self._is_safetensors:
            self._read_header()
        elif self.path.suffix.lower() in PICKLE_SUFFIXES:
            with self.held():
                for key, tensor in self._tensors.items():
                    require_plain(self.name, key, tensor)
                    self._shapes[key], self._dtypes[key] = tuple(tensor.shape), tensor.dtype
        else:
            raise ValueError(
                f"{self.path.name} is of an unknown type; expected .safetensors or "
                f"{', '.join(PICKLE_SUFFIXES)}."
            )
        if not self._shapes:
            raise ValueError(f"{self.path.name} holds no tensors.")

    @property
    def name(self) -> str:
        """File name without its folder, for messages."""
        return self.path.name

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor by key."""
        return self._shapes

    def dtype(self, key: str) -> torch.dtype:
        """Type of a tensor."""
        return self._dtypes[key]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a pickle open over several calls of :meth:`read`, which else open it each time.

        Raises:
            ValueError: the file is another one than when it was looked at.
        """
        if self._is_safetensors or self._tensors is not None:
            yield
            return
        self._require_unchanged()
        self._tensors = _unwrapped(_load_pickle(self.path), self.path)
        try:
            yield
        finally:
            self._tensors = None

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """``(key, tensor)`` one after the other. A tensor is only good until the next one is asked for: copy
        it.

        Raises:
            ValueError: the file is another one than when it was looked at.
        """
        wanted = list(keys)
        if not self._is_safetensors:
            with self.held():
                for key in wanted:
                    yield key, self._tensors[key]
            return
        while wanted:
            self._require_unchanged()
            with _opened(self.path) as file:
                taken = 0
                while wanted and taken < REMAP_BYTES:
                    key = wanted.pop(0)
                    tensor = file.get_tensor(key)
                    taken += tensor.numel() * tensor.element_size()
                    yield key, tensor

    @property
    def _is_safetensors(self) -> bool:
        return self.path.suffix.lower() == ".safetensors"

    def _require_unchanged(self) -> None:
        if _state(self.path) != self._state:
            raise ValueError(
                f"{self.name} has changed since it was looked at, or is gone. Queue once more (in a program: "
                "open it anew)."
            )

    def _read_header(self) -> None:
        with _opened(self.path) as file:
            self.metadata = dict(file.metadata() or {})
            for key in file.keys():  # noqa: SIM118  # not a mapping
                part = file.get_slice(key)
                self._shapes[key] = tuple(part.get_shape())
                self._dtypes[key] = _SAFETENSORS_DTYPES.get(part.get_dtype(), torch.int64)


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when somebody writes to a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


# What is not listed is no type of a weight: integers, booleans.
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        if zipfile.is_zipfile(path) or _begins_with(path, b"\x80"):
            raise ValueError(
                f"{path.name} is a PyTorch file with the wrong ending: rename it to {path.stem}.ckpt."
            ) from error
        raise ValueError(
            f"{path.name} is not a readable safetensors file ({shown(error)}). It is damaged or was not "
            "downloaded to the end: download it again."
        ) from error


def _begins_with(path: Path, start: bytes, at: int = 0) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(len(start)) == start
    except OSError:
        return False


def _refuse_other_archives(path: Path) -> bool:
    """Whether a file is a zip archive whose members can be mapped.

    Raises:
        ValueError: what torch's weights-only loader does not read, said in our words.
    """
    # First: the last member of a tar archive may look like the end of a zip archive.
    if _begins_with(path, b"ustar", 257):
        raise ValueError(
            f"{path.name} is a tar archive, as torch wrote them before version 0.2. Open it with such a "
            "torch, or unpack it, and save the weights as .safetensors."
        )
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False  # torch says what is wrong with it
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise ValueError(
                f"{path.name} is a TorchScript program, not weights. If you trust it, open it with "
                "torch.jit.load and save its state_dict() as .safetensors."
            )
        # A compressed member, mapped, would give the compressed bytes as numbers.
        return all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if _begins_with(path, b"{", 8):
        raise ValueError(
            f"{path.name} is a safetensors file with the wrong ending: rename it to {path.stem}.safetensors."
        )
    return False


def _load_pickle(path: Path) -> object:
    # Files of torch before 1.6 are no zip archives and cannot be mapped.
    mapped = _refuse_other_archives(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # A byte that stands for no operation, or an early end: no whole pickle of torch's, but a web page,
        # another format or half a download.
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        signs = ("persistent id", "truncated") if is_pickle else ("Unsupported operand", "persistent id")
        if any(sign in str(error) for sign in signs):
            raise ValueError(
                f"{path.name} is not a readable PyTorch file. It is damaged or has the wrong ending: "
                "download it again."
            ) from error
        raise ValueError(
            f"{path.name} holds more than tensors and was refused: a pickle can run any program. Use a "
            ".safetensors version of the file."
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        AssertionError,
        OverflowError,
        MemoryError,
        RecursionError,
        NotImplementedError,
        struct.error,
    ) as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise ValueError(
            f"{path.name} cannot be read ({reason}). It is damaged: download it again."
        ) from error


def _unwrapped(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, out of the containers that trainers put around them."""
    # A bound, because a container of a hostile file may hold itself.
    for _ in range(MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not tensors and not inner and len(content) == 1:
            inner = [value for value in content.values() if isinstance(value, Mapping)]
        if not inner:
            return {str(key): value for key, value in (tensors or _in_groups(content)).items()}
        content = inner[0]
    raise ValueError(f"{path.name} holds a {type(content).__name__}, expected named tensors.")


def _in_groups(content: Mapping) -> dict[str, torch.Tensor]:
    """Tensors of a file that is several containers and no wrapper, such as a textual inversion."""
    return {
        f"{group}.{key}": value
        for group, members in content.items()
        if isinstance(members, Mapping)
        for key, value in members.items()
        if isinstance(value, torch.Tensor)
    }


def save_tensors(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a file completely or not at all.

    ``.safetensors``, or ``.ckpt`` for tools that read nothing else (which then has no metadata).
    """
    path = Path(path)
    ready = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    try:
        if path.suffix == ".safetensors":
            save_file(ready, temporary, metadata={key: str(value) for key, value in metadata.items()})
        elif path.suffix == ".ckpt":
            torch.save(ready, temporary)
        else:
            raise ValueError(f"Cannot write {path.name}: expected the ending .safetensors or .ckpt.")
        # mkstemp makes files private; a model file is as readable as any other.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:
        os.unlink(temporary)
        raise OSError(f"{path} cannot be written: {error}") from error
    except BaseException:
        os.unlink(temporary)
        raise
