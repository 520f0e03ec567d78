# SPDX-License-Identifier: Apache-2.0
"""The pack for a GPU machine: pruning of a synthetic fatbin, chunks, parts, and the same files after unpacking."""

import hashlib
import json
import struct
import zipfile

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("gpu_modules")

PTX, ELF = 1, 2


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


CODE = (noise(600) + bytes(40)) * 8


def entry(kind, arch, payload, flags=0, packed=0, unpacked=0):
    """An entry of a fatbin."""
    return (
        struct.pack(
            "<HHIQIIHHIIIQQQ", kind, 1, 64, len(payload), packed, 0, 0, 0, arch, 0, 0, flags, 0, unpacked
        )
        + payload
    )


def fatbin(*entries):
    body = b"".join(entries)
    return struct.pack("<4sHHQ", b"\x50\xed\x55\xba", 1, 16, len(body)) + body


def library(section, host=b"host code"):
    """A 64-bit ELF file with the section .nv_fatbin, after some host code."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    start = 64 + len(host)
    name_start = start + len(section)
    table = name_start + len(names)
    header = bytearray(64)
    header[:4] = b"\x7fELF"
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 2)
    sections = [(0, 0, 0, 0), (1, 1, start, len(section)), (12, 3, name_start, len(names))]
    records = b"".join(
        struct.pack("<IIQQQQ", name, kind, 0, 0, offset, size).ljust(64, b"\0")
        for name, kind, offset, size in sections
    )
    return bytes(header) + host + section + names + records


def fatbins_of(data):
    from fatbin import elf_sections, read_fatbins

    ((_, start, size),) = [s for s in elf_sections(data) if s[0] == ".nv_fatbin"]
    return list(read_fatbins(data, ".nv_fatbin", start, start + size))


def test_prune_keeps_the_code_of_one_gpu():
    from fatbin import prune

    codes = {arch: noise(400, arch) for arch in (70, 80, 86, 90)}
    ptx = b"ptx of 80".ljust(64, b" ")
    first = fatbin(*(entry(ELF, arch, code) for arch, code in codes.items()), entry(PTX, 90, ptx))
    second = fatbin(entry(ELF, 70, codes[70]), entry(PTX, 70, ptx), entry(PTX, 80, ptx))
    third = fatbin(entry(ELF, 70, codes[70]))
    whole = library(first + bytes(8) + second + third)
    pruned = prune(whole, 90, None)
    assert len(pruned.data) == len(whole)
    kept = fatbins_of(pruned.data)
    assert [f.start for f in kept] == [f.start for f in fatbins_of(whole)]  # addresses do not change
    assert [[(e.kind, e.arch) for e in f.entries] for f in kept] == [[(ELF, 90)], [(PTX, 80)], [(ELF, 70)]]
    (code,) = pruned.code
    assert pruned.data[slice(*code)] == codes[90]
    assert all(not any(pruned.data[start:end]) for start, end in pruned.zeros)
    assert sum(end - start for start, end in pruned.zeros) > 3 * 400
    assert pruned.data.startswith(whole[:64] + b"host code")


def test_prune_takes_the_newest_code_that_runs():
    from fatbin import prune

    whole = library(
        fatbin(entry(ELF, 80, noise(300, 1)), entry(ELF, 86, noise(300, 2)), entry(ELF, 89, noise(300, 3)))
    )
    assert [e.arch for e in fatbins_of(prune(whole, 86, None).data)[0].entries] == [86]
    assert [e.arch for e in fatbins_of(prune(whole, 87, None).data)[0].entries] == [86]


def test_prune_refuses_what_it_does_not_understand():
    from fatbin import prune

    with pytest.raises(ValueError, match="unknown bytes in .nv_fatbin"):
        prune(library(fatbin(entry(ELF, 90, noise(300))) + b"not a fatbin"), 90, None)
    damaged = bytearray(library(fatbin(entry(ELF, 90, noise(300)))))
    at = damaged.index(b"\x50\xed\x55\xba")
    struct.pack_into("<Q", damaged, at + 8, 300)
    with pytest.raises(ValueError, match="damaged fatbin"):
        prune(bytes(damaged), 90, None)


@pytest.fixture
def lz4():
    from lz4 import Lz4

    try:
        return Lz4("liblz4.so.1")
    except OSError:
        pytest.skip("this machine has no liblz4")


def test_compressed_code_is_stored_unpacked(lz4):
    from fatbin import COMPRESSED, prune

    code = CODE
    packed = lz4.compress(code)
    literals = len(code) - 15  # LZ4 of the same code without any compression, which `compress` does not give
    other = b"\xf0" + b"\xff" * (literals // 255) + bytes([literals % 255]) + code
    assert lz4.decompress(other, len(code)) == code and len(packed) < len(code) / 2
    whole = library(
        fatbin(entry(ELF, 90, packed, COMPRESSED, len(packed), len(code)))
        + fatbin(entry(ELF, 90, other, COMPRESSED, len(other), len(code)))
    )
    pruned = prune(whole, 90, lz4)
    ((start, size, unpacked),) = pruned.packed_code
    assert (unpacked, pruned.data[start : start + size]) == (code, packed)


def make_tree(lz4):
    from fatbin import COMPRESSED, prune
    from tree import Tree

    code, plain = CODE, noise(5000, 2)
    packed = lz4.compress(code)
    section = fatbin(
        entry(ELF, 80, noise(3000, 3)),
        entry(ELF, 90, packed, flags=COMPRESSED, packed=len(packed), unpacked=len(code)),
        entry(ELF, 90, plain),
    )
    tree = Tree()
    tree.add("lib/libcuda_part.so", prune(library(section, noise(3000, 4)), 90, lz4), executable=True)
    tree.add("bin/program", b"\x7fELF" + noise(3000, 5), executable=True)
    tree.add("text/a.txt", b"a line\n" * 500)
    tree.add("text/copy of a.txt", b"a line\n" * 500)
    tree.add("text/empty", b"")
    tree.add("deps/liblz4.so.1", lz4_library(), executable=True)
    tree.links["bin/link"] = "program"
    return tree


def lz4_library():
    from interpreter import library_of_linker

    return library_of_linker("liblz4.so.1").read_bytes()


def write(folder, tree, limit=20_000):
    from chunks import Chunks
    from parts import write_parts

    chunks = Chunks(tree)
    return write_parts(chunks, chunks.compress(1, folder / "cache"), folder / "pack", limit, {"sm": 90})


def test_unpacked_files_are_those_of_the_tree(tmp_path, lz4, monkeypatch, capsys):
    import chunks
    import unpack
    from fatbin import Pruned

    monkeypatch.setattr(chunks, "PIECE_SIZE", 1000)
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 64_000)
    tree = make_tree(lz4)
    parts = write(tmp_path, tree)
    assert len(parts) > 2 and len({part.stat().st_size for part in parts[:-1]}) == 1
    assert max(part.stat().st_size for part in parts) <= 20_000
    target = tmp_path / "machine"
    unpack.stash(parts[1:], target)
    assert f"missing: {parts[0].name}" in capsys.readouterr().out
    with pytest.raises(unpack.PackError, match=f"stash {parts[0].name} first"):
        unpack.unpack(target, target / "root")
    unpack.stash(parts[:1], target)
    assert unpack.unpack(target, target / "root") == len(tree.files)
    for path, file in tree.files.items():
        expected = file.data.data if isinstance(file.data, Pruned) else file.data
        found = target / "root" / path
        assert found.read_bytes() == expected, path
        assert bool(found.stat().st_mode & 0o100) == file.executable
    assert (target / "root" / "bin" / "link").resolve().name == "program"


def test_equal_files_give_equal_packs_and_are_stored_once(tmp_path, lz4):
    from chunks import Chunks

    first, second = write(tmp_path / "1", make_tree(lz4)), write(tmp_path / "2", make_tree(lz4))
    assert [part.read_bytes() for part in first] == [part.read_bytes() for part in second]
    files = Chunks(make_tree(lz4)).files
    assert files["text/a.txt"][3] == files["text/copy of a.txt"][3]


def test_damage_is_found(tmp_path, lz4):
    import unpack

    parts = write(tmp_path, make_tree(lz4))
    target = tmp_path / "machine"
    unpack.stash(parts, target)
    stashed = target / "parts" / parts[-1].name
    data = bytearray(stashed.read_bytes())
    data[-10] ^= 1
    stashed.write_bytes(data)
    with pytest.raises(unpack.PackError, match="chunk . is damaged"):
        unpack.unpack(target, target / "root")
    parts[0].write_bytes(data)
    with pytest.raises(unpack.PackError, match="part-00 is damaged, or is not a part of pack"):
        unpack.stash(parts[:1], target)


def test_parts_of_another_pack_are_removed(tmp_path, lz4):
    import unpack
    from tree import Tree

    old = write(tmp_path / "old", make_tree(lz4))
    target = tmp_path / "machine"
    unpack.stash(old, target)
    tree = Tree()
    tree.add("file", b"new")
    unpack.stash(write(tmp_path / "new", tree), target)
    assert unpack.unpack(target, target / "root") == 1
    assert [part.name for part in (target / "parts").iterdir()] == ["part-00"]


def test_a_file_with_the_wrong_content_is_found(tmp_path):
    import lzma

    import unpack
    from tree import Tree

    tree = Tree()
    tree.add("file", b"content")
    parts = write(tmp_path, tree)
    manifest = json.loads((parts[0].parent / "manifest.json").read_text())
    pack = unpack.join(parts)
    size = manifest["index"]["size"]
    index = json.loads(lzma.decompress(pack[:size]))
    index["files"]["file"][2] = hashlib.sha256(b"other content").hexdigest()
    with pytest.raises(unpack.PackError, match="1 files have the wrong content, the first is file"):
        unpack.Unpacker(index, memoryview(pack)[size:], tmp_path / "root").run()


def test_wheel_is_installed_as_by_pip(tmp_path):
    from tree import SITE, Tree
    from wheels import add_wheel

    wheel = tmp_path / "nvidia_cuda_runtime_cu12-12.1.105-py3-none-manylinux1_x86_64.whl"
    info = "nvidia_cuda_runtime_cu12-12.1.105.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nvidia/cuda_runtime/lib/libcudart.so.12", b"library")
        archive.writestr("nvidia/cuda_runtime/lib/libother.so.12", b"not needed")
        archive.writestr("nvidia/cuda_runtime/include/cuda.h", b"header")
        record = "nvidia/cuda_runtime/lib/libcudart.so.12,,7\nnvidia/cuda_runtime/include/cuda.h,,6\n"
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
        archive.writestr("package-1.data/scripts/tool", b"#!python")
    tree = Tree()
    add_wheel(tree, wheel, 90, None)
    libraries = f"{SITE}nvidia/cuda_runtime/lib/libcudart.so.12"
    assert set(tree.files) == {libraries, f"{SITE}{info}/RECORD", "python/bin/tool"}
    assert tree.files[f"{SITE}{info}/RECORD"].data.decode().splitlines() == [
        "nvidia/cuda_runtime/lib/libcudart.so.12,,7",
        f"{info}/RECORD,,",
    ]
    assert tree.files[libraries].executable and tree.files["python/bin/tool"].executable


def test_all_wheels_have_a_pinned_version(tmp_path):
    from sources import pinned, wheel_file
    from wheels import CUDA, FULL_CUDA, PACKAGES

    wheels = pinned(PACKAGES + CUDA + FULL_CUDA)
    assert "nnabla==1.39.0" in wheels and "nvidia-cudnn-cu12==8.9.7.29" in wheels
    assert pinned(["any==1"]) == ["any==1"]
    with pytest.raises(SystemExit, match="unknown-name has no version"):
        pinned(["unknown-name"])
    (tmp_path / "nvidia_cudnn_cu12-8.9.7.29-py3-none-manylinux1_x86_64.whl").touch()
    assert wheel_file("nvidia-cudnn-cu12==8.9.7.29", tmp_path).suffix == ".whl"
    assert wheel_file("nvidia-cudnn-cu12==8.9.7", tmp_path) is None
