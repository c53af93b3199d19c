"""Readers of the original files, the evaluation set made of them, and what happens to records that cannot be used."""

import io
import json
import logging
import pickle
import shutil
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dmedge.data.evalset import dataset_evalset, folder_evalset
from dmedge.data.pictures import BadRecords, check_record_image, open_record_image
from dmedge.data.readers import FORMATS, read_dataset
from dmedge.data.records import Dataset, DatasetConfig, Record
from dmedge.errors import DataError, DmedgeError
from tests.tiny_datasets import FIXTURES, jpeg, write_dataset


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def records(data: Dataset) -> list[Record]:
    return [data[index] for index in range(len(data))]


def texts(data: Dataset) -> list[tuple[str, ...]]:
    return [record.texts for record in records(data)]


# What holds for every format


@pytest.mark.parametrize("format", FORMATS)
def test_reading_twice_gives_the_same_records_in_the_same_order(format: str, tmp_path: Path) -> None:
    config = write_dataset(format, tmp_path / "data")
    first, second = read_dataset(format, config), read_dataset(format, config)
    assert records(first) == records(second)
    assert (first.name, first.labels, first.answers) == (second.name, second.labels, second.answers)
    assert len({record.key for record in records(first)}) == len(first) > 0


@pytest.mark.parametrize("format", FORMATS)
def test_every_record_has_a_picture_texts_languages_and_known_labels(format: str, tmp_path: Path) -> None:
    data = read_dataset(format, write_dataset(format, tmp_path / "data"))
    assert data.text_languages() == tuple(record.languages for record in records(data))
    for record in records(data):
        assert open_record_image(record.image, 1).size == (6, 4)
        assert len(record.texts) == len(record.languages) > 0
        assert all(text == text.strip() != "" for text in record.texts)
        assert list(record.labels) == sorted(set(record.labels))
        assert all(0 <= label < len(data.labels) for label in record.labels)


@pytest.mark.parametrize("format", FORMATS)
def test_a_dataset_goes_to_another_process_unchanged(format: str, tmp_path: Path) -> None:
    data = read_dataset(format, write_dataset(format, tmp_path / "data"))
    assert records(pickle.loads(pickle.dumps(data))) == records(data)


@pytest.mark.parametrize("format", FORMATS)
def test_the_evaluation_set_has_the_texts_of_the_records(format: str, tmp_path: Path) -> None:
    data = read_dataset(format, write_dataset(format, tmp_path / "data"))
    evaluation = dataset_evalset(data)
    assert evaluation.clusters == tuple(record.key for record in records(data))
    assert evaluation.texts == tuple(text for record in records(data) for text in record.texts)
    owners = [row for row, record in enumerate(records(data)) for _ in record.texts]
    assert evaluation.text_image.tolist() == owners
    assert evaluation.languages == tuple(tag for tags in data.text_languages() for tag in tags)
    assert [image.size for image in evaluation.images[1:]] == [(6, 4)] * (len(data) - 1)


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_path_is_named(format: str, tmp_path: Path) -> None:
    config = DatasetConfig(path=str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="nothing"):
        read_dataset(format, config)


# The formats


def test_coco_has_captions_and_the_classes_that_occur(tmp_path: Path) -> None:
    data = read_dataset("coco", write_dataset("coco", tmp_path / "coco"))
    assert data.name == "coco/train2017"
    assert [record.key for record in records(data)] == ["30", "9", "25", "34"]  # the order of the images
    assert data[1].texts == ("A bowl with fruit on a table.", "Some oranges beside a cup.")
    assert data[0].image == tmp_path / "coco/images/train2017/000000000030.jpg"
    # by category id; image 9 has 55, 51 and 55 again, image 30 has none
    assert data.labels == ("zebra", "giraffe", "bowl", "orange", "vase")
    assert [record.labels for record in records(data)] == [(), (2, 3), (1,), (0,)]


def test_coco_split_picks_file_and_folder(tmp_path: Path) -> None:
    config = write_dataset("coco", tmp_path / "coco", split="val", images=str(tmp_path / "coco" / "images"))
    data = read_dataset("coco", config)
    assert texts(data) == [("A room with a chair.",)]
    assert data[0].image == tmp_path / "coco/images/val2017/000000000139.jpg"
    assert data.labels == ()  # there is no instances_val2017.json
    with pytest.raises(DataError, match="none of captions_test2017.json, .*; expected captions_test2017.json there"):
        read_dataset("coco", replace(config, split="test"))


