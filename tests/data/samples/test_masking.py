"""Which tokens are predicted, and what replaces them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.data.samples.masking import Masker, MaskSettings, default_max_predictions
from megabert.data.samples.whole_words import take_spans, take_words

MASK, VOCAB, SPECIAL = 4, 200, (0, 1, 2, 3, 4)


def batch(lengths: list[int], width: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """[CLS] text [SEP] text [SEP] [PAD]...: ids, maskable, word starts."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), width), dtype=np.int64)
    maskable = np.zeros(ids.shape, dtype=bool)
    for row, length in enumerate(lengths):
        half = length // 2
        ids[row, : length + 3] = 3
        ids[row, 0] = 2
        maskable[row, 1 : 1 + half] = True
        maskable[row, 2 + half : 2 + length] = True
    ids[maskable] = rng.integers(5, VOCAB, int(maskable.sum()))
    return ids, maskable, (rng.random(ids.shape) < 0.6) & maskable


def run(
    chosen: MaskSettings,
    ids: np.ndarray,
    maskable: np.ndarray,
    words: np.ndarray,
    epoch: int = 0,
    seed: int = 1,
) -> tuple[np.ndarray, ...]:
    """Masked ids, positions, labels."""
    masked = ids.copy()
    samples = np.arange(len(ids))
    masker = Masker(chosen, seed, MASK, VOCAB, SPECIAL)
    positions, labels = masker.apply(masked, maskable, words, np.full_like(samples, epoch), samples)
    return masked, positions, labels


def words_of(maskable: np.ndarray, starts: np.ndarray) -> list[list[int]]:
    """Positions of each word of a row, one by one."""
    words: list[list[int]] = []
    for place in np.flatnonzero(maskable).tolist():
        if starts[place] or not words or words[-1][-1] != place - 1:
            words.append([])
        words[-1].append(place)
    return words


@given(
    lengths=st.lists(st.integers(0, 61), min_size=1, max_size=6),
    masking=st.sampled_from(["token", "whole-word", "ngram"]),
    fraction=st.sampled_from([0.01, 0.15, 0.4, 1.0]),
    limit=st.sampled_from([None, 1, 7]),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=200, deadline=None)
def test_only_text_is_masked_and_as_much_as_asked(lengths, masking, fraction, limit, seed):
    ids, maskable, words = batch(lengths, 64, seed % 1000)
    chosen = MaskSettings(masking, fraction, limit)
    masked, positions, labels = run(chosen, ids, maskable, words, seed=seed)
    assert (np.diff(positions) > 0).all()
    assert (labels == ids.flat[positions]).all()
    assert maskable.flat[positions].all()
    untouched = np.ones(ids.size, dtype=bool)
    untouched[positions] = False
    assert (masked.flat[untouched] == ids.flat[untouched]).all()
    new = masked.flat[positions]
    assert (new < VOCAB).all()
    assert ((new == MASK) | ~np.isin(new, SPECIAL)).all()
    for row, length in enumerate(lengths):
        places = positions[positions // 64 == row] % 64
        most = limit or default_max_predictions(64, fraction)
        budget = min(most, max(1, int(np.floor(fraction * length + 0.5))))
        if masking == "token":
            assert len(places) == min(budget, length)
        else:
            assert min(1, length) <= len(places) <= budget
            cut = [
                w
                for w in words_of(maskable[row], words[row])
                if 0 < np.isin(w, places).sum() < len(w)
            ]
            if cut:  # only where no word fitted into the budget
                assert len(cut) == 1
                assert len(places) == budget < len(cut[0])


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=40), min_size=1, max_size=5),
    budget=st.integers(1, 30),
)
@settings(max_examples=100, deadline=None)
def test_words_taken_together_are_those_taken_one_by_one(sizes, budget):
    depth = max(len(row) for row in sizes)
    counts = np.array([len(row) for row in sizes])
    stops = np.cumsum([row + [0] * (depth - len(row)) for row in sizes]).reshape(-1, depth)
    first = np.concatenate(([0], stops.ravel()[:-1])).reshape(-1, depth)
    spans = np.stack((first, stops), axis=2)
    budgets = np.full(len(sizes), budget)
    together, one_by_one = (bytearray(int(stops.max()) + 1) for _ in range(2))
    left = take_words(spans, counts, budgets, together)
    assert left.tolist() == take_spans(spans, counts, budgets, one_by_one).tolist()
    assert together == one_by_one
    assert sum(together) == budgets.sum() - left.sum()


@pytest.mark.parametrize("masking", ["token", "whole-word", "ngram"])
def test_eight_one_one(masking):
    ids, maskable, words = batch([500] * 400, 512)
    masked, positions, labels = run(MaskSettings(masking), ids, maskable, words)
    new = masked.flat[positions]
    count = len(positions)
    assert 0.95 < count / (400 * 75) <= 1
    assert abs((new == MASK).mean() - 0.8) < 0.01
    kept, swapped = new == labels, (new != MASK) & (new != labels)
    assert abs(kept.mean() - 0.1) < 0.01
    assert abs(swapped.mean() - 0.1) < 0.01
    ordinary = np.bincount(new[swapped], minlength=VOCAB)[5:]
    assert ((ordinary - ordinary.mean()) ** 2 / ordinary.mean()).sum() < 195 + 5 * (2 * 195) ** 0.5


