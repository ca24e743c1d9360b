"""The encoder and its heads against transformers, with the same random weights in both."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.model.encoder import Encoder
from megabert.model.heads import BertForPreTraining
from megabert.model.init import initialize_weights
from megabert.model.task_heads import BertForQuestionAnswering
from megabert.parallel.products import NativeProducts, products_for
from megabert.parallel.rng import DropoutSeeds
from tests.helpers.model_cases import batch_of, tiny_batch, tiny_config

# transformers' name -> ours, for BERT (post-LN) and Megatron-BERT (pre-LN)
COMMON = (
    (r"\.attention\.self\.", ".attention."),
    (r"\.encoder\.layer\.", ".layers."),
    (r"\.attention\.output\.dense\.", ".attention.output."),
    (r"\.intermediate\.dense\.", ".mlp.up."),
    (r"cls\.predictions\.transform\.dense", "mlm.dense"),
    (r"cls\.predictions\.transform\.LayerNorm", "mlm.norm"),
    (r"cls\.predictions\.bias", "mlm.bias"),
    (r"cls\.seq_relationship", "nsp.classifier"),
    (r"qa_outputs", "qa.classifier"),
)
POST = (
    (r"\.attention\.output\.LayerNorm", ".attention_norm"),
    (r"(layer\.\d+)\.output\.LayerNorm", r"\1.mlp_norm"),
    (r"(layer\.\d+)\.output\.dense", r"\1.mlp.down"),
    (r"embeddings\.LayerNorm", "embeddings.norm"),
)
PRE = (
    (r"\.attention\.ln", ".attention_norm"),
    (r"(layer\.\d+)\.ln", r"\1.mlp_norm"),
    (r"encoder\.ln", "final_norm"),
    (r"(layer\.\d+)\.output\.dense", r"\1.mlp.down"),
)


def our_name(name: str, norm: str) -> str:
    for pattern, replacement in (*(PRE if norm == "pre" else POST), *COMMON):
        name = re.sub(pattern, replacement, name)
    return name


def reference(config: ModelConfig, kind: str) -> nn.Module:
    family = "Bert" if config.norm == "post" else "MegatronBert"
    settings = getattr(transformers, f"{family}Config")(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        hidden_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        initializer_range=config.initializer_range,
        layer_norm_eps=config.layer_norm_eps,
        attn_implementation="eager",
    )
    return getattr(transformers, family + kind)(settings)


def named(model: nn.Module, norm: str) -> dict[str, nn.Parameter]:
    return {our_name(name, norm): parameter for name, parameter in model.named_parameters()}


def randomize(model: nn.Module) -> None:
    """Biases and norms too: their initial values would hide mistakes."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator))


def copy_weights(target: dict[str, nn.Parameter], source: dict[str, nn.Parameter]) -> None:
    assert set(target) == set(source)
    with torch.no_grad():
        for name, parameter in target.items():
            rows = min(parameter.size(0), source[name].size(0))
            parameter[:rows] = source[name][:rows]
            parameter[rows:] = 7.0  # padded words: their value may not matter


def assert_same_gradients(ours: nn.Module, theirs: dict[str, nn.Parameter]) -> None:
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        expected = theirs[name].grad
        assert expected is not None, name
        rows = expected.size(0)
        difference = (parameter.grad[:rows] - expected).norm()
        if name.endswith("attention.key.bias"):  # shifts all scores alike: its gradient is 0
            assert max(parameter.grad.abs().max(), expected.abs().max()) < 1e-5
        else:
            assert difference <= 1e-4 * expected.norm(), name
        assert not parameter.grad[rows:].any(), name


