"""Damaged and malicious files: always a clear error or the right weights; never a crash, a write, or much memory.

Every format gets 4,000 mutations with ``--long``, a fifth without, the same ones on every run. While a file is being
read an audit hook watches that nothing is opened, executed, imported or unpickled, and the process may take no more
than 100 MB further memory.
"""

import contextlib
import copy
import io
import json
import os
import re
import struct
import sys
import tracemalloc
import warnings
import zipfile

import h5py
import numpy as np
import pytest

from tests.strategies import few, scaled
from tests.test_saving import make, train
from tinyconv import saving
from tinyconv.files import checked_json, hdf5, keras_archive, keras_config, keras_weights, safetensors
from tinyconv.files.store import fitting, named_weights

try:
    import resource
except ImportError:
    resource = None

MUTATIONS, CHUNKS = min(scaled(4_000), 20_000), 4
MEMORY = 100 << 20

NUMBERS = [0, 1, 7, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1]
NAMES = [
    "../../outside",
    "/tmp/outside",
    "..\\outside",
    "C:\\outside",
    "a\0b",
    "",
    ".",
    "conv2d",
    "dense/kernel",
    "é" * 300,
]
PICKLE = (
    b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system"
    b"\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
)
VALUES = [None, True, -1, 0, 1.5, 1e300, 10**30, "x", "relu", "../../outside", [], [[]], [None, 10**9], {}, {"a": 1}]

armed = False
events = []
FORBIDDEN = (
    "open",
    "exec",
    "compile",
    "import",
    "os.",
    "subprocess.",
    "shutil.",
    "pickle.",
    "socket.",
    "ctypes.",
    "marshal.",
)


def watch(event, arguments):
    if armed and event.startswith(FORBIDDEN):
        events.append((event, repr(arguments)[:200]))


sys.addaudithook(watch)


@contextlib.contextmanager
def guarded():
    """Nothing may be opened or executed in here, and little memory be taken."""
    global armed
    limits = None
    if resource is not None and os.path.exists("/proc/self/statm"):
        limits = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    events.clear()
    armed = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        armed = False
        if limits:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    assert events == []


# Mutations of bytes


