"""Model FLOPs against the published figures and a count by hand."""

import pytest

from megabert.config.model import model_config
from megabert.model.flops import pretraining_flops, sequence_flops
from tests.helpers.model_cases import tiny_config


@pytest.mark.parametrize(
    ("length", "predictions", "gigaflops"), [(128, 20, 240.6), (512, 80, 1020.5)]
)
def test_bert_large(length: int, predictions: int, gigaflops: float) -> None:
    flops = sequence_flops(model_config("bert-large"), length, predictions)
    assert round(flops / 1e9, 1) == gigaflops


def test_by_hand() -> None:
    config = tiny_config(num_hidden_layers=1)  # h = 32, f = 64, V = 101
    products = 10 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 10 * 10 * 32 + 3 * (32 * 32 + 32 * 101)
    assert sequence_flops(config, 10, 3) == 3 * 2 * products


def test_a_batch_is_the_sum_of_its_sequences() -> None:
    config = tiny_config()
    together = pretraining_flops(config, 10 + 20, 10**2 + 20**2, 5)
    assert together == sequence_flops(config, 10, 2) + sequence_flops(config, 20, 3)
