"""The language of each input: decided by flag, dump or default, logged, and recorded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from data_tools import shard_wiki, train_tokenizer
from megabert.common import names
from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.data.prepare.job import ShardingOptions, shard
from megabert.data.prepare.train_tokenizer import input_language, read_sentences
from megabert.data.shards.corpus import Corpus
from megabert.data.shards.manifest import Manifest, load_manifest
from megabert.data.tokenizers.load import load_tokenizer
from tests.data.text.input.test_languages import TEXTS

CHINESE = "{}软件由-{{zh-cn:软件;zh-tw:軟體}}-和硬件组成。他在北京大学学习了四年。"
GERMAN = "Der Fluss entspringt am 13. Mai in den Bergen. Er fließt durch drei Städte ins Meer."


def dump(path: Path, text: str, language: str = "", database: str = "", pages: int = 3) -> Path:
    lang = f' xml:lang="{language}"' if language else ""
    site = f"<siteinfo><dbname>{database}</dbname></siteinfo>" if database else ""
    body = "".join(
        f"<page><title>P{n}</title><ns>0</ns><id>{n}</id><revision><text>{text.format(n)}</text>"
        "</revision></page>"
        for n in range(1, pages + 1)
    )
    path.write_text(f"<mediawiki{lang}>{site}{body}</mediawiki>", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = sorted(
        {c for text in (CHINESE, GERMAN, *TEXTS.values()) for c in text.lower()} - {" "}
    )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*special, *letters, *(f"##{c}" for c in letters)]), encoding="utf-8")
    return path


def run(vocabulary: Path, output: Path, *inputs: Path, **changes: Any) -> Manifest:
    base = {"eval_fraction": 0.0, "min_document_tokens": 0, "start_method": "fork"}
    report = shard(ShardingOptions(inputs, vocabulary, output, **(base | changes)))
    assert report is not None
    return report.manifest


def decoded(folder: Path) -> str:
    corpus = Corpus.open(folder, names.TRAIN)
    tokenizer = load_tokenizer(folder / names.TOKENIZER_FOLDER)
    texts = [
        tokenizer.decode(corpus.tokens(d, 0, int(corpus.document_lengths[d])))
        for d in range(corpus.num_documents)
    ]
    return "\n".join(texts)


def test_a_dump_names_its_language(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dump(tmp_path / "zh.xml", CHINESE, "zh")
    manifest = run(vocabulary, tmp_path / "auto", path)
    said = capsys.readouterr().err
    assert f"{path}: language zh, as the dump says" in said
    assert "--language" not in said
    assert (manifest.language, manifest.options["language"]) == ("zh", "zh")
    assert manifest.inputs[0].language == "zh"
    assert "-{" not in decoded(tmp_path / "auto").replace(" ", "")
    run(vocabulary, tmp_path / "flag", path, language="zh")
    files = sorted(p.relative_to(tmp_path / "auto") for p in (tmp_path / "auto").rglob("*.*"))
    assert files
    for name in files:
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "flag" / name).read_bytes()
    run(vocabulary, tmp_path / "auto", path, language="zh", resume=True)
    with pytest.raises(UserError, match="another job"):
        run(vocabulary, tmp_path / "auto", path, language="en", resume=True)


def test_a_flag_that_contradicts_the_dump_warns_and_wins(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dump(tmp_path / "de.xml", GERMAN, "de")
    manifest = run(vocabulary, tmp_path / "shards", path, language="fr")
    [line] = [
        line for line in capsys.readouterr().err.splitlines() if "but the dump says de" in line
    ]
    assert "read as fr, as --language says" in line
    assert manifest.language == manifest.inputs[0].language == "fr"
    zh = dump(tmp_path / "zh.xml", CHINESE, "zh")
    run(vocabulary, tmp_path / "tw", zh, language="zh-tw")
    assert "but the dump" not in capsys.readouterr().err
    assert "軟 體" in decoded(tmp_path / "tw")


def test_several_languages(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each input is read by its own rules, in one job of any number of workers, and of a limit."""
    inputs = [dump(tmp_path / "de.xml", GERMAN, "de"), dump(tmp_path / "zh.xml", CHINESE, "zh")]
    manifest = run(vocabulary, tmp_path / "one", *inputs)
    said = capsys.readouterr().err
    assert "inputs in 2 languages, each read by the rules of its own" in said
    assert f"{inputs[0]}: language de" in said
    assert f"{inputs[1]}: language zh" in said
    assert manifest.language == "mul"
    assert [info.language for info in manifest.inputs] == ["de", "zh"]
    single = [run(vocabulary, tmp_path / p.stem, p).splits[names.TRAIN] for p in inputs]
    total = manifest.splits[names.TRAIN]
    assert total.sentences == sum(split.sentences for split in single)
    assert total.tokens == sum(split.tokens for split in single)
    limited = run(vocabulary, tmp_path / "limited", *inputs, max_pages=100)
    assert limited.splits[names.TRAIN].sentences == total.sentences
    run(vocabulary, tmp_path / "two", *inputs, workers=2)
    one = json.loads((tmp_path / "one" / names.MANIFEST).read_text())
    assert one == json.loads((tmp_path / "two" / names.MANIFEST).read_text())


