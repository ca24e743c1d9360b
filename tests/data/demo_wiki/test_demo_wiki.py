"""The generated encyclopedia: bytes, consistency, format of the questions, and what the sets share."""

from __future__ import annotations

import bz2
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.make_sample_wiki import DEV, DUMP, TRAIN, main
from megabert.common.errors import UserError
from megabert.data.demo_wiki.phrases import BY_NAME, RELATIONS
from megabert.data.demo_wiki.questions import question_set
from megabert.data.demo_wiki.world import InventedWorld, build_world

SPACE = "{http://www.mediawiki.org/xml/export-0.11/}"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "wiki"
    main(["--output", str(folder), "--articles", "60", "--seed", "7"])
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _pages(folder: Path) -> list[dict[str, str | None]]:
    root = ElementTree.fromstring(bz2.decompress((folder / DUMP).read_bytes()))
    assert root.tag == f"{SPACE}mediawiki"
    pages = []
    for page in root.iter(f"{SPACE}page"):
        redirect = page.find(f"{SPACE}redirect")
        pages.append(
            {
                "title": page.findtext(f"{SPACE}title"),
                "ns": page.findtext(f"{SPACE}ns"),
                "id": page.findtext(f"{SPACE}id"),
                "redirect": None if redirect is None else redirect.get("title"),
                "text": page.findtext(f"{SPACE}revision/{SPACE}text"),
                "bytes": page.find(f"{SPACE}revision/{SPACE}text").get("bytes"),
            }
        )
    return pages


def test_same_arguments_give_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    main(["--output", str(tmp_path), "--articles", "60", "--seed", "7"])
    assert _contents(tmp_path) == _contents(sample)
    main(["--output", str(tmp_path), "--articles", "60", "--seed", "7"])  # identical: accepted
    assert sorted(_contents(tmp_path)) == sorted([DUMP, TRAIN, DEV])


def test_other_content_is_refused_and_left_alone(sample: Path) -> None:
    before = _contents(sample)
    with pytest.raises(UserError, match="--force"):
        main(["--output", str(sample), "--articles", "60", "--seed", "8"])
    assert _contents(sample) == before


def test_force_replaces(tmp_path: Path) -> None:
    main(["--output", str(tmp_path), "--articles", "20"])
    before = _contents(tmp_path)
    main(["--output", str(tmp_path), "--articles", "20", "--seed", "1", "--force"])
    assert _contents(tmp_path)[DUMP] != before[DUMP]


@pytest.mark.parametrize(
    "arguments", [["--articles", "19"], ["--train-questions", "0"], ["--dev-questions", "-1"]]
)
def test_wrong_numbers_are_one_line(tmp_path: Path, arguments: list[str]) -> None:
    output = tmp_path / "wiki"
    with pytest.raises(UserError, match="expected a whole number from"):
        main(["--output", str(output), *arguments])
    assert not output.exists()


def test_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "wiki").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        main(["--output", str(tmp_path / "wiki"), "--articles", "20"])


def test_dump_is_a_whole_export(sample: Path) -> None:
    pages = _pages(sample)
    assert (
        len({page["id"] for page in pages}) == len({page["title"] for page in pages}) == len(pages)
    )
    articles = [page for page in pages if page["ns"] == "0" and page["redirect"] is None]
    assert len(articles) == 60
    assert {"1", "4", "10", "14", "828"} <= {page["ns"] for page in pages}
    titles = {page["title"] for page in articles}
    redirects = [page for page in pages if page["redirect"]]
    assert redirects
    assert all(page["redirect"] in titles for page in redirects)
    assert all(int(page["bytes"] or -1) == len((page["text"] or "").encode()) for page in pages)
    text = "\n".join(page["text"] or "" for page in articles)
    for markup in ("{{Infobox person", "{|", "<ref ", "<!--", "&nbsp;", "<nowiki>", "[[File:"):
        assert markup in text, markup
    for markup in ("[[Category:", "'''", "== "):
        assert markup in text, markup