CASES = [
    {"norm": "post"},
    {"norm": "pre"},
    {"norm": "post", "hidden_act": "gelu_new"},
    {"norm": "post", "hidden_act": "relu", "layer_norm_eps": 1e-5},
    {"norm": "post", "vocab_size": 128, "type_vocab_size": 3},
    {"norm": "post", "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 100},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
@pytest.mark.parametrize("direction", ["theirs-to-ours", "ours-to-theirs"])
def test_pretraining_model(case: dict[str, object], direction: str) -> None:
    torch.manual_seed(1)
    config = tiny_config(**case)
    theirs = reference(config, "ForPreTraining")
    ours = BertForPreTraining(config)
    if direction == "theirs-to-ours":
        randomize(theirs)
        copy_weights(dict(ours.named_parameters()), named(theirs, config.norm))
    else:
        initialize_weights(ours, config, seed=3)
        randomize(ours)
        copy_weights(named(theirs, config.norm), dict(ours.named_parameters()))
    batch = tiny_batch(config)
    inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask")}
    labels = torch.full_like(batch["input_ids"], -100)
    labels.view(-1)[batch["masked_positions"]] = batch["masked_labels"]
    expected = theirs(**inputs, labels=labels, next_sentence_label=batch["next_sentence_labels"])

    words, sentence = ours.logits(batch_of(**batch))
    words = words.unflatten(0, (3, 16))
    real = batch["attention_mask"].bool()
    assert sentence is not None
    assert words.shape == (3, 16, config.vocab_size)
    torch.testing.assert_close(words[real], expected.prediction_logits[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        sentence, expected.seq_relationship_logits.detach(), atol=1e-5, rtol=0
    )

    output = ours(batch_of(**batch))
    loss = output.mlm_loss_sum / output.mlm_count + output.nsp_loss_sum / output.nsp_count
    torch.testing.assert_close(loss, expected.loss, atol=1e-6, rtol=2e-7)
    predicted = expected.prediction_logits.flatten(0, 1)[batch["masked_positions"]].argmax(1)
    assert output.mlm_correct == (predicted == batch["masked_labels"]).sum()
    assert output.mlm_count == 7
    assert output.nsp_count == 3
    loss.backward()
    expected.loss.backward()
    assert_same_gradients(ours, named(theirs, config.norm))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_question_answering_model(norm: str) -> None:
    config = tiny_config(norm=norm)
    theirs = reference(config, "ForQuestionAnswering")
    randomize(theirs)
    ours = BertForQuestionAnswering(config)
    copy_weights(dict(ours.named_parameters()), named(theirs, norm))
    batch = tiny_batch(config)
    inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask")}
    start, end = ours(batch_of(**inputs))
    expected = theirs(**inputs)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(start[real], expected.start_logits[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(end[real], expected.end_logits[real], atol=1e-5, rtol=0)
    weight = torch.linspace(-1, 1, int(real.sum()))
    (start[real] * weight - end[real] * weight**2).sum().backward()
    logits = expected.start_logits[real] * weight - expected.end_logits[real] * weight**2
    logits.sum().backward()
    assert_same_gradients(ours, named(theirs, norm))


def test_no_mask_equals_full_mask_and_positions_may_stay_unused() -> None:
    config = tiny_config()
    model = Encoder(config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, config.vocab_size, (2, 9))
    full = torch.ones_like(ids)
    zeros = torch.zeros_like(ids)
    alone = model(batch_of(ids))
    assert torch.equal(alone, model(batch_of(ids, zeros, full)))
    padded = torch.cat([ids, torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    mask = torch.cat([full, torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    found = model(batch_of(padded, None, mask)).unflatten(0, padded.shape)[:, :9]
    torch.testing.assert_close(found, alone.unflatten(0, ids.shape), atol=1e-5, rtol=1e-5)


def test_bfloat16_is_close_to_float32() -> None:
    config = tiny_config(initializer_range=0.05)
    batch = tiny_batch(config)
    full = BertForPreTraining(config)
    initialize_weights(full, config, seed=0)
    half = BertForPreTraining(config)
    initialize_weights(half, config, seed=0)
    half.bfloat16()
    expected, output = full(batch_of(**batch)), half(batch_of(**batch))
    assert all(value.dtype == torch.float32 for value in output)
    torch.testing.assert_close(output.mlm_loss_sum, expected.mlm_loss_sum, rtol=1e-2, atol=0)
    output.mlm_loss_sum.backward()
    expected.mlm_loss_sum.backward()
    for (name, parameter), (_, low) in zip(full.named_parameters(), half.named_parameters()):
        if parameter.grad is None or "key.bias" in name:
            continue
        assert low.grad is not None
        assert (low.grad.float() - parameter.grad).norm() < 0.1 * parameter.grad.norm() + 1e-4, name


@pytest.mark.parametrize("sentence_task", [True, False])
def test_no_masked_position(sentence_task: bool) -> None:
    config = tiny_config()
    model = BertForPreTraining(config, sentence_task=sentence_task)
    initialize_weights(model, config, seed=0)
    batch = tiny_batch(config, masked=0)
    if not sentence_task:
        del batch["next_sentence_labels"]
    output = model(batch_of(**batch))
    assert output.mlm_loss_sum == 0
    assert output.mlm_count == 0
    assert output.nsp_count == (3 if sentence_task else 0)
    (output.mlm_loss_sum + output.nsp_loss_sum).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not sentence_task:
            assert not parameter.grad.any(), name


def test_sentence_parameters_exist_only_with_the_task() -> None:
    names = {name for name, _ in BertForPreTraining(tiny_config()).named_parameters()}
    without = BertForPreTraining(tiny_config(), sentence_task=False)
    assert names - {name for name, _ in without.named_parameters()} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "nsp.classifier.weight",
        "nsp.classifier.bias",
    }
    batch = tiny_batch(tiny_config())
    with pytest.raises(ValueError, match="sentence_task"):
        without(batch_of(**batch))


def test_sequence_longer_than_the_position_table() -> None:
    config = tiny_config(max_position_embeddings=8)
    ids = torch.zeros(1, 9, dtype=torch.int64)
    with pytest.raises(UserError, match=r"9 is larger .*8"):
        Encoder(config)(batch_of(ids))


def test_unknown_activation() -> None:
    with pytest.raises(UserError, match="'gelo'"):
        Encoder(tiny_config(hidden_act="gelo"))


def test_only_masked_positions_reach_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    model = BertForPreTraining(config)
    initialize_weights(model, config, seed=0)
    products: list[tuple[int, int]] = []
    real = products_for(torch.zeros(1)).forward

    def spy(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        products.append((len(x), len(weight)))
        return real(x, weight, *rest)

    monkeypatch.setattr(NativeProducts, "forward", lambda _, *args: spy(*args))
    model(batch_of(**tiny_batch(config, masked=4)))
    assert [rows for rows, columns in products if columns == config.padded_vocab_size] == [4]
    # in the last layer: queries, keys and values of all 48 rows, then the 4 and 3 first tokens
    assert [rows for rows, _ in products] == [48] * 6 + [48] * 3 + [7] * 3 + [4, 4, 3, 3]


def test_the_last_layer_for_some_rows_is_that_of_all() -> None:
    config = tiny_config(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = Encoder(config, dropout_seeds=DropoutSeeds(3))
    initialize_weights(model, config, seed=0)
    batch = tiny_batch(config)
    numbers, selected = torch.arange(3), torch.tensor([5, 3, 40, 3])
    whole = model(batch_of(**batch, sample_numbers=numbers))
    some = model(batch_of(**batch, sample_numbers=numbers), selected)
    torch.testing.assert_close(some, whole[selected], rtol=1e-5, atol=1e-5)