@pytest.mark.parametrize(
    ("language", "database", "text", "expected"),
    [
        ("", "", GERMAN, "language en, the default, because the dump names no known language"),
        ("qqx", "", GERMAN, "its xml:lang 'qqx' is not a known language; read as en"),
        ("", "dewiki", GERMAN, "language de, by the name of its database (dewiki)"),
        ("en", "dewiki", GERMAN, "its xml:lang says en, but its database is dewiki; read as en"),
        ("en", "enwiki", TEXTS["ru"], "read as en, but 100% of its letters are Cyrillic: give --language ru"),
        ("en", "enwiki", TEXTS["ja"], "give --language ja"),
        ("simple", "simplewiki", TEXTS["en"], "language en, as the dump says"),
        ("als", "alswiki", GERMAN, "language gsw, as the dump says"),
    ],
)  # fmt: skip
def test_what_is_said_of_dumps(
    vocabulary: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    language: str,
    database: str,
    text: str,
    expected: str,
) -> None:
    run(vocabulary, tmp_path / "shards", dump(tmp_path / "d.xml", text, language, database))
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("written", TEXTS)
def test_text_without_a_flag(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], written: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(f"{TEXTS[written]}\n\n{TEXTS[written]} {TEXTS[written]}\n", encoding="utf-8")
    manifest = run(vocabulary, tmp_path / "shards", path)
    said = capsys.readouterr().err
    assert f"{path}: language en, the default; set --language for another" in said
    assert ("read as en, but" in said) == (written != "en")
    assert (f"--language {written}" in said) == (written != "en")
    assert manifest.language == "en"
    run(vocabulary, tmp_path / "again", path, language=written)
    assert "but" not in capsys.readouterr().err


def test_a_history_dump_is_named(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = dump(tmp_path / "d.xml", GERMAN, "de")
    old = "<revision><timestamp>2001-01-01T00:00:00Z</timestamp><text>Alt.</text></revision>"
    path.write_text(path.read_text().replace("</revision></page>", f"</revision>{old}</page>", 1))
    run(vocabulary, tmp_path / "shards", path)
    assert f"{path}: a dump with the history of its pages" in capsys.readouterr().err


def test_a_folder_of_many_files_is_one_line(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for n in range(20):
        dump(folder / f"{n:02d}.xml", TEXTS["ru"] + str(n), "en", "dewiki", pages=1)
    run(vocabulary, tmp_path / "shards", folder)
    lines = [line for line in capsys.readouterr().err.splitlines() if str(folder) in line]
    assert len([line for line in lines if "language en" in line]) == 1
    [contradiction] = [line for line in lines if "dewiki" in line]
    assert "and 17 more" in contradiction


def test_an_unknown_flag_is_refused(vocabulary: Path, tmp_path: Path) -> None:
    path = dump(tmp_path / "d.xml", GERMAN, "de")
    rest = ["--input", str(path), "--output", str(tmp_path / "out"), "--language", "xx"]
    for command in (
        lambda: shard_wiki.main([*rest, "--tokenizer", str(vocabulary)]),
        lambda: train_tokenizer.main(rest),
        lambda: run(vocabulary, tmp_path / "out", path, language="xx"),
    ):
        with pytest.raises(UserError, match="--language xx: not a language code"):
            command()
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_is_trained_by_the_same_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zh, de = dump(tmp_path / "zh.xml", CHINESE, "zh"), dump(tmp_path / "de.xml", GERMAN, "de")
    sentences = read_sentences([zh], start_method="fork")
    assert len(sentences) == 6
    assert not any("-{" in sentence for sentence in sentences)
    assert read_sentences([zh, de, zh], start_method="fork") == [
        *sentences, *read_sentences([de], start_method="fork"),
    ]  # fmt: skip
    assert "1 of 3 input files repeat an earlier one" in capsys.readouterr().err
    assert (input_language([zh]), input_language([de]), input_language([de, zh])) == (
        "zh",
        "de",
        "zh",
    )
    assert input_language([de, zh], choice="fr") == "fr"
    said = capsys.readouterr().err
    assert f"{zh}: language zh, as the dump says" in said
    assert "read as fr, as --language says, but the dump says de" in said


def test_manifests_without_languages_are_read(vocabulary: Path, tmp_path: Path) -> None:
    """Older folders, and folders of text, which count documents."""
    path = tmp_path / "t.txt"
    path.write_text("A few words of text.\n")
    manifest = run(vocabulary, tmp_path / "text", path)
    content = json.loads((tmp_path / "text" / names.MANIFEST).read_text())
    assert content["documents"] == {"read": 1, "kept": 1}
    assert load_manifest(tmp_path / "text") == manifest
    assert manifest.kept_of_read == "1 documents kept of 1"
    wiki = run(vocabulary, tmp_path / "wiki", dump(tmp_path / "d.xml", GERMAN, "de"))
    content = json.loads((tmp_path / "wiki" / names.MANIFEST).read_text())
    assert content["articles"] == {"read": 3, "kept": 1}
    assert wiki.kept_of_read == "1 articles kept of 3 pages"


def test_assumed_namespaces_are_logged(
    vocabulary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = get_logger()
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, "megabert")
    bare = dump(tmp_path / "bare.xml", GERMAN, "de")
    bare.write_text(bare.read_text().replace("<ns>0</ns>", ""))
    listed = dump(tmp_path / "listed.xml", GERMAN + " So.", "de")
    names_of = "".join(f'<namespace key="{n}">N{n}</namespace>' for n in range(16))
    site = f"<siteinfo><namespaces>{names_of}</namespaces></siteinfo>"
    listed.write_text(listed.read_text().replace('"de">', f'"de">{site}'))
    run(vocabulary, tmp_path / "out", bare, listed)
    logger.removeHandler(caplog.handler)
    [line] = [message for message in caplog.messages if "<siteinfo>" in message]
    assert line == (
        f"{bare}: the <siteinfo> is missing or does not list all namespaces: the names that "
        "MediaWiki, Wikimedia's wikis and de have for them are assumed; pages without <ns> are "
        "articles if their title begins with none of these names"
    )
