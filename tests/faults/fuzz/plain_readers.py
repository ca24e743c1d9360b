"""The readers that import no torch."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megabert.common import names
from megabert.config import flags
from megabert.config.training import PretrainSettings
from megabert.data.foreign.files import open_foreign
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.document_index import check_document_index, write_document_index
from megabert.data.shards.manifest import load_manifest
from megabert.data.text.input.sources import iter_pages
from megabert.data.tokenizers.load import load_tokenizer
from megabert.tasks.classification.glue import GLUE
from megabert.tasks.classification.tnews import Tnews
from megabert.tasks.files.feature_records import is_features_file, read_examples
from megabert.tasks.squad.reading import read_squad
from megabert.tasks.tagging.label_map import read_label_map
from tests.faults.fuzz import seals
from tests.faults.fuzz.mutations import BYTES, JSON, JSON_LINES, PICKLES, TEXT
from tests.faults.fuzz.reader import FuzzedReader, Sealed
from tests.helpers.foreign_shards import random_samples, write_fixed, write_tfrecord, write_variable
from tests.helpers.small_dump import article, pages_xml, write_vocabulary
from tests.helpers.sums import shard_with_sums

_FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
_SENTENCES = ["The town of place 1, founded in 1901.", "[MASK] é 中文", ""]


# ---------------------------------------------------------------- shards and settings


def _shards(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.copytree(_FIXTURES / "shards", folder, dirs_exist_ok=True)
        return folder / file

    return make


def _read_documents(path: Path) -> Corpus:
    load_manifest(path.parent)
    corpus = Corpus.open(path.parent, "train")
    for document in range(min(corpus.num_documents, 30)):
        corpus.sentence_starts(document)
        corpus.tokens(document)
        corpus.word_starts(document)
        corpus.document_id(document)
    assert len(corpus.document_ends) == corpus.num_documents
    return corpus


def _read_shards(path: Path) -> None:
    corpus = _read_documents(path)
    for shard in range(len(corpus.manifest.splits["train"].shards)):
        corpus._shards.file(shard).verify()


def _index(folder: Path) -> Path:
    _shards("")(folder)
    write_document_index(folder, load_manifest(folder))
    return folder / names.DOCUMENT_INDEX


def _index_with_sums(content: bytes) -> bytes:
    header, at = json.loads(content[:4096]), 4096
    for split, found in sorted(load_manifest(_FIXTURES / "shards").splits.items()):
        end = at + 4 * found.documents
        header["crc32"][split], at = zlib.crc32(content[at:end]), end
    return json.dumps(header).encode().ljust(4096) + content[4096:]


def _read_index(path: Path) -> None:
    _read_documents(path)  # the shards themselves are as they were written
    check_document_index(path.parent, load_manifest(path.parent))


def _run_config(folder: Path) -> Path:
    path = folder / "config.yaml"
    shutil.copy(_FIXTURES / "run_zero1_dp2" / "config.yaml", path)
    return path


def _read_run_config(path: Path) -> None:
    flags.parse(PretrainSettings, ["--config", str(path)], "pretrain", "")


def _file(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


# ---------------------------------------------------------------- tokenizers


def _vocabulary(folder: Path) -> Path:
    return write_vocabulary(folder / "vocab.txt")


def _tokenizer_file(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        load_tokenizer(_vocabulary(folder)).save(folder)
        return folder / name

    return make


def _unigram_json(folder: Path) -> Path:
    vocab: list[Any] = [
        ["[PAD]", 0.0],
        ["[UNK]", 0.0],
        ["[CLS]", 0.0],
        ["[SEP]", 0.0],
        ["[MASK]", 0.0],
    ]
    vocab += [
        [f"\u2581{word}", -1.0 - number]
        for number, word in enumerate(["the", "town", "of", "place", "a", "b", "c"])
    ]
    content = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, (name, _) in enumerate(vocab[:5])
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
        "post_processor": None,
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
        "model": {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": False},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


def _bpe_json(folder: Path) -> Path:
    letters = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        "th",
        "the",
    ]
    content = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 8,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "n"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "\\s+|\\w+"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
        },
        "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": False,
            "vocab": {word: number for number, word in enumerate(letters)},
            "merges": [["t", "h"], ["th", "e"]],
        },
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


def _read_tokenizer(path: Path) -> None:
    whole = (
        path.parent if path.name not in ("vocab.txt", "tokenizer.json", "spiece.model") else path
    )
    tokenizer = load_tokenizer(whole)
    for encoded in tokenizer.encode_sentences(_SENTENCES):
        tokenizer.decode(encoded.ids)
        tokenizer.tokens(encoded.ids)
    tokenizer.encode_batch(_SENTENCES)
    tokenizer.info()


_model: dict[str, bytes] = {}


def _sentencepiece(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if kind not in _model:
            import sentencepiece

            out = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([article(number) for number in range(40)]),
                model_writer=out,
                vocab_size=120,
                model_type=kind,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece="[PAD]",
                unk_piece="[UNK]",
                bos_piece="[CLS]",
                eos_piece="[SEP]",
                user_defined_symbols=["[MASK]"],
                hard_vocab_limit=False,
                num_threads=1,
                minloglevel=2,
            )
            _model[kind] = out.getvalue()
        path = folder / "spiece.model"
        path.write_bytes(_model[kind])
        return path

    return make


# ---------------------------------------------------------------- text

_XML = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">'
    "<siteinfo><sitename>Test</sitename><dbname>testwiki</dbname><namespaces>"
    '<namespace key="0" case="first-letter" /><namespace key="1">Talk</namespace>'
    f"</namespaces></siteinfo>{pages_xml(4)}</mediawiki>"
).encode()
_RECORDS = [
    {
        "id": number,
        "title": f"Place {number}",
        "text": f"The town {number} is old.\nIt has 3 {{bridges}}.",
    }
    for number in range(6)
]
_LINES = "\n".join(json.dumps(record) for record in _RECORDS) + "\n"


def _tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("a.xml", "b.xml"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _first_of_tar(content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile("a.xml")
        assert file is not None
        return file.read()


def _table(delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(_RECORDS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(_RECORDS)
    return out.getvalue()


def _parquet(folder: Path, rows: Sequence[dict[str, Any]] = _RECORDS) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _read_text(path: Path) -> None:
    for page in iter_pages(path):
        assert isinstance(page.text, str)


def _text(name: str, content: bytes | str, mutations: Any, **more: Any) -> FuzzedReader:
    return FuzzedReader(f"text {name}", _file(name, content), _read_text, mutations, **more)


def _packed(name: str, pack: Sealed, unpack: Sealed) -> FuzzedReader:
    return _text(name, pack(_XML), BYTES, unpack=unpack, pack=pack)


# ---------------------------------------------------------------- foreign shards


def _foreign(name: str, write: Callable[..., Path]) -> Callable[[Path], Path]:
    return lambda folder: write(folder / name, random_samples(4), 24)


def _read_foreign(path: Path) -> None:
    data = open_foreign([path])
    for file in data.files:
        for row in range(min(file.samples, 8)):
            file.length(row)
            file.read(row)
        file.close()


# ---------------------------------------------------------------- task files

_SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Place",
            "paragraphs": [
                {
                    "context": "Ann met Bob in the old town.",
                    "qas": [
                        {
                            "id": f"q{number}",
                            "question": "Who met Bob?",
                            "answers": [{"text": "Ann", "answer_start": 0}],
                            "is_impossible": False,
                        }
                        for number in range(3)
                    ],
                }
            ],
        }
    ],
}
_FLAT = {
    "id": "a",
    "context": "Ann met Bob.",
    "question": "Who?",
    "answers": {"text": ["Ann"], "answer_start": [0]},
}
_MRPC = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + "".join(
    f"{number % 2}\t{number}\t{number + 100}\tA town {number}.\tThe town, {number}.\n"
    for number in range(8)
)
_STSB = (
    "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    + "".join(
        f"{n}\tnews\tf\t2012\t{n}\tnone\tnone\tA man {n}.\tThe man {n}.\t{n / 2:.3f}\n"
        for n in range(8)
    )
)
_TNEWS = "".join(
    json.dumps({"label": str(100 + n % 3), "label_desc": f"news_{n % 3}", "sentence": f"标题 {n}"})
    + "\n"
    for n in range(8)
)
_FEATURES = "".join(
    json.dumps(
        {
            "input_ids": [2, n, 3],
            "input_mask": [1, 1, 1],
            "segment_ids": [0, 0, 0],
            "label_ids": [n],
        }
    )
    + "\n"
    for n in range(4)
)


def _glue(name: str) -> Callable[[Path], object]:
    return lambda path: GLUE[name].read(path, "error")


def _read_features(path: Path) -> None:
    if is_features_file(path):
        for _ in read_examples(path):
            pass


def _labels(folder: Path) -> Path:
    path = folder / "label2id.json"
    path.write_text(json.dumps({"O": 0, "B-LOC": 1, "I-LOC": 2, "[CLS]": 3}))
    return path


def _pickled_labels(folder: Path) -> Path:
    import pickle

    path = folder / "label2id.pkl"
    path.write_bytes(pickle.dumps({"O": 0, "B-LOC": 1, "I-LOC": 2, "[CLS]": 3}))
    return path


def _read_labels(path: Path) -> None:
    read_label_map(path.parent / "train.tf_record")


def _task(
    name: str, content: str, read: Callable[[Path], object], mutations: Any, **more: Any
) -> FuzzedReader:
    return FuzzedReader(f"task {name}", _file(name, content), read, mutations, **more)


PLAIN: tuple[FuzzedReader, ...] = (
    FuzzedReader("manifest", _shards("manifest.json"), _read_shards, JSON, seal=seals.manifest),
    FuzzedReader(
        "shard", _shards("train-00000-of-00002.h5"), _read_shards, BYTES, seal=shard_with_sums
    ),
    FuzzedReader("document index", _index, _read_index, BYTES, seal=_index_with_sums),
    FuzzedReader("run config", _run_config, _read_run_config, TEXT),
    FuzzedReader("vocab.txt", _vocabulary, _read_tokenizer, TEXT),
    FuzzedReader(
        "wordpiece tokenizer.json",
        _tokenizer_file("tokenizer.json"),
        _read_tokenizer,
        JSON,
    ),
    FuzzedReader("unigram tokenizer.json", _unigram_json, _read_tokenizer, JSON),
    FuzzedReader("bpe tokenizer.json", _bpe_json, _read_tokenizer, JSON),
    FuzzedReader(
        "tokenizer_config.json",
        _tokenizer_file("tokenizer_config.json"),
        _read_tokenizer,
        JSON,
    ),
    FuzzedReader("sentencepiece unigram", _sentencepiece("unigram"), _read_tokenizer, BYTES),
    FuzzedReader("sentencepiece bpe", _sentencepiece("bpe"), _read_tokenizer, BYTES),
    _text("a.xml", _XML, TEXT),
    _packed("a.xml.bz2", bz2.compress, bz2.decompress),
    _packed("a.xml.gz", gzip.compress, gzip.decompress),
    _packed("a.xml.xz", partial(lzma.compress, preset=0), lzma.decompress),
    _packed("a.tar", _tar, _first_of_tar),
    _text("a.jsonl", _LINES, JSON_LINES),
    _text("a.json", json.dumps(_RECORDS, indent=1), JSON),
    _text("a.csv", _table(","), TEXT),
    _text("a.tsv", _table("\t"), TEXT),
    _text(
        "a.txt", "The town of place 1 is old.\nIt has 3 bridges, and a tower.\n\nThe end.\n", TEXT
    ),
    FuzzedReader("text parquet", _parquet, _read_text, BYTES),
    FuzzedReader("nvidia hdf5", _foreign("a.hdf5", write_fixed), _read_foreign, BYTES),
    FuzzedReader("mlperf hdf5", _foreign("a.hdf5", write_variable), _read_foreign, BYTES),
    FuzzedReader(
        "tfrecord",
        _foreign("a.tfrecord", write_tfrecord),
        _read_foreign,
        BYTES,
        seal=seals.tfrecord,
    ),
    _task("squad.json", json.dumps(_SQUAD), read_squad, JSON),
    _task("squad.jsonl", (json.dumps(_FLAT) + "\n") * 2, read_squad, JSON_LINES),
    FuzzedReader("task parquet", partial(_parquet, rows=[_FLAT] * 2), read_squad, BYTES),
    _task("mrpc.tsv", _MRPC, _glue("mrpc"), TEXT),
    _task("stsb.tsv", _STSB, _glue("stsb"), TEXT),
    _task("tnews.json", _TNEWS, lambda path: Tnews().read(path, "error"), JSON_LINES),
    _task("features.jsonl", _FEATURES, _read_features, JSON_LINES),
    FuzzedReader("label2id.json", _labels, _read_labels, JSON),
    FuzzedReader("label2id.pkl", _pickled_labels, _read_labels, PICKLES),
)
