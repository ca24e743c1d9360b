"""The preparation benchmark and its plan: arithmetic, and that they still fit the code they measure."""

from __future__ import annotations

import bz2
import dataclasses
import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks.preparation import compare, plan
from benchmarks.preparation.compare import Comparison
from benchmarks.preparation.plan import Constants, make_plan
from benchmarks.preparation.programs import Cost, recipe_cost, run_together
from benchmarks.preparation.stages import STAGES, StageProfile, profile_stages
from megabert.common.errors import UserError
from tests.helpers.small_dump import write_dump, write_vocabulary

STAGE_COSTS = {
    "extract": Cost(1, 2, 10),
    "sentences": Cost(1, 1, 20),
    "samples 128 x1": Cost(3, 3, 30),
    "samples 128 x5": Cost(7, 7, 150),
    "samples 512 x5": Cost(9, 9, 170),
}


def test_recipes_share_extraction() -> None:
    assert recipe_cost(STAGE_COSTS, "phase 1, one copy") == Cost(5, 6, 60)
    assert recipe_cost(STAGE_COSTS, "both phases, five copies") == Cost(18, 19, 350)


def test_ratios_with_and_without_startup() -> None:
    startup = {name: Cost(0.5, 0.5, 1) for name in STAGE_COSTS}
    found = Comparison("d", 9, 6.0, 1, Cost(2, 2, 40), Cost(1, 1, 5), STAGE_COSTS, startup)
    ratio = found.ratios()["phase 1, five copies"]
    assert ratio == {"cpu": 5.0, "cpu_without_startup": 8.5, "wall": 4.5, "bytes": 4.5}
    table = found.as_markdown()
    assert "| ours: dump to shards | 2.00 | 2.00 | 1.00 | 3.00 | 6.00 | 0.00 |" in table
    assert dataclasses.replace(found, reference={}).ratios() == {}
    tiny = dataclasses.replace(found, ours_startup=Cost(2, 2, 5))
    assert "cpu_without_startup" not in tiny.ratios()["phase 1, one copy"]
    assert "| 2.00 | 2.00 | 2.00 | 3.00 | - | 0.00 |" in tiny.as_markdown()


def test_cost_of_programs_side_by_side(tmp_path: Path) -> None:
    busy = "import time\nwhile time.process_time() < 0.15: pass\nopen({!r}, 'w').write('abc')"
    commands = [[sys.executable, "-c", busy.format(str(tmp_path / name))] for name in "ab"]
    cost = run_together(commands, tmp_path)
    assert 0.3 <= cost.cpu < 3
    assert cost.output_bytes == 6
    with pytest.raises(UserError, match=r"exit status 3.*no luck"):
        run_together(
            [[sys.executable, "-c", "import sys; print('no luck'); sys.exit(3)"]], tmp_path
        )


def test_a_reference_in_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs all of --wikiextractor"):
        compare.main(["--dump", "en=x", "--vocab", "v", "--wikiextractor", "we"])


def test_stages_account_for_the_time(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "wiki.xml.bz2", count=300)
    vocabulary = write_vocabulary(tmp_path / "vocab.txt")
    work = tmp_path / "work"
    work.mkdir()
    began = time.process_time()
    found = profile_stages(dump, "en", vocabulary, work)
    spent = time.process_time() - began
    assert (found.pages, found.articles) == (360, 300)
    assert found.tokens > 0 < found.batch_bytes
    assert found.unpacked_bytes == len(bz2.decompress(dump.read_bytes()))
    assert found.shard_bytes == sum(path.stat().st_size for path in work.glob("*.h5"))
    assert set(STAGES) < set(found.seconds)
    assert 0.6 * spent < sum(found.seconds.values()) <= spent
    assert found.seconds["clean"] > 0 < found.seconds["encode"]
    assert found.seconds["other"] < 0.2 * spent


def test_plan_by_hand() -> None:
    flat = Constants(
        dump_gb=10, xml_gb=40, text_gb=30, tokens_billion=2, efficiency=0.5,
        mark_s_per_dump_gb=1, decompress_s_per_xml_gb=10, read_s_per_xml_gb=1,
        clean_s_per_text_gb=20, split_s_per_million_tokens=0.1, encode_s_per_million_tokens=1,
        batches_s_per_million_tokens=0.1, shards_s_per_million_tokens=0.5,
        hash_s_per_dump_gb=2, plan_s_per_thousand_batches=1, startup_s=3, batch_mb=1,
        batch_bytes_per_token=2, shard_bytes_per_token=3, tokens_per_shard_million=250,
        cores_per_host=8, worker_gb=0.5, main_gb=1, storage_gb_per_second=2,
    )  # fmt: skip
    cpu = 10 + 400 + 40 + 600 + 200 + 2000 + 200
    one, many = make_plan(flat, 1), make_plan(flat, 16)
    assert one.serial_s == many.serial_s == 3 + 2 * 10 + 30
    assert (one.prepare_s, many.prepare_s) == (cpu, cpu / 8)
    assert (one.shards, one.shards_s, many.shards_s) == (8, 1000, 125)
    assert one.total_s == 53 + cpu + 1000
    assert (many.hosts, many.memory_gb_per_host) == (2, 5)
    assert (many.read_gb, many.written_gb, many.disk_gb) == (40, 10, 20)
    assert many.limit == "preparing: CPU"
    slow = dataclasses.replace(flat, storage_gb_per_second=0.01)
    assert make_plan(slow, 16).prepare_s == (2 * 10 + 4) / 0.01
    assert make_plan(slow, 16).limit == "preparing: storage"
    packed = make_plan(dataclasses.replace(flat, readers=1), 16)
    assert (packed.prepare_s, packed.prepare_limit) == (440, "readers")


def test_plan_of_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = dict.fromkeys(STAGES, 2.0)
    profile = StageProfile("d", 10, 4 * 10**9, 1, 1, 2 * 10**9, 10**8, 3 * 10**8, 10**8, seconds)
    constants = Constants(**plan.measured(profile.as_json()))
    assert constants.decompress_s_per_xml_gb == constants.read_s_per_xml_gb == 0.5
    assert constants.clean_s_per_text_gb == 1
    assert constants.encode_s_per_million_tokens == constants.shards_s_per_million_tokens == 0.02
    assert (constants.batch_bytes_per_token, constants.shard_bytes_per_token) == (3, 1)
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"stages": [profile.as_json()]}))
    plan.main(["--profile", str(file), "--encode-s-per-million-tokens", "7.2"])
    table = capsys.readouterr().out
    assert "| clean | 0.02 |" in table
    assert "| encode | 9.00 |" in table  # a flag wins over the profile
    file.write_text("{}")
    with pytest.raises(UserError, match=r"profile\.json: not written by preparation\.py"):
        plan.main(["--profile", str(file)])


def test_plan_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["--cores", "1", "64", "--tokens-billion", "1"])
    table = capsys.readouterr().out
    assert "| | 1 core | 64 cores |" in table
    with pytest.raises(UserError, match="--efficiency 0: expected more than 0"):
        plan.main(["--efficiency", "0"])
