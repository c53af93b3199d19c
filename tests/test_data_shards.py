"""WebDataset shards: what is written is read back, remote or local; damage is told; the index is made once."""

import gzip
import io
import json
import logging
import os
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dmedge.data import shard_index
from dmedge.data.addresses import expand_addresses, read_bytes
from dmedge.data.pictures import open_record_image
from dmedge.data.records import DatasetConfig, Record
from dmedge.data.shards import ShardDataset, read_shards
from dmedge.errors import DataError, DmedgeError
from tests.tiny_datasets import SAMPLES, jpeg, members_of, write_shards, write_tar

BLOCK = 512  # bytes of a tar block


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dmedge" / "shards"


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty file system of fsspec that is in memory, as far from a local path as it gets without a network."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def config(path: object, **settings: Any) -> DatasetConfig:
    return DatasetConfig(path=str(path), **settings)


def records(data: ShardDataset) -> list[Record]:
    return [data[index] for index in range(len(data))]


def check_samples(data: ShardDataset) -> None:
    """The data set holds SAMPLES, in order."""
    assert [record.key for record in records(data)] == [
        "train-000/000",
        "train-000/001",
        "train-000/002",
        "train-001/000",
        "train-001/part/001",
    ]
    assert [record.texts for record in records(data)] == [
        ("a red square",),
        ("ein Quadrat", "a square"),
        ("un carré rouge",),
        ("四角",),
        ("the last one",),
    ]
    assert data.text_languages() == (("en",), ("de", "en"), ("fr",), ("en",), ("en",))
    assert [record.image for record in records(data)] == [jpeg(number) for number in (0, 1, 2, 10, 11)]
    assert [record.labels for record in records(data)] == [(1,), (0,), (), (2,), ()]
    assert data.labels == ("0", "1", "2")


def test_shards_give_back_what_was_written(tmp_path: Path) -> None:
    check_samples(read_shards(config(write_shards(tmp_path) / "train-{000..001}.tar")))


def test_records_are_read_in_any_order_and_from_the_end(tmp_path: Path) -> None:
    data = read_shards(config(write_shards(tmp_path) / "train-*.tar"))
    assert [data[index] for index in (4, 0, 3, -1, -5)] == [records(data)[index] for index in (4, 0, 3, 4, 0)]
    with pytest.raises(IndexError):
        data[5]


def test_groups_are_the_records_of_each_shard(tmp_path: Path) -> None:
    data = read_shards(config(write_shards(tmp_path) / "train-*.tar"))
    assert data.groups() == [(0, 3), (3, 5)]
    for start, stop in data.groups():
        assert len({data[index].key.split("/")[0] for index in range(start, stop)}) == 1


