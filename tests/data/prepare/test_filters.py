"""Copies and languages that are left out: what is compared, what is found, and the job's result."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from datasketch import MinHash, MinHashLSH

from data_tools import shard_wiki
from megabert.common.errors import UserError
from megabert.data.inspect.report import total_lines
from megabert.data.prepare import job
from megabert.data.prepare.filters.choices import FilterOptions
from megabert.data.prepare.filters.copies import (
    MOST_COMPARED,
    RECALL,
    band_keys,
    bands_and_rows,
    near_copies,
)
from megabert.data.prepare.filters.shingles import (
    Signatures,
    shingle_hashes,
    text_digest,
    word_hashes,
)
from megabert.data.prepare.filters.spoken import SHORT, judge_language, ranked_languages
from megabert.data.prepare.job import ShardingOptions, ShardingReport, shard
from megabert.data.prepare.output_folder import PAIRS_FILE
from megabert.data.shards.manifest import load_manifest
from tests.helpers.small_dump import WORDS, write_vocabulary

FRENCH = "Le chat est sur la table, et il mange une souris que nous avons vue hier dans la maison. "
ENGLISH = "The cat is on the table, and it eats a mouse that we saw yesterday in the house. "


def prose(draw: random.Random, words: int = 120) -> list[str]:
    return [draw.choice(WORDS) + ("." if n % 12 == 11 else "") for n in range(words)]


def changed(draw: random.Random, words: list[str], count: int) -> list[str]:
    other = list(words)
    for place in draw.sample(range(len(words)), count):
        other[place] = "violin"
    return other


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 3.5 km; NO_signs!", "it s 3 5 km no signs"),
        ("Straße ＡＢＣ ﬁn", "strasse abc fin"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("我爱BERT 模型。", "我 爱 bert 模 型"),
        ("ไทย", "ไ ท ย"),
        ("cafe\u0301 noe\u0308l", "café noël"),
        ("\U0001f600 a \U00020000b", "a \U00020000 b"),
        ("?!", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    """A word has one hash, wherever it is, and other words have others."""
    hashes = {word: int(word_hashes(f"... {word}")[0]) for word in words.split()}
    assert word_hashes(text).tolist() == [hashes[word] for word in words.split()]
    assert len(set(hashes.values())) == len(hashes)


def test_what_counts_for_the_same_text() -> None:
    one = text_digest(word_hashes("The end, of it."))
    assert one == text_digest(word_hashes("the END\n of — it!"))
    others = ("The ends of it.", "The end of", "End the of it", "Theend of it", "eht end of it")
    assert one not in {text_digest(word_hashes(other)) for other in others}


def test_hashes_of_words_differ() -> None:
    words = [f"{a}{b}{c}" for a in "abcdefghij0" for b in "klmnop\u00e91" for c in ("", "q", "rs")]
    every = word_hashes(" ".join(words)).tolist()
    assert len(set(every)) == len(words) == len(every)


def hashes_of(words: list[str]) -> npt.NDArray[np.uint64]:
    return word_hashes(" ".join(words))


def test_shingles_are_runs_of_words() -> None:
    """Hashes of runs are equal where the runs are, wherever they stand."""
    one, other = hashes_of(list("abcdefgh")), hashes_of(list("xbcdefgy"))
    common = set(shingle_hashes(one, 5).tolist()) & set(shingle_hashes(other, 5).tolist())
    assert len(shingle_hashes(one, 5)) == 4
    assert len(common) == 2  # bcdef, cdefg
    assert len(shingle_hashes(one[:3], 5)) == len(shingle_hashes(one[:0], 5)) == 1
    assert shingle_hashes(one[:2], 2) != shingle_hashes(one[1::-1], 2)


def test_estimates_are_near_the_similarity() -> None:
    draw = random.Random(1)
    maker = Signatures(128, 5)
    for count in (1, 3, 6, 12, 30):
        one = prose(draw, 400)
        pair = (one, changed(draw, one, count))
        sets = [set(shingle_hashes(hashes_of(w), 5).tolist()) for w in pair]
        signatures = [maker.of(hashes_of(w)) for w in pair]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        assert abs(float((signatures[0] == signatures[1]).mean()) - exact) < 0.17  # 4 sigma


@pytest.mark.parametrize(
    ("similarity", "permutations", "expected"),
    [(0.8, 128, (16, 8)), (0.9, 128, (9, 14)), (0.5, 128, (42, 3)), (0.1, 8, (8, 1))],
)
def test_bands(similarity: float, permutations: int, expected: tuple[int, int]) -> None:
    bands, rows = bands_and_rows(similarity, permutations)
    assert (bands, rows) == expected
    assert bands * rows <= permutations
    assert rows == 1 or 1 - (1 - similarity**rows) ** bands >= RECALL


def corpus(seed: int, count: int = 60) -> list[list[str]]:
    """Documents, of which many are copies of others with up to 5 changed words."""
    draw = random.Random(seed)
    found = [prose(draw)]
    while len(found) < count:
        old = draw.choice(found)
        found.append(changed(draw, old, draw.randint(1, 5)) if draw.random() < 0.6 else prose(draw))
    return found


def by_the_book(documents: list[list[str]], similarity: float) -> list[tuple[int, int]]:
    """The same rule, word for word, with datasketch's own index: (document, its first one)."""
    bands = bands_and_rows(similarity, 128)
    index = MinHashLSH(num_perm=128, params=bands)
    kept: dict[int, MinHash] = {}
    copies = []
    for number, words in enumerate(documents):
        sketch = MinHash(num_perm=128, scheme="affine32", hashfunc=int)
        sketch.update_batch(shingle_hashes(hashes_of(words), 5).tolist())
        near = [n for n in sorted(index.query(sketch)) if kept[n].jaccard(sketch) >= similarity]
        if near:
            copies.append((number, near[0]))
        else:
            kept[number] = sketch
            index.insert(number, sketch)
    return copies


