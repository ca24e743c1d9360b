"""What the watch concludes from what ranks say."""

from __future__ import annotations

from dataclasses import replace

from megabert.engine.watch.judge import SLOW, SUSPICION, Beat, Seen, judge

LIMIT = 10.0
NOW = 1000.0


def _rank(number: int, *, heard: float = 0.5, **values: object) -> Seen:
    """A rank that sent a beat ``heard`` seconds ago, in an update."""
    beat = replace(Beat(number, host="node", pid=1, step=7, phase="update", slow=False), **values)
    return Seen(beat, NOW - heard)


def _text(*ranks: Seen, limit: float = LIMIT) -> str | None:
    verdict = judge({seen.beat.rank: seen for seen in ranks}, NOW, limit)
    return verdict.text if verdict is not None else None


def test_a_run_goes_on_while_any_rank_makes_progress() -> None:
    assert _text(_rank(0, idle=50.0, waits=True), _rank(1, idle=3.0)) is None


def test_the_rank_that_does_not_wait_for_others_stands_still() -> None:
    text = _text(_rank(0, idle=50.0, waits=True, ticks=9), _rank(1, idle=11.0, ticks=9))
    assert text is not None
    assert text.startswith("rank 1 on node hangs: no progress for 12 s, in update 7 since ")


def test_the_rank_that_is_behind_stands_still() -> None:
    """On a GPU no thread is seen to wait for a collective."""
    text = _text(_rank(0, idle=50.0, ticks=9), _rank(1, idle=50.0, ticks=8))
    assert text is not None
    assert text.startswith("rank 1 on node hangs")


def test_ranks_that_all_wait_are_named_as_such() -> None:
    text = _text(*(_rank(number, idle=50.0, waits=True) for number in range(2)))
    assert text is not None
    assert text.startswith("rank 0 on node and rank 1 on node wait for each other without end")


def test_outside_an_update_the_limit_is_longer() -> None:
    saving = {"slow": True, "phase": "saving a checkpoint"}
    assert _text(_rank(0, idle=SLOW * LIMIT - 1, **saving), _rank(1, idle=99.0, waits=True)) is None
    text = _text(_rank(0, idle=SLOW * LIMIT, **saving), _rank(1, idle=101.0, waits=True))
    assert text is not None
    assert "step 7 (saving a checkpoint)" in text


def test_a_silent_rank_is_judged_by_the_limit_in_any_phase() -> None:
    assert _text(_rank(0), _rank(1, heard=9.0, slow=True)) is None
    text = _text(_rank(0), _rank(1, heard=11.0, slow=True, phase="evaluation"))
    assert text == "nothing was heard of rank 1 on node for 11 s, last seen in step 7 (evaluation)"


def test_a_rank_that_ended_is_named_at_once_even_without_a_limit() -> None:
    ended = _rank(1)
    ended.gone = NOW - 0.1
    text = _text(_rank(0), ended, limit=0.0)
    assert text is not None
    assert text.startswith("rank 1 on node ended without a word")
    ended.gone = NOW + 0.1  # it may come back
    assert _text(_rank(0), ended, limit=0.0) is None


def test_a_rank_that_said_goodbye_is_not_missed() -> None:
    left = _rank(1, heard=50.0)
    left.goodbye = "finished"
    assert _text(_rank(0), left) is None
    left.goodbye = "reported"
    assert _text(_rank(0), left) == ""
    left.goodbye = "failed"
    assert _text(_rank(0), left) == (
        "rank 1 on node ended with an unforeseen error, which its own output shows"
    )


def test_without_a_limit_only_a_failed_collective_makes_silence_suspect() -> None:
    assert _text(_rank(0, idle=9e4), _rank(1, heard=9e4), limit=0.0) is None
    text = _text(_rank(0, failed=1.0), _rank(1, heard=SUSPICION + 1), limit=0.0)
    assert text == "nothing was heard of rank 1 on node for 11 s, last seen in update 7"


def test_a_collective_that_failed_although_all_answer() -> None:
    assert _text(_rank(0, failed=SUSPICION), _rank(1)) is None
    text = _text(_rank(0, failed=SUSPICION + 2), _rank(1))
    assert text == "a collective failed on rank 0 on node, though all ranks answer"


def test_a_rank_that_never_came_is_named_with_its_host() -> None:
    ranks = {
        0: _rank(0, host="a", first=0, ranks=2),
        1: _rank(1, host="a", first=0, ranks=2),
        2: _rank(2, host="b", first=2, ranks=2),
        3: _rank(3, pid=0, host="", heard=11.0),
    }
    verdict = judge(ranks, NOW, LIMIT)
    assert verdict is not None
    assert verdict.text.startswith("rank 3 on b did not join within 11 s: ")
    assert not verdict.kill


def test_what_one_rank_alone_has_met_is_said() -> None:
    ranks = {0: _rank(0), 1: _rank(1)}
    ranks[1].goodbye, ranks[1].fault = "reported", "x.json: no such file"
    verdict = judge(ranks, NOW, LIMIT)
    assert verdict is not None
    assert verdict.wrong_input == "x.json: no such file (on rank 1 on node)"


def test_an_interrupted_rank_is_not_lost() -> None:
    ranks = {0: _rank(0), 1: _rank(1, heard=100.0)}
    ranks[1].goodbye = "interrupted"
    assert judge(ranks, NOW, LIMIT) is None
