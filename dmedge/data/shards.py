"""WebDataset shards, local or remote, read at random through an index of their tar headers."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from dmedge.data.addresses import expand_addresses, read_bytes
from dmedge.data.annotations import shared, usable_texts
from dmedge.data.pictures import BadRecords
from dmedge.data.records import DatasetConfig, Record
from dmedge.data.shard_index import Sample, ShardIndex, index_shard
from dmedge.errors import DataError


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file and the samples in it that can be used."""

    address: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class ShardDataset:
    """The samples of all shards, in their order; each picture is one read at a known place."""

    name: str
    shards: tuple[Shard, ...]
    starts: tuple[int, ...]  # [shards + 1] number of the first record of each shard, and of all
    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Record:
        """One record, with the bytes of its picture.

        Raises:
            DataError: the shard cannot be read, or is shorter than it was.
        """
        place = range(len(self))[index]  # a negative one counts from the end
        number = bisect_right(self.starts, place) - 1
        shard = self.shards[number]
        sample = shard.samples[place - self.starts[number]]
        image = read_bytes(shard.address, sample.offset, sample.size)
        key = f"{_stem(shard.address)}/{sample.key}"
        return Record(key, image, sample.texts, sample.languages, () if sample.label is None else (sample.label,))

    def text_languages(self) -> tuple[tuple[str, ...], ...]:
        """Languages of the texts of every record."""
        return tuple(sample.languages for shard in self.shards for sample in shard.samples)

    def groups(self) -> list[tuple[int, int]]:
        """First record, and one after the last, of every shard: records that are quick to read together."""
        return list(zip(self.starts, self.starts[1:], strict=False))


def read_shards(config: DatasetConfig) -> ShardDataset:
    """One record for every sample with a picture and a text.

    `path` is the address of uncompressed tar files: a local path or any address that fsspec opens, with
    braces such as {000..127} or {a,b}, and *. A sample is the members whose names are equal up to the
    first dot: .jpg, .jpeg, .png or .webp; .txt, or .json with caption or text, and language; and .cls.
    The first use of a shard scans its headers; later ones find them in the cache folder.

    Raises:
        DataError: there is no such shard, one is damaged, or too many samples cannot be used.
        DmedgeError: an address other than a local path needs fsspec.
    """
    addresses = expand_addresses(config.path)
    bad = BadRecords(config.max_bad_share, config.path)
    shards = tuple(shard for shard in (_shard(address, config, bad) for address in addresses) if shard.samples)
    bad.finish()
    if not shards:
        raise DataError(
            f"{config.path}: no sample with a picture and a text in {len(addresses)} shards; expected members such as "
            "000000.jpg and 000000.txt; check the shards"
        )
    labels = [sample.label for shard in shards for sample in shard.samples if sample.label is not None]
    return ShardDataset(
        name=f"webdataset/{_stem(addresses[0])}",
        shards=shards,
        starts=tuple(accumulate((len(shard.samples) for shard in shards), initial=0)),
        labels=tuple(map(str, range(max(labels) + 1))) if labels else (),
    )


def _shard(address: str, config: DatasetConfig, bad: BadRecords) -> Shard:
    index: ShardIndex = index_shard(address)
    bad.saw(len(index.bad))
    for key, reason in index.bad:
        bad.add(f"{_stem(address)}/{key}", reason)
    samples = []
    for sample in index.samples:
        name = f"{_stem(address)}/{sample.key}"
        texts, languages = usable_texts(name, sample.texts, sample.languages, config.language, bad)
        if texts:
            samples.append(Sample(sample.key, sample.offset, sample.size, texts, shared(languages), sample.label))
    return Shard(address, tuple(samples))


def _stem(address: str) -> str:
    return address.rstrip("/").rsplit("/", 1)[-1].removesuffix(".tar")