def _questions(folder: Path, name: str) -> list[tuple[str, str, dict[str, object]]]:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    assert content["version"] == "1.1"
    return [
        (article["title"], paragraph["context"], qa)
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


@pytest.mark.parametrize("name", [TRAIN, DEV])
def test_answers_are_where_they_say(sample: Path, name: str) -> None:
    questions = _questions(sample, name)
    assert len({qa["id"] for _, _, qa in questions}) == len(questions) >= 5
    for title, context, qa in questions:
        (answer,) = qa["answers"]  # type: ignore[misc]
        start = answer["answer_start"]
        assert context[start : start + len(answer["text"])] == answer["text"]
        assert context.count(answer["text"]) == 1
        assert title.replace("_", " ") in str(qa["question"])


def test_development_questions_share_nothing_with_training(sample: Path) -> None:
    pages = {page["title"] for page in _pages(sample)}
    wordings = {name: set() for name in (TRAIN, DEV)}
    subjects = {name: set() for name in (TRAIN, DEV)}
    for name in (TRAIN, DEV):
        for title, _, qa in _questions(sample, name):
            subject = title.replace("_", " ")
            subjects[name].add(subject)
            wordings[name].add(str(qa["question"]).replace(subject, "{s}"))
    assert not wordings[TRAIN] & wordings[DEV]
    answers = {
        name: {qa["answers"][0]["text"] for _, _, qa in _questions(sample, name)}  # type: ignore[index]
        for name in (TRAIN, DEV)
    }
    assert not answers[TRAIN] & answers[DEV]
    assert not subjects[DEV] & pages
    assert subjects[TRAIN] <= pages


def _world_is_consistent(world: InventedWorld) -> None:
    entities = {entity.title: entity for entity in world.published + world.unpublished}
    assert len(entities) == len(world.published) + len(world.unpublished)
    for entity in entities.values():
        for relation, value in entity.facts.items():
            other = entities.get(value.text)
            kind = {"person": "person", "town": "town", "work": "work"}.get(BY_NAME[relation].type)
            assert other is None or other.kind == kind
        if entity.kind == "work":
            author = entities[entity.facts["author"].text]
            assert int(entity.facts["work_year"].text) >= int(author.facts["birth_year"].text) + 20
        if entity.kind == "person":
            work = entities.get(entity.facts["famous_for"].text)
            assert work is None or work.facts["author"].text == entity.title
            if "teacher" in entity.facts:
                teacher = entities[entity.facts["teacher"].text]
                assert int(teacher.facts["birth_year"].text) < int(entity.facts["birth_year"].text)


@settings(max_examples=15, deadline=None)
@given(articles=st.integers(20, 300), unpublished=st.integers(8, 60), seed=st.integers(0, 2**32))
def test_facts_agree(articles: int, unpublished: int, seed: int) -> None:
    world = build_world(articles, unpublished, seed)
    assert (len(world.published), len(world.unpublished)) == (articles, unpublished)
    _world_is_consistent(world)


def test_a_paragraph_has_one_answer_of_a_type() -> None:
    for name, group in RELATIONS.items():
        types = [relation.type for relation in group]
        assert len(set(types)) == len(types), name


def test_wordings_are_well_formed() -> None:
    for relation in BY_NAME.values():
        assert not set(relation.training) & set(relation.development)
        assert all(t.count("{s}") == 1 and t.count("{o}") == 1 for t in relation.statements)
        assert all(q.count("{s}") == 1 and q.endswith("?") for q in relation.training)
        assert all(q.count("{s}") == 1 and q.endswith("?") for q in relation.development)


def test_question_count_is_a_limit() -> None:
    world = build_world(40, 10, 0)
    made = question_set(world.published, 5, development=False, seed=0)
    assert sum(len(p["qas"]) for a in made["data"] for p in a["paragraphs"]) == 5
