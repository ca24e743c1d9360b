"""Learning rates: the published curve, its drop, and a schedule that never drifts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.optim.curve import SCHEDULES, SHAPES, Curve
from megabert.optim.lamb.optimizer import Lamb
from megabert.optim.schedule import Schedule, learning_rate


def test_published_phase_1() -> None:
    """6e-3, 7,038 steps, warm-up 0.2843: values worked out by hand from the formula."""
    rate = [learning_rate("poly", step, 7038, 6e-3, 0.2843) for step in range(1, 7039)]
    assert rate[0] == pytest.approx(6e-3 / (0.2843 * 7038))
    assert rate[1999] == pytest.approx(6e-3 * (2000 / 7038) / 0.2843)
    assert rate[2000] == pytest.approx(6e-3 * (1 - 2001 / 7038) ** 0.5)  # first after warm-up
    assert rate[3518] == pytest.approx(6e-3 * 0.5**0.5)
    assert rate[-1] == 0.0
    assert max(rate) == rate[1999] == pytest.approx(6e-3, rel=1e-3)
    assert rate[2000] / rate[1999] == pytest.approx(0.846, abs=1e-3)  # the drop


PUBLISHED = {
    "poly": lambda x, w: math.sqrt(1.0 - x),
    "linear": lambda x, w: (1.0 - x) / (1.0 - w),
    "cosine": lambda x, w: 0.5 * (1.0 + math.cos(math.pi * (x - w) / (1.0 - w))),
    "constant": lambda x, w: 1.0,
}


@pytest.mark.parametrize("name", PUBLISHED)
@given(
    steps=st.integers(1, 10**6),
    peak=st.floats(1e-5, 1.0),
    warmup=st.floats(0, 0.99),
    data=st.data(),
)
def test_the_first_four_are_bit_for_bit_what_they_were(
    name: str, steps: int, peak: float, warmup: float, data: st.DataObject
) -> None:
    """Runs of earlier versions resume with the same rates."""
    step = data.draw(st.integers(1, steps))
    x = step / steps
    expected = peak * x / warmup if x < warmup else peak * PUBLISHED[name](x, warmup)
    assert learning_rate(name, step, steps, peak, warmup) == expected


@pytest.mark.parametrize("decay", SHAPES)
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_wsd(decay: str, final: float) -> None:
    """Warm-up of 10 updates, stable to update 80, then the decay's shape by its formula."""
    curve = Curve("wsd", 100, 0.5, 0.1, 10, decay, 20, final)
    rates = [curve.rate(step) for step in range(1, 101)]
    assert rates[:9] == [0.5 * step / 10 for step in range(1, 10)]
    assert rates[9:80] == [0.5] * 71
    p = [k / 20 for k in range(1, 21)]
    shape = {
        "linear": [1 - x for x in p],
        "1-sqrt": [1 - x**0.5 for x in p],
        "cosine": [(1 + math.cos(math.pi * x)) / 2 for x in p],
    }[decay]
    assert rates[80:] == pytest.approx([0.5 * (final + (1 - final) * s) for s in shape], abs=1e-15)
    assert rates[-1] == pytest.approx(0.5 * final, abs=1e-15)


@given(end=st.integers(30, 400), longer=st.integers(0, 400), decay=st.integers(1, 20))
def test_the_stable_part_does_not_depend_on_the_length(end: int, longer: int, decay: int) -> None:
    """With a warm-up in updates, runs of different lengths have the same bits until one decays."""
    short = Curve("wsd", end, 3e-3, 7 / end, 7, "linear", decay)
    long = Curve("constant", end + longer, 3e-3, 7 / (end + longer), 7)
    stable = range(1, end - decay + 1)
    assert [short.rate(step) for step in stable] == [long.rate(step) for step in stable]


