"""The members of an archive, each of them whole, before anybody reads what they say.

An archive from a stranger can claim to be larger than it is, name one place twice, put members on top of
one another, or hold a few bytes that unpack to a full disk. None of these is read.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from dni_fx.errors import FileError

if TYPE_CHECKING:
    import io

_NAME = r"[A-Za-z0-9_-]{1,100}"
_MEMBER = re.compile(
    rf"archive_(format|version)|byteorder|\.?version|\.data/(version|serialization_id)"
    rf"|\.format_version|\.storage_alignment|models/{_NAME}\.json|data/sample_inputs/{_NAME}\.pt"
    rf"|data/weights/({_NAME}_weights_config\.json|weight_\d+)"
    rf"|data/constants/({_NAME}_constants_config\.json|tensor_\d+)"
    rf"|data/dni_fx/(state_config\.json|state_\d+)|extra/[^/\\]{{1,100}}"
)
_ROOT = re.compile(r"\w[\w.+ -]{0,200}")
_PICKLED = re.compile(r"data/(weights|constants)/(custom_obj_\d+|opaque_obj_\d+|[^/]*\.pt)")
_WORDS = re.compile(r"archive_\w+|byteorder|[\w.]*version|\.data/\w+|\.storage_alignment")

_MOST = {"word": 1024, "table": 64 * 2**20}
"""Bytes of members that hold a word, and of tables. Graphs have a limit where they are read."""
_MOST_DIRECTORY = 64 * 2**20
"""Bytes of the list of members: that of half a million."""
_START, _END, _END64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"
_LOCAL_HEADER = 30


def read_members(path: Path) -> dict[str, bytearray]:
    """Every member of a `.pt2` file by name, each of them complete and with the right CRC.

    Raises:
        FileError: the file is missing, is not a `.pt2` archive, was cut short or changed, or holds
            members that have no place in one. Says which.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a pipe is to wait for who writes to it
            raise FileError(f"cannot read {path}: it is a device or a pipe. Name a file.")
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error


def refuse(doing: str, problems: Iterable[str]) -> None:
    """Raise one error that lists every problem, or return if there is none.

    Raises:
        FileError: there is a problem.
    """
    if listed := "".join(f"\n  * {problem}" for problem in problems):
        raise FileError(f"{doing}:{listed}")


def check_zip(
    file: IO[bytes], doing: str, wrong: Callable[[zipfile.ZipFile], Iterable[str]]
) -> zipfile.ZipFile:
    """An archive of which no member is compressed, lies upon another one or is there twice.

    `doing` begins the message of an error; `wrong` says what else is wrong with it.

    Raises:
        FileError: it is not such an archive; lists all that is wrong.
        zipfile.BadZipFile: it is no archive, or its list of members makes no sense.
    """
    size = file.seek(0, 2)
    count = _count_members(file, size)
    archive = zipfile.ZipFile(file)
    try:
        if len(archive.infolist()) != count:
            raise zipfile.BadZipFile(f"it lists {len(archive.infolist()):,} members and says {count:,}")
        refuse(doing, (*wrong(archive), *_wrong_places(archive, size)))
    except BaseException:
        archive.close()
        raise
    return archive


def _read(path: Path, file: IO[bytes]) -> dict[str, bytearray]:
    start = file.read(4)
    try:
        with check_zip(file, f"cannot read {path}", _wrong_names) as archive:
            return {
                info.filename.partition("/")[2]: _read_member(archive, info) for info in archive.infolist()
            }
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        struct.error,
    ) as error:
        cut = start == _START and str(error) == _NO_ZIP
        why = "the end of the archive is missing; the file was cut short" if cut else error
        raise FileError(f"cannot read {path}: {why}. It is damaged, or not a .pt2 file.") from None


def _count_members(file: IO[bytes], size: int) -> int:
    """How many members an archive says it has, whose list is where it belongs and not too long to be read.

    Raises:
        zipfile.BadZipFile: it is not.
    """
    file.seek(0)
    first = file.read(4)
    file.seek(max(size - 98, 0))  # where the two records of a large archive begin, and the one of a small one
    tail = file.read(98)
    end = tail[-22:]
    if first not in (_START, _END) or not end.startswith(_END):
        raise zipfile.BadZipFile(_NO_ZIP)
    count, length = struct.unpack_from("<HL", end, 10)
    if tail[:4] == _END64 and len(tail) == 98:  # a large archive says 2**16 - 1 and 2**32 - 1 at its end
        count, length = struct.unpack_from("<QQ", tail, 32)
    if length > min(_MOST_DIRECTORY, size):
        raise zipfile.BadZipFile(f"its list of members has {length:,} bytes")
    return count


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    data = bytearray(info.file_size)  # tensors are made over this memory, so it is not read into bytes first
    with cast("io.BufferedIOBase", archive.open(info)) as member:
        done = 0
        while done < len(data) and (more := member.readinto(memoryview(data)[done:])):
            done += more
        if done < len(data) or member.read(1):  # only reading past the end compares the CRC
            raise zipfile.BadZipFile(f"member {info.filename} is not as long as it claims")
    return data


def _wrong_names(archive: zipfile.ZipFile) -> Iterator[str]:
    infos = archive.infolist()
    roots = {info.filename.partition("/")[0] for info in infos}
    names = [info.filename.partition("/")[2] for info in infos]
    if "archive_format" not in names or len(roots) != 1 or not all(map(_ROOT.fullmatch, roots)):
        yield "it is a zip archive, but not of the .pt2 format"
        return
    for name, info in zip(names, infos, strict=True):
        most = _MOST["word" if _WORDS.fullmatch(name) else "table"]
        if _PICKLED.fullmatch(name):
            yield f"{name} is a pickled object, and reading one can run code"
        elif not _MEMBER.fullmatch(name):
            yield f"{name} has no place in the .pt2 file of a program"
        elif (_WORDS.fullmatch(name) or name.endswith("_config.json")) and info.file_size > most:
            yield f"{name} has {info.file_size:,} bytes, and at most {most:,} are read"


def _wrong_places(archive: zipfile.ZipFile, size: int) -> Iterator[str]:
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if len({info.filename for info in infos}) < len(infos):
        yield "a member is there twice"
    if sum(info.file_size for info in infos) > size:
        yield "its members claim to be larger than the file"
        return
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            yield f"{info.filename} is compressed or encrypted"
        elif info.compress_size != info.file_size:
            yield f"{info.filename} is stored in {info.compress_size:,} bytes and claims {info.file_size:,}"
        elif kind not in (0, stat.S_IFREG) or info.is_dir():
            yield f"{info.filename} is a link, a folder or a device"
    ends = [info.header_offset + _LOCAL_HEADER + len(info.filename) + info.file_size for info in infos]
    starts = [*(info.header_offset for info in infos[1:]), archive.start_dir]
    for (end, start), info in zip(zip(ends, starts, strict=True), infos, strict=True):
        if end > start:
            yield f"{info.filename} lies upon what comes after it"


_NO_ZIP = "File is not a zip file"