@pytest.mark.parametrize("seed", range(3))
def test_near_copies_are_those_of_datasketch(seed: int) -> None:
    documents = corpus(seed)
    maker = Signatures(128, 5)
    signatures = np.stack([maker.of(hashes_of(words)) for words in documents])
    keys = band_keys(signatures, *bands_and_rows(0.8, 128))
    found = near_copies(keys, np.arange(60), lambda chosen: signatures[chosen], 0.8)
    expected = by_the_book(documents, 0.8)
    assert len(expected) > 8
    assert list(zip(found.own.tolist(), found.first.tolist())) == expected
    assert (found.similarity >= 0.8).all()
    some = np.flatnonzero(np.arange(60) % 3 > 0)
    part = near_copies(keys, some, lambda chosen: signatures[chosen], 0.8)
    assert set(part.own) | set(part.first) <= set(some.tolist())


def test_many_documents_in_one_band_take_bounded_time() -> None:
    """Alike in one band and nowhere else: none is a copy, and each is compared with a few."""
    count = 20 * MOST_COMPARED
    draw = np.random.default_rng(0)
    signatures = draw.integers(0, 2**32, (count, 16), np.uint32)
    signatures[:, :8] = 7
    found = near_copies(band_keys(signatures, 2, 8), np.arange(count), lambda c: signatures[c], 0.8)
    assert len(found.own) == 0
    assert found.candidates == count
    nothing = near_copies(np.zeros((0, 2), np.uint32), np.arange(0), lambda c: signatures[c], 0.8)
    assert len(nothing.own) == nothing.candidates == 0


# --- the job ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """40 documents; 6 near copies, 4 with other signs, 3 equal ones, 2 in French; and a vocabulary."""
    folder = tmp_path_factory.mktemp("sources")
    draw = random.Random(5)
    texts = [prose(draw) for _ in range(40)]
    rows = [" ".join(words) for words in texts]
    rows += [" ".join(changed(draw, words, 2)) for words in texts[:6]]
    rows += [" ".join(words).replace(".", " ...").upper() for words in texts[6:10]]
    rows += [*rows[10:13], FRENCH * 4 + "Un.", FRENCH * 5 + "Deux et trois."]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path, write_vocabulary(folder / "vocab.txt")