def mutated(rng, content):
    """A few random changes; nearly always something that was not meant to be."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if len(changed) < 16:
            break
        BYTES[rng.integers(len(BYTES))](rng, changed)
    return bytes(changed)


def somewhere(rng, changed):
    """A position: in half of the cases near the beginning or the end, where the structure is."""
    size = len(changed)
    span = size if rng.random() < 0.5 else min(size, 600)
    at = int(rng.integers(span))
    return at if rng.random() < 0.7 else size - 1 - at


def truncate(rng, changed):
    del changed[somewhere(rng, changed) :]


def flip_bits(rng, changed):
    for _ in range(rng.integers(1, 4)):
        changed[somewhere(rng, changed)] ^= 1 << int(rng.integers(8))


def overwrite_number(rng, changed):
    at = min(somewhere(rng, changed) & ~7, len(changed) - 8)
    changed[at : at + 8] = struct.pack("<Q", NUMBERS[rng.integers(len(NUMBERS))])


def swap_words(rng, changed):
    one, other = (min(somewhere(rng, changed) & ~7, len(changed) - 8) for _ in range(2))
    changed[one : one + 8], changed[other : other + 8] = changed[other : other + 8], changed[one : one + 8]


def delete_slice(rng, changed):
    at = somewhere(rng, changed)
    del changed[at : at + int(rng.integers(1, 64))]


def repeat_slice(rng, changed):
    at = somewhere(rng, changed)
    changed[at:at] = changed[at : at + int(rng.integers(1, 200))]


def huge_number(rng, changed):
    """A number in the JSON becomes another."""
    found = list(re.finditer(rb"[0-9]+", bytes(changed)[:20_000]))
    if found:
        match = found[rng.integers(len(found))]
        changed[match.start() : match.end()] = str(NUMBERS[rng.integers(len(NUMBERS))]).encode()


def rename(rng, changed):
    """A text in the JSON becomes another of the file, a path, or nonsense: names that occur twice, and worse."""
    found = list(re.finditer(rb'"[^"\\]*"', bytes(changed)[:20_000]))
    if found:
        match, other = (found[i] for i in rng.integers(len(found), size=2))
        name = other.group() if rng.random() < 0.5 else json.dumps(NAMES[rng.integers(len(NAMES))]).encode()
        changed[match.start() : match.end()] = name


def insert_pickle(rng, changed):
    at = somewhere(rng, changed)
    changed[at : at if rng.random() < 0.5 else at + len(PICKLE)] = PICKLE


def append(rng, changed):
    changed += rng.bytes(int(rng.integers(1, 100)))


BYTES = [
    truncate,
    flip_bits,
    flip_bits,
    overwrite_number,
    overwrite_number,
    swap_words,
    delete_slice,
    repeat_slice,
    huge_number,
    rename,
    insert_pickle,
    append,
]


# Mutations of JSON


def mutated_json(rng, text):
    """A valid JSON text in which some value is another, or is missing, or is there twice."""
    value = json.loads(text)
    for _ in range(rng.choice([1, 1, 2])):
        parent, key = place(rng, value)
        kind = rng.integers(5)
        if kind == 0 and isinstance(parent, dict):
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[NAMES[rng.integers(len(NAMES))]] = parent[key]
        elif kind == 2:
            other_parent, other = place(rng, value)
            parent[key] = copy.deepcopy(other_parent[other])
        else:
            parent[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    changed = json.dumps(value)
    if rng.random() < 0.05:
        changed = re.sub(r'"name": ', '"name": 1, "name": ', changed, count=1)
    if rng.random() < 0.02:
        changed = changed.replace("null", "[" * int(rng.choice([50, 5000])), 1)
    return changed.encode()


def place(rng, value):
    """Some object or list inside, and one of its keys."""
    found = []

    def walk(node):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            found.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    walk(value)
    return found[rng.integers(len(found))]


# The formats


def trained():
    model = make()
    train(model, 1)
    return model


MODEL = trained()
WEIGHTS = {name: array.copy() for name, array in named_weights(MODEL).items()}
LEAVES = keras_weights.leaves_of(MODEL.layers)


def right(weights, expected=None):
    """Whether weights in Keras' order are the right ones, bit for bit."""
    expected = list(WEIGHTS.values()) if expected is None else expected
    return all(a.tobytes() == b.tobytes() for a, b in zip(weights, expected, strict=True))