def test_a_missing_folder_of_pictures_is_named_with_all_places_tried(tmp_path: Path) -> None:
    config = write_dataset("coco", tmp_path / "coco")
    shutil.rmtree(tmp_path / "coco" / "images")
    with pytest.raises(DataError, match="no folder with the pictures at .*coco/train2017.*; set images"):
        read_dataset("coco", config)
    (tmp_path / "coco" / "train2017").mkdir()
    with pytest.raises(DataError, match="none of the first 4 pictures that captions_train2017.json names, such as"):
        read_dataset("coco", config)


def test_another_json_file_is_refused(tmp_path: Path) -> None:
    config = write_dataset("coco", tmp_path / "coco")
    path = tmp_path / "coco" / "annotations" / "captions_train2017.json"
    for content, match in (
        ('{"images": []}', "no list 'annotations' among images; expected the original file"),
        ("[1, 2]", "a list; expected a JSON object"),
        ('{"images": [', "cannot be read .*; expected JSON"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=match):
            read_dataset("coco", config)


def test_flickr30k_takes_the_karpathy_split(tmp_path: Path) -> None:
    config = write_dataset("flickr30k", tmp_path / "flickr")
    data = read_dataset("flickr30k", config)
    assert [record.key for record in records(data)] == ["1000092795.jpg", "10002456.jpg"]
    assert data[0].texts == ("Two young men look at their hands.", "Two friends stand in a yard.")
    assert data[0].languages == ("en", "en")
    assert [len(read_dataset("flickr30k", replace(config, split=split))) for split in ("val", "test")] == [1, 1]
    with pytest.raises(DataError, match="no split 'vall'; did you mean 'val'?"):
        read_dataset("flickr30k", replace(config, split="vall"))


def test_crossmodal_has_all_languages_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = read_dataset("xm3600", write_dataset("xm3600", tmp_path / "xm"))
    assert [record.key for record in records(data)] == ["000411001ff7dd4f", "00041ea5e4ff2ab9", "0009cd0e8a1ac9b1"]
    assert data[0].texts == ("قطة على كرسي", "A cat on a chair", "A grey cat sits", "Misi tiyanapi", "椅子上的猫")
    assert data[0].languages == ("ar", "en", "en", "qu", "zh")  # quz is a Quechua
    assert data[1].languages == ("de", "de", "en", "he")  # iw is the old code of he
    assert data[0].image == tmp_path / "xm/images/000411001ff7dd4f.jpg"


def test_table_joins_the_rows_of_a_picture(tmp_path: Path) -> None:
    data = read_dataset("table", write_dataset("table", tmp_path / "pets"))
    assert [record.key for record in records(data)] == ["cats/a.jpg", "b.jpg", "c.jpg"]
    assert data[0].texts == ("A grey cat", "Eine graue Katze")
    assert data[1].texts == ("Ein Hund im Schnee", 'A dog says "woof"')
    assert data.text_languages() == (("en", "de"), ("de", "en"), ("en",))
    assert data.labels == ("bird", "cat", "dog")
    assert [record.labels for record in records(data)] == [(1,), (2,), (0,)]


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_all_kinds_of_tables_give_the_same_records(suffix: str, tmp_path: Path) -> None:
    config = write_dataset("table", tmp_path / "pets")
    path = tmp_path / "pets" / f"same.{suffix}"
    if suffix == "parquet":
        write_parquet(path)
    assert records(read_dataset("table", replace(config, path=str(path)))) == records(read_dataset("table", config))


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    table = csv.read_csv(FIXTURES / "table" / "train.csv")
    parquet.write_table(table.append_column("more", pyarrow.array(range(len(table)))), path)


def test_lists_in_a_table_are_several_texts_and_labels(tmp_path: Path) -> None:
    config = write_dataset("table", tmp_path / "pets")
    data = read_dataset("table", replace(config, path=str(tmp_path / "pets" / "lists.jsonl")))
    assert texts(data) == [("A grey cat", "Eine graue Katze"), ("Ein Hund im Schnee",)]
    assert data.text_languages() == (("en", "de"), ("de",))
    assert data.labels == ("cat", "dog", "snow")
    assert [record.labels for record in records(data)] == [(0,), (1, 2)]


def test_a_table_without_a_column_lists_those_it_has(tmp_path: Path) -> None:
    config = write_dataset("table", tmp_path / "pets")
    (tmp_path / "pets" / "train.csv").write_text("image,caption\nb.jpg,a dog\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column text among image, caption; expected image, text; rename"):
        read_dataset("table", config)


def test_the_folder_that_is_evaluated_can_be_trained_on(tmp_path: Path) -> None:
    config = write_dataset("folder", tmp_path / "pets")
    data, evaluation = read_dataset("folder", config), folder_evalset(tmp_path / "pets")
    assert tuple(record.key for record in records(data)) == evaluation.clusters
    assert sorted(text for found in texts(data) for text in found) == sorted(evaluation.texts)
    assert data.name == evaluation.name == "folder/pets"


def test_hub_columns_are_guessed_by_type_and_name(tmp_path: Path) -> None:
    config = write_dataset("huggingface", tmp_path / "hub")
    data = read_dataset("huggingface", config)
    assert texts(data) == [("eine Katze", "noch eine"), ("a dog",), ("kato",)]  # one caption is empty
    assert data.text_languages() == (("de", "de"), ("en",), ("eo",))
    assert data.labels == ("cat", "dog")
    assert [record.labels for record in records(data)] == [(0,), (1,), (0,)]
    assert data[0].image == jpeg(0)
    assert texts(read_dataset("huggingface", replace(config, split="validation"))) == [("a dog",)]
    with pytest.raises(DataError, match="no split 'valid'; did you mean 'validation'?"):
        read_dataset("huggingface", replace(config, split="valid"))


@pytest.mark.parametrize(
    ("renamed", "match"),
    [
        ({"image": "image", "caption": "one", "url": "two"}, r"2 columns may hold the text among .*one \(List\), two"),
        ({"label": "image"}, "0 columns may hold the picture among .*expected one, or one called image"),
    ],
    ids=["two texts", "no picture"],
)
def test_hub_columns_that_cannot_be_guessed_are_listed(renamed: dict[str, str], match: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_dataset("huggingface", tmp_path / "hub")
    rows = datasets.load_from_disk(str(tmp_path / "hub"))["train"]
    if "image" not in renamed:
        rows = rows.remove_columns("image")
    rows.rename_columns(renamed).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match=match):
        read_dataset("huggingface", DatasetConfig(path=str(tmp_path / "other")))


# What the user may get wrong


def test_an_unknown_format_gets_a_hint() -> None:
    with pytest.raises(DataError, match="no data format 'coko'; did you mean 'coco'?"):
        read_dataset("coko", DatasetConfig(path="x"))


def test_a_format_needs_a_path_and_a_known_language(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data 'coco' has no path; expected a folder"):
        read_dataset("coco", DatasetConfig())
    with pytest.raises(DataError, match="unknown language 'klingon'"):
        read_dataset("coco", DatasetConfig(path=str(tmp_path), language="klingon"))


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DmedgeError, match=r"cannot import datasets .*pip install 'dmedge\[data\]'"):
        read_dataset("huggingface", DatasetConfig(path=str(tmp_path)))


# Records that cannot be used: annotations


def bad_captions(folder: Path, *rows: bytes, share: float = 1.0) -> Dataset:
    config = write_dataset("table", folder, max_bad_share=share)
    path = folder / "train.csv"
    path.write_bytes(path.read_bytes() + b"".join(row + b"\n" for row in rows))
    return read_dataset("table", config)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"c.jpg,  ,en,bird", "empty text"),
        (b"c.jpg,caf\xe9,fr,bird", "text is not UTF-8"),
        (b"c.jpg,a bird,xx-9,bird", "unknown language"),
        (b",a bird,en,bird", "no name of a picture"),
    ],
    ids=["empty", "encoding", "language", "no picture"],
)
def test_a_caption_that_cannot_be_used_is_named_and_skipped(
    row: bytes, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = read_dataset("table", write_dataset("table", tmp_path / "good"))
    with caplog.at_level(logging.WARNING, logger="dmedge"):
        data = bad_captions(tmp_path / "bad", row, row)
    assert texts(data) == texts(good)
    assert "skipped row 6" in caplog.text
    assert f"2 of 7 records cannot be used: 2 {reason} (first: row 6" in caplog.text
    with pytest.raises(DataError, match=f"2 of 7 records cannot be used: 2 {reason} .*expected at most 0.2 of them"):
        bad_captions(tmp_path / "share", row, row, share=0.2)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_wrong_encoding_costs_one_row_of_every_kind_of_table(suffix: str, tmp_path: Path) -> None:
    config = write_dataset("table", tmp_path / "pets", max_bad_share=0.5)
    path = tmp_path / "pets" / f"bad.{suffix}"
    if suffix == "jsonl":
        path.write_bytes(b'{"image": "b.jpg", "text": "caf\xe9"}\n\n{"image": "c.jpg", "text": "a bird"}\n')
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        cells = pyarrow.array([b"caf\xe9", b"a bird"], pyarrow.binary()).view(pyarrow.string())
        parquet.write_table(pyarrow.table({"image": ["b.jpg", "c.jpg"], "text": cells}), path)
    assert texts(read_dataset("table", replace(config, path=str(path)))) == [("a bird",)]


@pytest.mark.parametrize("format", ["coco", "flickr30k", "vqa", "xm3600"])
def test_wrong_encoding_in_original_files_is_a_bad_record(format: str, tmp_path: Path) -> None:
    config = write_dataset(format, tmp_path / "data", max_bad_share=0.5)
    path, word, where = {
        "coco": ("annotations/captions_train2017.json", b"oranges", (1, 1)),
        "flickr30k": ("dataset_flickr30k.json", b"Two friends", (0, 1)),
        "vqa": ("v2_OpenEnded_mscoco_train2014_questions.json", b"What color", (2, 0)),
        "xm3600": ("captions.jsonl", b'A boat"]', (2, 0)),
    }[format]
    good = read_dataset(format, config)
    content = (tmp_path / "data" / path).read_bytes()
    assert word in content
    (tmp_path / "data" / path).write_bytes(content.replace(word, b"\xff" + word[1:], 1))
    expected = [list(found) for found in texts(good)]
    del expected[where[0]][where[1]]
    bad = read_dataset(format, config)
    assert texts(bad) == [tuple(found) for found in expected if found]
    with pytest.raises(DataError, match="1 text is not UTF-8 .*; expected at most 0 of them"):
        read_dataset(format, replace(config, max_bad_share=0.0))


def test_a_broken_line_of_jsonl_is_a_bad_record(tmp_path: Path) -> None:
    config = write_dataset("xm3600", tmp_path / "xm", max_bad_share=0.5)
    path = tmp_path / "xm" / "captions.jsonl"
    good = texts(read_dataset("xm3600", config))
    path.write_bytes(b'{"image/key": \n[1]\n{"en": {"caption": ["no key"]}}\n' + path.read_bytes())
    assert texts(read_dataset("xm3600", config)) == good
    with pytest.raises(DataError, match=r"2 no JSON object \(first: line 1\), 1 no image/key \(first: line 3\)"):
        read_dataset("xm3600", replace(config, max_bad_share=0.1))


def test_a_dataset_without_usable_records_is_refused(tmp_path: Path) -> None:
    config = write_dataset("table", tmp_path / "pets", max_bad_share=1.0)
    (tmp_path / "pets" / "train.csv").write_text("image,text\nb.jpg,\n", encoding="utf-8")
    with pytest.raises(DataError, match="table/train: no record with a picture and a text"):
        read_dataset("table", config)


# Records that cannot be used: pictures


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG of that size: no pixels follow, so nothing could be decoded."""
    ihdr = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", ihdr), (b"IDAT", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def noise_jpeg(size: int = 64) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((size, size), 80).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize("open_image", [open_record_image, check_record_image])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (png_header(10_000, 10_000), r"too many pixels \(.*10000 x 10000 = 100 megapixels\); expected at most 64 mega"),
        (png_header(40_000, 40_000), r"too many pixels \(.*\); expected at most 64 megapixels; scale it down"),
        (noise_jpeg()[:-500], r"broken picture \(.*truncated"),
        (b"\xff\xd8\xff" + bytes(100), "broken picture"),
        (b"no picture at all", "broken picture"),
        (b"", "(broken|missing) picture"),
    ],
    ids=["100 megapixels", "1600 megapixels", "cut short", "garbage JPEG", "text", "empty"],
)
@pytest.mark.parametrize("from_file", [False, True], ids=["bytes", "file"])
def test_a_picture_that_cannot_be_used(
    from_file: bool, content: bytes, match: str, open_image: Any, tmp_path: Path
) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        open_image(path if from_file else content, 64.0)


def test_a_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing picture \(.*gone.jpg\); expected a file; restore it"):
        open_record_image(tmp_path / "gone.jpg", 64.0)


def test_a_picture_of_exactly_the_limit_is_opened_whatever_pillow_warns_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # it warns above, and refuses above twice as many
    assert open_record_image(noise_jpeg(64), 64 * 64 / 1e6).size == (64, 64)
    with pytest.raises(DataError, match="too many pixels"):
        open_record_image(noise_jpeg(64), 64 * 63 / 1e6)


def spoil(folder: Path, how: str) -> None:
    """Make the picture of the first record unusable."""
    path = folder / "images" / "train2017" / "000000000030.jpg"
    if how == "missing picture":
        path.unlink()
    else:
        path.write_bytes(png_header(10_000, 10_000) if how == "too many pixels" else noise_jpeg()[:300])


KINDS = ["missing picture", "broken picture", "too many pixels"]


@pytest.mark.parametrize("how", KINDS)
def test_the_evaluation_set_leaves_out_what_cannot_be_read(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_dataset("coco", tmp_path / "coco")
    spoil(tmp_path / "coco", how)
    with caplog.at_level(logging.WARNING, logger="dmedge"):
        evaluation = dataset_evalset(read_dataset("coco", config))
    assert evaluation.clusters == ("9", "25", "34")
    assert len(evaluation.images) == 3 and evaluation.text_image.tolist() == [0, 0, 1, 1, 2, 2]
    assert f"coco/train2017: 1 of 4 records cannot be used: 1 {how} (first: record 0)" in caplog.text


def test_an_evaluation_set_without_pictures_is_refused(tmp_path: Path) -> None:
    data = read_dataset("coco", write_dataset("coco", tmp_path / "coco"))
    shutil.rmtree(tmp_path / "coco" / "images")
    with pytest.raises(DataError, match="4 of 4 records cannot be used: 4 missing picture"):
        dataset_evalset(data)


def pass_over(data: Dataset, bad: BadRecords, passes: int) -> int:
    """What a training loop does: open every picture, again and again; returns how many were good."""
    good = 0
    for index in list(range(len(data))) * passes:
        record = data[index]
        bad.saw()
        try:
            open_record_image(record.image, 64.0)
            good += 1
        except DataError as error:
            bad.add(record.key, str(error))
    return good


@pytest.mark.parametrize("how", KINDS)
def test_training_goes_on_up_to_the_share_and_stops_above_it(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = read_dataset("coco", write_dataset("coco", tmp_path / "coco"))
    spoil(tmp_path / "coco", how)  # one record of four
    bad = BadRecords(0.25, "coco")
    with caplog.at_level(logging.WARNING, logger="dmedge"):
        assert pass_over(data, bad, passes=50) == 150
    assert (bad.seen, bad.bad, bad.reasons) == (200, 50, {how: 50})
    assert caplog.text.count("skipped 30") == 1  # the first of its kind is named, the others are counted
    bad.finish()  # 50 of 200 are not more than a quarter
    bad = BadRecords(0.1, "coco")
    with pytest.raises(DataError, match=rf"coco: 26 of 101 .* 26 {how} \(first: 30\); expected at most 0.1 of them"):
        pass_over(data, bad, passes=50)


def test_bad_records_wait_for_enough_records_unless_none_may_be_bad() -> None:
    bad = BadRecords(0.5, "data", minimum=10)
    for number in range(9):
        bad.saw()
        bad.add(f"record {number}", "broken picture (whatever)")
    bad.saw()
    with pytest.raises(DataError, match="data: 10 of 10 records cannot be used"):
        bad.add("record 9", "broken picture (something else); mend it")
    strict = BadRecords(0.0, "data")
    strict.saw()
    with pytest.raises(DataError, match="1 of 1 records cannot be used: 1 empty text"):
        strict.add("record 0", "empty text")


def test_chance_does_not_stop_a_run_but_the_end_counts() -> None:
    bad = BadRecords(0.01, "data")
    bad.saw(100)
    # expected 1 of 100, standard deviation (100 * 0.01 * 0.99)**0.5 = 0.995: three of them allow 3.98 bad records
    for number in range(3):
        bad.add(f"record {number}", "empty text")
    with pytest.raises(DataError, match="3 of 100 .*expected at most 0.01"):
        bad.finish()
    with pytest.raises(DataError, match="4 of 100 .*expected at most 0.01"):
        bad.add("record 3", "empty text")


def test_bad_records_at_the_end_count_however_few_were_seen() -> None:
    bad = BadRecords(0.5, "data")
    bad.saw(2)
    bad.add("a", "empty text")
    bad.finish()  # one of two is not more than half
    bad.add("b", "empty text")
    with pytest.raises(DataError, match="2 of 2"):
        bad.finish()


def test_fixtures_have_the_fields_of_the_original_files() -> None:
    image = json.loads((FIXTURES / "coco/annotations/captions_train2017.json").read_text("utf-8"))["images"][0]
    assert list(image) == ["license", "file_name", "coco_url", "height", "width", "date_captured", "flickr_url", "id"]
    row = json.loads((FIXTURES / "xm3600/captions.jsonl").read_text("utf-8").splitlines()[0])
    assert set(row["en"]) == {"caption", "caption/tokenized", "caption/tokenized/lowercase"}