def run(sources: tuple[Path, Path], output: Path, **changes: Any) -> ShardingReport:
    filters = FilterOptions(
        **{k: changes.pop(k) for k in list(changes) if k in vars(FilterOptions())}
    )
    options = {
        "segment_bytes": 1000,
        "min_document_tokens": 0,
        "eval_fraction": 0.1,
        "start_method": "fork",
        **changes,
    }
    report = shard(
        ShardingOptions(
            (sources[0],), sources[1], output, filters=filters, batch_characters=2000, **options
        )
    )
    assert report is not None
    return report


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("way", "dropped"),
    [
        ("none", {}),
        ("tokens", {"duplicate": 3}),
        ("exact", {"duplicate": 3, "same text": 4}),
        ("near", {"duplicate": 3, "same text": 4, "near copy": 7}),  # the French ones are near
    ],
)
def test_each_way_leaves_out_more(
    way: str, dropped: dict[str, int], sources: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = run(sources, tmp_path / "out", deduplicate=way).manifest
    assert manifest.dropped == dropped
    assert manifest.articles_kept == 55 - sum(dropped.values())
    assert manifest.options.get("deduplicate", "tokens") == way
    assert (tmp_path / "out" / PAIRS_FILE).exists() == (way in ("exact", "near"))
    assert load_manifest(tmp_path / "out") == manifest
    lines = "\n".join(total_lines(tmp_path, manifest))
    assert all(f"{count} {reason}" in lines for reason, count in dropped.items())


def test_pairs_are_written_for_a_check(sources: tuple[Path, Path], tmp_path: Path) -> None:
    run(sources, tmp_path / "out", deduplicate="near")
    pairs = [json.loads(line) for line in (tmp_path / "out" / PAIRS_FILE).open()]
    places = [(p["reason"], p["kept"]["id"], p["dropped"]["id"]) for p in pairs]
    assert places[:7] == [("duplicate", 11 + n, 51 + n) for n in range(3)] + [
        ("same text", 7 + n, 47 + n) for n in range(4)
    ]
    assert places[7:13] == [("near copy", 1 + n, 41 + n) for n in range(6)]
    near = pairs[7]
    assert near["dropped"]["input"] == "rows.jsonl"
    assert 0.8 <= near["similarity"] < 1.0
    assert "violin" not in near["kept"]["text"]
    assert near["kept"]["text"] != near["dropped"]["text"]


def test_same_bytes_for_any_workers_and_after_a_kill(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"deduplicate": "near", "keep_languages": ("en",), "language_probability": 0.2}
    run(sources, tmp_path / "one", workers=1, **chosen)
    run(sources, tmp_path / "three", workers=3, **chosen)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            run(sources, tmp_path / "again", **chosen)
    with pytest.raises(UserError, match="deduplicate 'near' there, None here"):
        run(sources, tmp_path / "again", resume=True)
    report = run(sources, tmp_path / "again", resume=True, **chosen)
    assert report.reused == report.batches > 1
    assert contents(tmp_path / "again") == contents(tmp_path / "one")


# --- languages -------------------------------------------------------------------------------


def test_languages() -> None:
    assert next(iter(ranked_languages(ENGLISH * 3))) == "en"
    assert next(iter(ranked_languages(FRENCH * 3))) == "fr"
    assert next(iter(ranked_languages("我们昨天在房子里看到一只猫在桌子上吃老鼠。" * 3))) == "zh"
    assert judge_language([ENGLISH], {"en"}, 0.5) == ("en", True)
    assert judge_language([FRENCH], {"en", "de"}, 0.5) == ("fr", False)
    assert judge_language(["Le chat Hund."] * 8, {"fr"}, 0.5) == ("fr", False)
    assert judge_language(["Le chat Hund."] * 8, set(ranked_languages("")), 0.5)[1]
    assert judge_language(["Le chat."], {"en"}, 0.5) == (SHORT, True)
    long = ENGLISH * 10 + FRENCH * 300
    assert next(iter(ranked_languages(long))) == "fr"  # not by its beginning alone


def test_other_languages_are_left_out_and_counted(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    manifest = run(sources, tmp_path / "out", keep_languages=("fr",)).manifest
    assert manifest.articles_kept == 2
    assert manifest.dropped["language"] == 53
    assert manifest.languages["fr"] == 2
    assert sum(manifest.languages.values()) == 55
    assert "2 fr" in "\n".join(total_lines(tmp_path, manifest))
    assert load_manifest(tmp_path / "out") == manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deduplicate": "fuzzy"}, "--deduplicate 'fuzzy' is unknown; use tokens, none, exact, near"),
        ({"similarity": 0.0}, "--near-similarity 0.0: expected"),
        ({"permutations": 5000}, "--near-permutations 5000: expected 1 to 4096"),
        ({"keep_languages": ("en", "xx")}, "--keep-languages xx: unknown; known are ace af .* zu zxx"),
    ],
)  # fmt: skip
def test_wrong_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        FilterOptions(**changes).check()
    assert "\n" not in str(caught.value)


def test_options_without_effect_are_named(
    sources: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(sources, tmp_path / "out", similarity=0.7, language_probability=0.9)
    lines = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert lines == [
        "--near-similarity has no effect without --deduplicate near",
        "--language-probability has no effect without --keep-languages",
    ]


@pytest.mark.parametrize(
    ("flags", "package"),
    [(["--deduplicate", "near"], "datasketch"), (["--keep-languages", "en"], "py3langid")],
)
def test_a_missing_package_is_named(
    flags: list[str], package: str, sources: tuple[Path, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "megabert.data.prepare.filters.choices.find_spec",
        lambda name: None if name == package else found(name),
    )
    where = [
        "--input",
        str(sources[0]),
        "--tokenizer",
        str(sources[1]),
        "--output",
        str(tmp_path / "o"),
    ]
    with pytest.raises(
        UserError, match=f"{flags[0]}.* needs the package {package}: pip install 'megabert"
    ):
        shard_wiki.main([*where, *flags])
    assert not (tmp_path / "o").exists()


def test_the_second_name_of_the_command(root: Path) -> None:
    found = subprocess.run(
        [sys.executable, "data_tools/shard_text.py", "--help"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.startswith("usage: shard_text.py ")
    assert "python data_tools/shard_text.py --input" in found
    assert "It has two names, shard_wiki.py and shard_text.py" in found
