"""The small part of HDF5 that Keras writes: groups, and arrays in one piece.

Reading is done here, in Python, not by the HDF5 library: that is a hundred thousand lines of C which a damaged file
can crash. Of the format's many features Keras uses few, and everything else is refused: links, compression, virtual
and external arrays. Every block a reader follows must lie inside the file, and no two may overlap, so that a file
can describe no more than it holds. Writing is the library's work (h5py, the extra ``save``).

What tinyconv writes begins with a *user block*, 512 bytes that HDF5 leaves to others: the SHA-256 of all that follows.

Source: HDF5 File Format Specification, version 3.0, sections II.A (superblock, version 0), III.A.1 (B-tree), III.B
(symbol table node), III.D (local heap), IV.A (object header and its messages).
"""

import hashlib
import io
import math
import struct
from collections.abc import Iterator, Mapping

import numpy as np

from tinyconv.checking.extras import need

SIGNATURE = b"\x89HDF\r\n\x1a\n"
USER_BLOCK = 512
SEAL = b"tinyconv: the SHA-256 of all after byte 512 is "
MOST_OBJECTS = 100_000  # groups and arrays
DEEPEST = 32
WRITER = ("Keras' formats are written with", "h5py")
LINK_NAMES = 255  # bytes of the longest name

Groups = dict[str, dict[str, np.ndarray]]  # arrays, by the path of their group and by name

# Types of object header messages
DATASPACE, DATATYPE, EXTERNAL_FILES, LAYOUT, FILTERS, CONTINUATION, SYMBOL_TABLE = 0x1, 0x3, 0x7, 0x8, 0xB, 0x10, 0x11

DTYPES: dict[bytes, np.dtype] = {
    bytes.fromhex("11 201f00 04000000 0000 2000 17 08 00 17 7f000000"): np.dtype("<f4"),
    bytes.fromhex("10 080000 08000000 0000 4000"): np.dtype("<i8"),
    bytes.fromhex("10 080000 04000000 0000 2000"): np.dtype("<i4"),
}


def dumps(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, str]) -> bytes:
    """A file with these arrays, by path, and these groups, by path, each with an attribute ``name``."""
    h5py = need(*WRITER)
    if len(arrays) + len(attributes) > MOST_OBJECTS // 2:  # what is written must be readable, groups included
        raise ValueError(f"The model has too many layers for an HDF5 file: {len(attributes):,}.")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        for path, name in attributes.items():
            file.create_group(path).attrs["name"] = name
        for path, array in arrays.items():
            file[path] = array
    body = buffer.getvalue()[USER_BLOCK:]
    seal = SEAL + hashlib.sha256(body).hexdigest().encode()
    return seal.ljust(USER_BLOCK, b"\0") + body


def loads(content: bytes, where: str) -> dict[str, np.ndarray]:
    """All arrays of a file, by path, as read-only views of ``content``."""
    if content.startswith(SIGNATURE):
        return Reader(content, 0, where).arrays()
    if content[USER_BLOCK:].startswith(SIGNATURE):
        seal = SEAL + hashlib.sha256(memoryview(content)[USER_BLOCK:]).hexdigest().encode()
        if content[:USER_BLOCK] != seal.ljust(USER_BLOCK, b"\0"):
            raise ValueError(f"{where} is damaged: the SHA-256 of its content is not the one it begins with.")
        return Reader(content, USER_BLOCK, where).arrays()
    raise ValueError(f"{where} is not an HDF5 file. Expected one that Keras or tinyconv saved.")