def test_remote_shards_equal_local_ones(tmp_path: Path, memory: Any) -> None:
    local = read_shards(config(write_shards(tmp_path) / "train-*.tar"))
    for path in tmp_path.glob("*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    for address in ("memory://bucket/train-{000..001}.tar", "memory://bucket/train-*.tar"):
        remote = read_shards(config(address))
        check_samples(remote)
        assert records(remote) == records(local)
        assert remote.groups() == local.groups()


def test_a_file_address_is_a_local_path(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    check_samples(read_shards(config(f"file://{write_shards(tmp_path)}/train-*.tar")))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_header(form: int, tmp_path: Path) -> None:
    name = "long/" * 40 + "画像"  # takes a second header
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        if form == tarfile.USTAR_FORMAT:
            name = "画像"
        archive.addfile(folder := tarfile.TarInfo("long"))
        folder.type = tarfile.DIRTYPE
        for suffix, content in ((".JPG", jpeg(3)), (".txt", b"\xef\xbb\xbfa text\n")):
            header = tarfile.TarInfo(f"./{name}{suffix}")
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    data = read_shards(config(tmp_path / "a.tar"))
    assert records(data) == [Record(f"a/{name}", jpeg(3), ("a text",), ("en",))]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp"])
def test_pictures_of_every_suffix(suffix: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, "JPEG" if suffix in ("jpg", "jpeg") else suffix)
    write_tar(tmp_path / "a.tar", members_of({"key": "0", "txt": "x"}, stream.getvalue(), suffix))
    image = read_shards(config(tmp_path / "a.tar"))[0].image
    assert image == stream.getvalue() and open_record_image(image, 1).size == (3, 2)


# Samples that cannot be used


def test_bad_samples_are_skipped_and_counted_from_the_cache_as_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("good.jpg", jpeg()),
            ("good.txt", b"good"),
            ("lonely.txt", b"no picture"),
            ("silent.jpg", jpeg()),
            ("empty.jpg", jpeg()),
            ("empty.txt", b" \n"),
            ("latin.jpg", jpeg()),
            ("latin.txt", b"caf\xe9"),
            ("broken.jpg", jpeg()),
            ("broken.json", b'{"caption": '),
            ("list.jpg", jpeg()),
            ("list.json", b"[]"),
            ("twice.jpg", jpeg()),
            ("twice.jpg", jpeg()),
            ("class.jpg", jpeg()),
            ("class.cls", b"cat"),
            (".hidden.jpg", b"not a sample"),
            ("README", b"not a sample"),
        ],
    )
    expected = (
        "8 of 9 records cannot be used: 2 empty text (first: a/silent), 1 no picture (first: a/lonely), "
        "1 json cannot be read (first: a/broken), 1 json is no object (first: a/list), "
        "1 two members of one name (first: a/twice), 1 cls is no class number (first: a/class), "
        "1 text is not UTF-8 (first: a/latin)"
    )
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="dmedge"):
            data = read_shards(config(tmp_path / "a.tar", max_bad_share=0.9))
        assert [record.key for record in records(data)] == ["a/good"]
        counted = caplog.messages[-1]
        assert sorted(counted.split(": ", 2)[2].split(", ")) == sorted(expected.split(": ", 1)[1].split(", "))
        with pytest.raises(DataError, match="8 of 9 records cannot be used: .*; expected at most 0.1 of them"):
            read_shards(config(tmp_path / "a.tar", max_bad_share=0.1))


def test_shards_without_samples_are_refused_and_empty_ones_left_out(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000.tar", [])
    with pytest.raises(DataError, match="no sample with a picture and a text in 1 shards; expected members such as"):
        read_shards(config(tmp_path / "train-000.tar"))
    write_tar(tmp_path / "train-001.tar", members_of(SAMPLES[0], jpeg()))
    data = read_shards(config(tmp_path / "train-*.tar"))
    assert data.groups() == [(0, 1)]
    assert data[0].key == "train-001/000"


# Damage


def shard_of_many(folder: Path) -> Path:
    samples = [{"key": f"{number:03d}", "txt": f"text {number}"} for number in range(20)]
    members = [member for number, sample in enumerate(samples) for member in members_of(sample, jpeg(number))]
    return write_tar(folder / "many.tar", members)


@pytest.mark.parametrize("cut", [7 * BLOCK + 100, 9 * BLOCK, 3 * BLOCK + 200, 100, 0])
def test_a_shard_that_was_cut_short_is_an_error(cut: int, tmp_path: Path) -> None:
    path = shard_of_many(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"many.tar: (cannot be read as a tar file|damaged or cut short at byte)"):
        read_shards(config(path))


def test_a_shard_cut_between_two_members_is_an_error(tmp_path: Path) -> None:
    path = shard_of_many(tmp_path)
    with tarfile.open(path) as archive:
        boundary = archive.getmembers()[6].offset
    path.write_bytes(path.read_bytes()[:boundary])
    with pytest.raises(DataError, match=f"many.tar: damaged or cut short at byte {boundary}; .*; fetch the shard"):
        read_shards(config(path))


def test_a_shard_with_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    path = shard_of_many(tmp_path)
    with tarfile.open(path) as archive:
        header = archive.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    content[header] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"damaged or cut short at byte {header}"):
        read_shards(config(path))


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(shard_of_many(tmp_path).read_bytes()))
    with pytest.raises(DataError, match="a.tar.gz: cannot be read as a tar file .*uncompressed one; unpack it"):
        read_shards(config(path))


