"""Learning rates: the published curve, its drop, and a schedule that never drifts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.optim.lamb.optimizer import Lamb
from megabert.optim.schedule import SCHEDULES, Schedule, learning_rate


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


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.99), peak=st.floats(1e-5, 1.0))
def test_bounds(name: str, steps: int, warmup: float, peak: float) -> None:
    rates = [learning_rate(name, step, steps, peak, warmup) for step in range(1, steps + 1)]
    assert all(0.0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    rising = [rate for step, rate in enumerate(rates, 1) if step / steps < warmup]
    falling = rates[len(rising) :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if name != "constant":
        assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(name, steps + 7, steps, peak, warmup) == rates[-1]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
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


def make(steps: int = 10) -> tuple[Lamb, Schedule, torch.Tensor]:
    parameter = torch.ones(2)
    parameter.grad = torch.ones(2)
    optimizer = Lamb([{"params": [parameter]}, {"params": [torch.ones(1)], "adapt": False}])
    return optimizer, Schedule(optimizer, "poly", steps, 1.0, 0.3), parameter


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