class Reader:
    """Follows a file's structure from its superblock; ``base`` is where that stands."""

    def __init__(self, content: bytes, base: int, where: str) -> None:
        self.content, self.base, self.where = memoryview(content)[base:], base, where
        self.blocks: list[tuple[int, int]] = []  # what has been read: begin and end
        self.unread = len(self.content)

    def arrays(self) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        pending = [("", self._root())]
        while pending:
            path, address = pending.pop()
            if len(found) + len(pending) > MOST_OBJECTS:
                raise self.refused(f"more than {MOST_OBJECTS:,} objects")
            if path.count("/") >= DEEPEST:
                raise self.refused(f"groups nested more than {DEEPEST} deep")
            messages = self._messages(address)
            if SYMBOL_TABLE in messages:
                tree, heap = struct.unpack("<QQ", self._message(messages, SYMBOL_TABLE, 16))
                for name, child in self._group(tree, heap).items():
                    pending.append((f"{path}/{name}" if path else name, child))
            else:
                found[path] = self._array(path, messages)
        self._check_overlaps()
        return found

    # Errors

    def damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.where} is damaged: {what}.")

    def refused(self, what: str) -> ValueError:
        return ValueError(
            f"{self.where} has {what}, which Keras does not write and tinyconv does not read. "
            "Fix: load it in Keras, and save it again."
        )

    # Blocks

    def _block(self, address: int, size: int) -> memoryview:
        """Bytes of the file that no other block may describe."""
        if size < 0 or address < 0 or address + size > len(self.content):
            raise self.damaged("it points outside itself")
        self.unread -= size
        if self.unread < 0:  # known at once, before a wheel of blocks could keep the reader busy
            raise self.damaged("two of its parts overlap")
        self.blocks.append((address, address + size))
        return self.content[address : address + size]

    def _check_overlaps(self) -> None:
        end = 0
        for begin, stop in sorted(self.blocks):
            if begin < end:
                raise self.damaged("two of its parts overlap")
            end = stop

    def _root(self) -> int:
        """The address of the root group's object header, from the superblock."""
        block = self._block(0, 96)
        versions, sizes = bytes(block[8:13]), bytes(block[13:15])
        if versions != bytes(5) or sizes != b"\x08\x08":
            raise self.refused("another version of HDF5's superblock")
        base, _, end = struct.unpack("<QQQ", block[24:48])
        if base != self.base or end > len(self.content) + self.base:
            raise self.damaged("it is shorter than it says")
        return struct.unpack("<Q", block[64:72])[0]

    # Object headers

    def _messages(self, address: int) -> dict[int, list[bytes]]:
        """The messages of an object header, by type."""
        version, count, _, size = struct.unpack("<BxHII", self._block(address, 16)[:12])
        if version != 1:
            raise self.refused("another version of HDF5's object headers")
        messages: dict[int, list[bytes]] = {}
        blocks = [(address + 16, size)]
        while blocks and count:
            block = self._block(*blocks.pop(0))
            at = 0
            while at + 8 <= len(block) and count:
                kind, length = struct.unpack("<HH", block[at : at + 4])
                body = bytes(block[at + 8 : at + 8 + length])
                if len(body) < length:
                    raise self.damaged("a header's message is cut off")
                if kind == CONTINUATION and length >= 16:
                    blocks.append(struct.unpack("<QQ", body[:16]))
                messages.setdefault(kind, []).append(body)
                at, count = at + 8 + length, count - 1
        if count:
            raise self.damaged("a header's messages are missing")
        return messages

    def _message(self, messages: dict[int, list[bytes]], kind: int, size: int) -> bytes:
        """The first ``size`` bytes of the message of that type, of which there must be one."""
        found = messages.get(kind, [])
        if len(found) != 1 or len(found[0]) < size:
            raise self.damaged("an object is not described as it must be")
        return found[0][:size]

    # Groups

    def _group(self, tree: int, heap: int) -> dict[str, int]:
        """The members of a group: the address of each one's object header, by name."""
        signature, version, size, _, segment = struct.unpack("<4sB3xQQQ", self._block(heap, 32))
        if signature != b"HEAP" or version:
            raise self.damaged("a group has no names")
        names = bytes(self._block(segment, size))
        members: dict[str, int] = {}
        last = ""
        for offset, address in self._entries(tree):
            end = names.find(b"\0", offset, offset + LINK_NAMES + 1)
            name = names[offset : max(end, 0)].decode("utf-8", "replace")
            if not name or "/" in name or name in (".", "..") or not name.isprintable() or name in members:
                raise self.damaged(f"a group has a member called {name!r}, or two")
            if name.encode() < last.encode():  # a tree is sorted, so names cannot have changed places
                raise self.damaged("a group's members are out of order")
            members[name], last = address, name
        return members

    def _entries(self, tree: int, level: int = 8) -> Iterator[tuple[int, int]]:
        """The members under a node of a B-tree: where each one's name is in the heap, and its address."""
        signature, kind, depth, used = struct.unpack("<4sBBH", self._block(tree, 24)[:8])
        if signature != b"TREE" or kind or depth >= level:
            raise self.damaged("a group has no tree of members")
        children = struct.unpack(f"<{2 * used}Q", self._block(tree + 24, 16 * used))[1::2]
        for child in children:
            if depth:
                yield from self._entries(child, depth)
                continue
            signature, version, count = struct.unpack("<4sBxH", self._block(child, 8))
            if signature != b"SNOD" or version != 1:
                raise self.damaged("a group has no list of members")
            for entry in struct.iter_unpack("<QQI20x", self._block(child + 8, 40 * count)):
                if entry[2] > 1:
                    raise self.refused("a link to elsewhere")
                yield entry[:2]

    # Arrays

    def _array(self, path: str, messages: dict[int, list[bytes]]) -> np.ndarray:
        for kind, what in ((EXTERNAL_FILES, "data in other files"), (FILTERS, "compressed data")):
            if kind in messages:
                raise self.refused(what)
        shape = self._shape(messages)
        encoded = self._message(messages, DATATYPE, 12)
        if encoded[0] == 0x11:
            encoded = self._message(messages, DATATYPE, 20)
        dtype = DTYPES.get(encoded)
        if dtype is None:
            raise ValueError(f"{self.where}: {path!r} is not of a supported type. Expected float32 or int64.")
        version, layout, address, size = struct.unpack("<BBQQ", self._message(messages, LAYOUT, 18))
        if version != 3 or layout != 1:
            raise self.refused("data that are not in one piece")
        if size != math.prod(shape) * dtype.itemsize:
            raise self.damaged(f"{path!r} has {size:,} bytes, which is not what its shape {shape} takes")
        return np.frombuffer(self._block(address, size), dtype).reshape(shape)

    def _shape(self, messages: dict[int, list[bytes]]) -> tuple[int, ...]:
        version, rank, flags = struct.unpack("<BBB", self._message(messages, DATASPACE, 3))
        if version != 1 or rank > 32 or flags > 1:
            raise self.refused("another version of HDF5's dataspaces")
        return struct.unpack(f"<{rank}Q", self._message(messages, DATASPACE, 8 + 8 * rank)[8:])


def by_group(arrays: Mapping[str, np.ndarray]) -> Groups:
    """What lies directly in each group, by the group's path and by name."""
    groups: Groups = {}
    for path, array in arrays.items():
        group, _, name = path.rpartition("/")
        groups.setdefault(group, {})[name] = array
    return groups