def test_inverse_square_root() -> None:
    curve = Curve("inverse-sqrt", 1000, 1e-2, 0.1)
    assert curve.rate(99) == pytest.approx(1e-2 * 0.99)
    assert curve.rate(100) == 1e-2
    assert curve.rate(400) == pytest.approx(5e-3)
    assert curve.rate(900) == pytest.approx(1e-2 / 3)
    cold = Curve("inverse-sqrt", 1000, 1e-2, 0.0)
    assert [cold.rate(step) for step in (1, 4)] == [1e-2, 5e-3]


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_last_rate_above_0(name: str) -> None:
    curve = Curve(name, 50, 1.0, 0.2, final_fraction=0.25)
    assert curve.rate(10) == 1.0
    assert curve.rate(30) == pytest.approx(0.625)
    assert curve.rate(50) == pytest.approx(0.25)


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.99), peak=st.floats(1e-5, 1.0))
def test_bounds(name: str, steps: int, warmup: float, peak: float) -> None:
    rates = [learning_rate(name, step, steps, peak, warmup) for step in range(1, steps + 1)]
    assert all(0.0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    rising = [rate for step, rate in enumerate(rates, 1) if step / steps < warmup]
    falling = rates[len(rising) :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if name in ("poly", "linear", "cosine"):
        assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(name, steps + 7, steps, peak, warmup) == rates[-1]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "inverse-sqrt", "wsd"])
def test_continuous_at_the_end_of_warm_up(name: str) -> None:
    before, after = (learning_rate(name, step, 10_000, 1.0, 0.5) for step in (4999, 5001))
    assert before == pytest.approx(after, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("step", 1, 10, 1.0, 0.1), "'step' is unknown"),
        (("poly", 1, 0, 1.0, 0.1), "at least 1 step"),
        (("poly", 1, 10, 1.0, 1.0), "below 1"),
        (("poly", 1, 10, 1.0, -0.1), "at least 0"),
    ],
)
def test_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learning_rate(*arguments)


def test_a_decay_that_begins_in_warm_up_is_refused() -> None:
    with pytest.raises(UserError, match="warm-up of 20 updates and a decay of 85 do not fit into"):
        Curve("wsd", 100, 1.0, 0.2, decay_steps=85)
    assert Curve("wsd", 100, 1.0, 0.2, decay_steps=80).rate(20) == 1.0


def make(steps: int = 10) -> tuple[Lamb, Schedule, torch.Tensor]:
    parameter = torch.ones(2)
    parameter.grad = torch.ones(2)
    optimizer = Lamb([{"params": [parameter]}, {"params": [torch.ones(1)], "adapt": False}])
    return optimizer, Schedule(optimizer, Curve("poly", steps, 1.0, 0.3)), parameter


def test_counts_applied_steps_and_resumes() -> None:
    optimizer, schedule, _ = make()
    for done in range(10):
        assert schedule.applied_steps == done
        assert schedule.get_last_lr() == [schedule.lr(done + 1)] * 2
        assert [group["lr"] for group in optimizer.param_groups] == schedule.get_last_lr()
        if done == 6:
            saved = schedule.state_dict()
        schedule.step()
    _, other, _ = make()
    other.load_state_dict(saved)
    assert other.get_last_lr() == [other.lr(7)] * 2


def test_a_loaded_rate_cannot_be_used() -> None:
    """A checkpoint may leave another lr in the groups; the update still uses the schedule's."""
    optimizer, schedule, parameter = make()
    optimizer.param_groups[0]["lr"] = 1e6
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == schedule.lr(1)
    assert (parameter - 1).abs().max() <= schedule.lr(1) * 1.01


def test_deepspeed_takes_it_as_an_object() -> None:
    assert not callable(make()[1])  # a callable would be called as a factory


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_single_update_at_rate_0_is_said(name: str) -> None:
    """It is that of the end of a schedule that falls to 0; two updates, or a peak of 0, are as asked for."""
    warning = Curve(name, 1, 0.1, 0.1).trains_nothing()
    assert (warning is not None) == (name in ("poly", "linear", "cosine"))
    assert Curve(name, 2, 0.1, 0.1).trains_nothing() is None
    assert (Curve(name, 9, 0.1, 0.1).trains_nothing(8) is None) == (warning is None)
    assert Curve(name, 1, 0.0, 0.1).trains_nothing() is None