def test_a_shard_that_shrinks_while_it_is_used_is_an_error(tmp_path: Path) -> None:
    path = shard_of_many(tmp_path)
    data = read_shards(config(path))
    path.write_bytes(path.read_bytes()[: 9 * BLOCK])
    assert data[0].texts == ("text 0",)
    with pytest.raises(DataError, match="0 bytes at .*; expected .*; the file was cut short"):
        data[19]


def test_missing_shards_are_named(tmp_path: Path, memory: Any) -> None:
    write_shards(tmp_path)
    with pytest.raises(DataError, match="train-002.tar: cannot be read .*check the address"):
        read_shards(config(tmp_path / "train-{000..002}.tar"))
    with pytest.raises(DataError, match=r"test-\*.tar: no such file; expected tar files; set path"):
        read_shards(config(tmp_path / "test-*.tar"))
    with pytest.raises(DataError, match="memory://nothing/a.tar: cannot be read"):
        read_shards(config("memory://nothing/a.tar"))
    with pytest.raises(DataError, match="nonsense://a.tar: cannot be read .*Protocol not known"):
        read_shards(config("nonsense://a.tar"))


# The index


def test_the_index_is_made_once_for_each_content(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = shard_index._scan

    def counted(address: str) -> shard_index.ShardIndex:
        scanned.append(address)
        return scan(address)

    monkeypatch.setattr(shard_index, "_scan", counted)
    shards = config(write_shards(tmp_path) / "train-*.tar")
    first = records(read_shards(shards))
    assert len(scanned) == len(list(cache.glob("*.json"))) == 2
    assert records(read_shards(shards)) == first
    assert len(scanned) == 2
    write_tar(tmp_path / "train-001.tar", members_of({"key": "000", "txt": "another"}, jpeg(7)))
    path = tmp_path / "train-001.tar"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # whatever the clock of the file system
    changed = records(read_shards(shards))
    assert len(scanned) == 3
    assert changed[:3] == first[:3] and changed[3].texts == ("another",)


def test_a_damaged_index_is_made_again(tmp_path: Path, cache: Path) -> None:
    shards = config(write_shards(tmp_path) / "train-*.tar")
    first = records(read_shards(shards))
    for content in (b"", b"{", b"[]", b'{"samples": [[1]], "bad": []}', b"\xff"):
        for path in cache.iterdir():
            path.write_bytes(content)
        assert records(read_shards(shards)) == first
    assert all(json.loads(path.read_bytes())["samples"] for path in cache.iterdir())
    assert not list(cache.glob("*.part"))


def test_a_cache_folder_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="dmedge"):
        check_samples(read_shards(config(write_shards(tmp_path) / "train-*.tar")))
    assert "the shard is scanned again next time" in caplog.text


def test_the_language_of_the_recipe_is_not_kept_in_the_index(tmp_path: Path) -> None:
    shards = config(write_shards(tmp_path) / "train-*.tar")
    read_shards(shards)
    assert read_shards(replace(shards, language="sw")).text_languages()[3:] == (("sw",), ("sw",))


# Addresses


@pytest.mark.parametrize(
    ("pattern", "addresses"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("s3://b/{x,y}-{0..1}.tar", ["s3://b/x-0.tar", "s3://b/x-1.tar", "s3://b/y-0.tar", "s3://b/y-1.tar"]),
        ("simplecache::https://h/{00..01}.tar", ["simplecache::https://h/00.tar", "simplecache::https://h/01.tar"]),
    ],
    ids=["one", "range", "two", "chained"],
)
def test_braces(pattern: str, addresses: list[str]) -> None:
    assert expand_addresses(pattern) == addresses


def test_a_star_in_a_chained_address_is_refused() -> None:
    with pytest.raises(DataError, match=r"\* in a chained address; expected braces such as \{000..127\}"):
        expand_addresses("simplecache::memory://x/*.tar")


def test_only_the_bytes_asked_for_are_read(memory: Any) -> None:
    memory.pipe("/bucket/a.bin", b"0123456789")
    assert read_bytes("memory://bucket/a.bin", 3, 4) == b"3456"
    with pytest.raises(DataError, match="2 bytes at 8; expected 4"):
        read_bytes("memory://bucket/a.bin", 8, 4)


def test_remote_shards_need_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(DmedgeError, match=r"pip install 'dmedge\[data\]'"):
        read_shards(config("memory://bucket/a.tar"))