def survey(name, chunk, content, mutate, load, check=right):
    """Load mutations of ``content`` until a quarter of all are done; how many were refused, and how many were right."""
    rng = np.random.default_rng([sum(name.encode()), chunk])
    refused = accepted = 0
    unnamed = []
    load(content)  # so that all it imports is there
    with guarded():
        for _ in range(MUTATIONS // CHUNKS):
            changed = content
            while changed == content:
                changed = mutate(rng, content)
            try:
                found = load(changed)
            except ValueError as error:
                unnamed += [str(error)] * ("'it'" not in str(error))
                refused += 1
                continue
            assert check(found), f"wrong weights from {name} by mutation {refused + accepted} of chunk {chunk}"
            accepted += 1
    assert unnamed == []  # every error names the file
    return refused, accepted


chunks = pytest.mark.parametrize("chunk", few(range(CHUNKS)))


@chunks
def test_safetensors(chunk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(content):
        return fitting(WEIGHTS, safetensors.loads(content, "'it'")[0], "'it'")

    refused, _ = survey("safetensors", chunk, safetensors.dumps(WEIGHTS), mutated, load)
    assert refused > 0.9 * MUTATIONS / CHUNKS
    assert os.listdir(tmp_path) == []


def load_h5(content):
    return keras_weights.fitting_weights(LEAVES, hdf5.by_group(hdf5.loads(content, "'it'")), "'it'")


@chunks
def test_weights_h5_that_tinyconv_wrote(chunk):
    """It is sealed: what has been changed anywhere is refused before it is interpreted."""
    content = keras_weights.dumps(MODEL)
    assert survey("h5", chunk, content, mutated, load_h5) == (MUTATIONS // CHUNKS, 0)


def unsealed():
    """The file as Keras' own library calls write it, and where each weight's numbers are in it."""
    buffer, offsets = io.BytesIO(), []
    arrays = hdf5.loads(keras_weights.dumps(MODEL), "it")
    with h5py.File(buffer, "w") as file:
        for path, array in arrays.items():
            file[path] = array
            file[path.rpartition("/")[0]].attrs["name"] = "it"
    with h5py.File(buffer, "r") as file:
        for layer, path, _ in LEAVES:
            offsets += [
                (file[f"{path}/{i}"].id.get_offset(), array.nbytes) for i, array in enumerate(layer.arrays.values())
            ]
    return buffer.getvalue(), offsets


@chunks
def test_weights_h5_that_keras_wrote(chunk):
    """It is not sealed, so a change inside the numbers shows in the numbers; but nothing else may change them.

    Nothing but a bit that moves the address of an array to unused space: HDF5 has no means to notice that, and what is
    read then must at least be what the HDF5 library reads too.
    """
    content, offsets = unsealed()
    last, moved = {}, []

    def mutate(rng, content):
        last["changed"] = mutated_in_place(rng, content) if rng.random() < 0.7 else mutated(rng, content)
        return last["changed"]

    def check(weights):
        expected = [np.frombuffer(last["changed"][at : at + size], np.float32) for at, size in offsets]
        if right(weights, expected):
            return True
        moved.append(last["changed"])
        with h5py.File(io.BytesIO(last["changed"]), "r") as file:
            paths = [(path, len(layer.weights)) for layer, path, _ in LEAVES]
            return right(weights, [file[f"{path}/{i}"][()] for path, count in paths for i in range(count)])

    refused, accepted = survey("keras h5", chunk, content, mutate, load_h5, check)
    assert refused > 0.2 * MUTATIONS / CHUNKS
    assert accepted > 0.02 * MUTATIONS / CHUNKS
    assert len(moved) < 10


def mutated_in_place(rng, content):
    """Changes that leave every byte where it is, so that it is known where the numbers must be."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        (flip_bits, overwrite_number, swap_words)[rng.integers(3)](rng, changed)
    return bytes(changed)


def load_archive(content):
    return saving.model_of(content, "'it'", backend="reference").get_weights()


@chunks
def test_keras_archives(chunk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused, _ = survey("archive", chunk, keras_archive.dumps(MODEL), mutated, load_archive)
    assert refused > 0.5 * MUTATIONS / CHUNKS
    assert os.listdir(tmp_path) == []


@chunks
def test_keras_archives_with_other_members(chunk, tmp_path, monkeypatch):
    """The checksums are right here: what is wrong is the configuration, the weights, or the archive itself."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(io.BytesIO(keras_archive.dumps(MODEL))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sealed = members[keras_archive.WEIGHTS]
    assert json.loads(members[keras_archive.CONFIG]) == json.loads(json.dumps(keras_config.of_model(MODEL)))

    def mutate(rng, _):
        changed, kind = dict(members), rng.integers(7)
        if kind < 5:
            changed[keras_archive.CONFIG] = mutated_json(rng, members[keras_archive.CONFIG])
        elif kind == 5:
            changed[keras_archive.METADATA] = mutated_json(rng, members[keras_archive.METADATA])
        else:
            changed[keras_archive.WEIGHTS] = mutated(rng, sealed)
        return zipped(rng, changed)

    refused, accepted = survey("members", chunk, b"", mutate, lambda c: load_archive(c) if c else None)
    assert refused > 0.2 * MUTATIONS / CHUNKS
    assert accepted > 0.02 * MUTATIONS / CHUNKS
    assert os.listdir(tmp_path) == []


def zipped(rng, members):
    """An archive of these members, sometimes compressed, doubled, or with others that want to be elsewhere."""
    buffer = io.BytesIO()
    compression = rng.choice([zipfile.ZIP_STORED] * 30 + [zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(buffer, "w", int(compression)) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members.items():
            archive.writestr(name, content)
        extra = rng.integers(40)
        if extra == 0:
            archive.writestr(keras_archive.CONFIG, members[keras_archive.CONFIG])
        elif extra == 1:
            archive.writestr(NAMES[rng.integers(4)], PICKLE)
        elif extra == 2:
            archive.writestr("bomb", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


@pytest.mark.parametrize("name", few([keras_archive.CONFIG, keras_archive.METADATA, keras_archive.WEIGHTS]))
def test_a_zip_bomb_is_refused_before_it_is_unpacked(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(keras_archive.dumps(MODEL))) as source, zipfile.ZipFile(buffer, "w") as archive:
        for each in source.namelist():
            info = zipfile.ZipInfo(each)
            if each != name:
                archive.writestr(info, source.read(each))
                continue
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                for _ in range(256):
                    member.write(bytes(1 << 20))
    assert len(buffer.getvalue()) < 400_000
    with guarded(), pytest.raises(ValueError, match="is compressed, which Keras does not do"):
        load_archive(buffer.getvalue())


def test_hdf5_with_links_filters_and_foreign_data_is_refused(tmp_path):
    def made(build):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            build(file)
        return buffer.getvalue()

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
        file.create_virtual_dataset("a", layout)

    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    cases = {
        "soft link": lambda file: file.update(a=h5py.SoftLink("/b")),
        "external link": lambda file: file.update(a=h5py.ExternalLink(str(secret), "/b")),
        "external data": lambda file: file.create_dataset("a", (4,), "f4", external=[(str(secret), 0, 16)]),
        "virtual data": virtual,
        "chunks": lambda file: file.create_dataset("a", (1 << 40,), "f4", chunks=(1024,)),
        "compression": lambda file: file.create_dataset("a", (1 << 30,), "f4", compression="gzip", fillvalue=0),
        "text": lambda file: file.create_dataset("a", data="text"),
        "float64": lambda file: file.create_dataset("a", data=np.zeros(3)),
        "big endian": lambda file: file.create_dataset("a", data=np.zeros(3, ">f4")),
        "nothing stored": lambda file: file.create_dataset("a", (1 << 30,), "f4"),
    }
    for name, build in cases.items():
        content = made(build)
        with (
            guarded(),
            pytest.raises(ValueError, match=r"Expected float32|is damaged|does not read. Fix: load it in Keras"),
        ):
            hdf5.loads(content, name)


def test_a_group_that_contains_itself_ends(tmp_path):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("a/b")
        file["a/b/again"] = file["a"]
    with guarded(), pytest.raises(ValueError, match="two of its parts overlap"):
        hdf5.loads(buffer.getvalue(), "it")


# Files of strangers: what they take is bounded by what they are


def peak(load):
    """The most memory that Python's objects took at one time, and the error."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="'it'") as caught:
            load()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


def members_of(model):
    with zipfile.ZipFile(io.BytesIO(keras_archive.dumps(model))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_zip_of_very_many_members_is_refused_before_its_directory_is_read(monkeypatch):
    content = archive_of({"a": b""})
    begin, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    count = 200_000
    tail = bytearray(content[end:])
    tail[12:20] = struct.pack("<II", (end - begin) * count, begin)
    many = content[:begin] + content[begin:end] * count + bytes(tail)
    with zipfile.ZipFile(io.BytesIO(many)) as archive:
        assert len(archive.namelist()) == count
    monkeypatch.setattr(zipfile, "ZipFile", None)
    memory, error = peak(lambda: load_archive(many))
    assert "Expected 3 members. Received: more than 100" in error
    assert memory < 1 << 20


def test_an_archive_whose_end_lies_is_refused_by_name():
    """Whatever zipfile raises of it: a directory before the file's beginning, one that is not there, ..."""
    content = archive_of(members_of(MODEL))
    end = content.index(b"PK\5\6")
    for field in range(end + 4, len(content), 2):
        for value in (b"\xff\xff", b"\xff\x7f", b"\x01\x00"):
            changed = content[:field] + value + content[field + 2 :]
            with contextlib.suppress(ValueError):
                try:
                    load_archive(changed)
                except ValueError as error:
                    assert "'it'" in str(error)  # noqa: PT017 - some of them are right
    with pytest.raises(ValueError, match=r"'it' is not a complete \.keras archive: "):
        load_archive(content[:end] + content[end : end + 12] + b"\xff\xff\xff\x7f" + content[end + 16 :])


def layered(count, **config):
    """An archive of a model of that many layers without weights."""
    empty = {"module": "keras.layers", "class_name": "Flatten", "config": config}
    whole = json.loads(members_of(MODEL)[keras_archive.CONFIG])
    whole["config"]["layers"] = whole["config"]["layers"][:1] + [empty] * count
    return archive_of({**members_of(MODEL), keras_archive.CONFIG: json.dumps(whole).encode()})


def test_a_model_of_very_many_layers_is_refused_before_they_are_made():
    memory, error = peak(lambda: load_archive(layered(keras_config.MOST_LAYERS + 1)))
    assert "expected at most 10,000 layers. Received: 10,002" in error
    assert memory < 40 << 20


@pytest.mark.parametrize("name", ["a/b", "", "a" * 1001, "a\0b", "\ud800", 5, ["a"]], ids=repr)
def test_a_name_that_no_layer_can_have_is_refused(name):
    for content in (layered(1, name=name), renamed(name)):
        with pytest.raises(ValueError, match=r"'it'.*expected a name of 1 to 1,000 letters without '/'. Received: "):
            load_archive(content)


def renamed(name):
    whole = json.loads(members_of(MODEL)[keras_archive.CONFIG])
    whole["config"]["name"] = name
    return archive_of({**members_of(MODEL), keras_archive.CONFIG: json.dumps(whole).encode()})


def test_json_takes_no_more_memory_than_a_multiple_of_its_size():
    for text in (b"[" + b"[]," * 300_000 + b"1]", b"[" + b"{}," * 300_000 + b"1]"):
        memory, error = peak(lambda text=text: checked_json.loads(text, "'it'"))
        assert "at most 200,000 lists and objects. Received: 300,001" in error
        assert memory < 8 * len(text)
    values = b"[" + b"1.5," * 200_000 + b"x]"
    memory, _ = peak(lambda: checked_json.loads(values, "'it'"))
    assert memory < 16 * len(values)


def test_a_safetensors_header_of_very_many_names_takes_a_multiple_of_its_size():
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = {"__metadata__": {"sha256": "0" * 64}} | {f"{i:06}": entry for i in range(10_000)}
    text = json.dumps(header).encode()
    memory, error = peak(lambda: safetensors.loads(struct.pack("<Q", len(text)) + text, "'it'"))
    assert "the SHA-256 of its data is not the one" in error
    assert memory < 30 * len(text)


def test_what_is_written_is_within_the_bounds_of_what_is_read():
    arrays = {f"{'n' * 100}{i}": np.zeros(0, np.float32) for i in range(30_000)}
    with pytest.raises(ValueError, match=r"The header that names the arrays is too large. Expected at most 4,194,304"):
        safetensors.dumps(arrays)


def test_groups_nested_very_deeply_are_refused():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file
        for _ in range(200):
            group = group.create_group("n" * 200)
    memory, error = peak(lambda: hdf5.loads(buffer.getvalue(), "'it'"))
    assert "groups nested more than 32 deep" in error
    assert memory < 2 * len(buffer.getvalue())


def test_many_groups_and_huge_attributes_take_a_multiple_of_the_file():
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for i in range(1000):
            file.create_group(f"layers/dense_{i}/vars").attrs["much"] = np.zeros(1000)
    content = buffer.getvalue()
    tracemalloc.start()
    try:
        assert hdf5.loads(content, "'it'") == {}
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content)
    finally:
        tracemalloc.stop()


def test_two_files_in_one_are_refused_or_one_of_them():
    """Splices: the beginning of one model's file and the end of another's, cut anywhere."""
    other = make(seed=9)
    rng = np.random.default_rng(0)
    kinds = {
        "archive": (load_archive, keras_archive.dumps(MODEL), keras_archive.dumps(other)),
        "h5": (load_h5, keras_weights.dumps(MODEL), keras_weights.dumps(other)),
        "safetensors": (
            lambda content: fitting(WEIGHTS, safetensors.loads(content, "'it'")[0], "'it'"),
            safetensors.dumps(WEIGHTS),
            safetensors.dumps(named_weights(other)),
        ),
    }
    expected = [list(WEIGHTS.values()), [array.copy() for array in named_weights(other).values()]]
    for load, one, two in kinds.values():
        for _ in range(300):
            spliced = one[: rng.integers(len(one))] + two[rng.integers(len(two)) :]
            try:
                found = load(spliced)
            except ValueError as error:
                assert "'it'" in str(error)  # noqa: PT017 - most of them are refused
                continue
            assert any(right(found, weights) for weights in expected)