@pytest.mark.parametrize("shares", [(0.5, 0.3), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.9, 0.1)])
def test_other_shares(shares):
    """The same tokens are predicted, and other shares of them are replaced."""
    ids, maskable, words = batch([500] * 100, 512)
    _, usual, _ = run(MaskSettings("whole-word"), ids, maskable, words)
    chosen = MaskSettings("whole-word", mask_share=shares[0], random_share=shares[1])
    masked, positions, labels = run(chosen, ids, maskable, words)
    assert (positions == usual).all()
    new = masked.flat[positions]
    assert abs((new == MASK).mean() - shares[0]) < 0.02
    swapped = ((new != MASK) & (new != labels)).mean()
    assert abs(swapped - shares[1] * (1 - 1 / (VOCAB - 5))) < 0.02
    if sum(shares) == 1:
        assert (new == labels).mean() < 0.02  # a random token may be the same one
    if shares == (0.0, 0.0):
        assert (masked == ids).all()


def test_each_token_is_as_likely_to_be_masked():
    ids, maskable, words = batch([97] * 20, 100)
    counts = np.zeros(100)
    for epoch in range(300):
        _, positions, _ = run(MaskSettings(), ids, maskable, words, epoch)
        counts += np.bincount(positions % 100, minlength=100)
    text = counts[maskable[0]]
    assert (counts[~maskable[0]] == 0).all()
    assert abs(text / text.mean() - 1).max() < 0.15


def test_whole_words_of_any_length_are_masked_together():
    ids, maskable, words = batch([400] * 50, 404)
    _, positions, _ = run(MaskSettings("whole-word"), ids, maskable, words)
    sizes: dict[bool, list[int]] = {True: [], False: []}
    for row in range(50):
        places = positions[positions // 404 == row] % 404
        for word in words_of(maskable[row], words[row]):
            inside = np.isin(word, places)
            assert inside.all() or not inside.any()
            sizes[bool(inside.all())].append(len(word))
    assert abs(np.mean(sizes[True]) - np.mean(sizes[False])) < 0.1


def test_ngram_spans_are_one_to_three_words_with_chances_one_over_n():
    ids, maskable, _ = batch([500] * 300, 512)
    chosen = MaskSettings("ngram", fraction=0.02)
    _, positions, _ = run(chosen, ids, maskable, maskable.copy())  # each token a word
    runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
    sizes = np.bincount([len(r) for r in runs], minlength=4)
    assert sizes[4:].sum() < 0.03 * sizes.sum()  # neighbours by chance
    shares = sizes[1:4] / sizes[1:4].sum()
    assert abs(shares - np.array([6, 3, 2]) / 11).max() < 0.05


def test_masks_are_new_each_epoch_and_the_same_in_any_company():
    ids, maskable, words = batch([60, 50, 40], 64)
    for masking in ("token", "whole-word", "ngram"):
        masker = Masker(MaskSettings(masking), 1, MASK, VOCAB, SPECIAL)
        epochs, samples = np.array([0, 5, 5]), np.array([9, 2**40, 3])
        together = ids.copy()
        positions, _ = masker.apply(together, maskable, words, epochs, samples)
        for row in range(3):
            alone = ids[row : row + 1].copy()
            one = slice(row, row + 1)
            places, _ = masker.apply(alone, maskable[one], words[one], epochs[one], samples[one])
            assert (alone[0] == together[row]).all()
            assert (places == positions[positions // 64 == row] % 64).all()
        again = ids.copy()
        other, _ = masker.apply(again, maskable, words, epochs + 1, samples)
        assert set(other.tolist()) != set(positions.tolist())


def test_nothing_to_mask_gives_nothing():
    ids, maskable, words = batch([0, 0], 16)
    for masking in ("token", "whole-word", "ngram"):
        masked, positions, labels = run(MaskSettings(masking), ids, maskable, words)
        assert (masked == ids).all()
        assert positions.shape == labels.shape == (0,)


def test_maximum_as_published_and_wrong_settings_refused():
    assert [default_max_predictions(n) for n in (32, 64, 128, 256, 384, 512)] == [
        5,
        10,
        20,
        40,
        60,
        80,
    ]
    assert default_max_predictions(128, 0.4) == 55
    for wrong in (
        {"masking": "words"},
        {"fraction": 0.0},
        {"fraction": 1.5},
        {"max_predictions": 0},
        {"mask_share": 0.8, "random_share": 0.3},
    ):
        with pytest.raises(UserError):
            MaskSettings(**wrong)
    with pytest.raises(UserError, match="special tokens"):
        Masker(MaskSettings(), 0, MASK, 5, SPECIAL)
