"""The bisection for a level by distance, and the distance itself."""

import math

import pytest
import torch

from diffusions import distance, edit_within

N = 13


class Editor:
    """Results that are the level, everywhere; distances that are a factor of the row times the level."""

    def __init__(self, factors, dtype=torch.float32):
        self.factors, self.dtype = factors, dtype
        self.guide = torch.full((len(factors), 1, 2, 2), -1.0)
        self.calls = []

    def edit_rows(self, rows, level):
        self.calls.append((tuple(rows), level))
        return torch.full((len(rows), 1, 2, 2), float(level), dtype=self.dtype)

    def distances(self, rows, results):
        assert results.shape == (len(rows), 1, 2, 2)
        return torch.tensor([self.factors[row] for row in rows]).double() * results[:, 0, 0, 0].double()

    def run(self, limit, num_levels=N):
        return edit_within(self.edit_rows, self.distances, self.guide, num_levels, limit)


@pytest.mark.parametrize("limit", [0.0, *(half / 2 for half in range(1, 30))])
def test_every_limit_finds_the_highest_level_that_is_near_enough(limit):
    editor = Editor([1.0, 2.0, 0.5])
    results, levels, distances = editor.run(limit)
    assert levels == [min(int(limit / factor), N) for factor in (1, 2, 0.5)]
    assert distances == [level * factor for level, factor in zip(levels, (1, 2, 0.5), strict=True)]
    for result, level in zip(results, levels, strict=True):
        assert (result == (level if level else -1)).all()  # level 0: the guide


@pytest.mark.parametrize("num_levels", [1, 2, 3, 7, 8, 50])
def test_calls_grow_with_the_logarithm_of_the_levels(num_levels):
    for limit in range(num_levels + 1):
        editor = Editor([1.0])
        _, levels, _ = editor.run(limit + 0.5, num_levels)
        assert levels == [limit]
        assert len(editor.calls) <= math.ceil(math.log2(num_levels + 1))
        tried = [level for _, level in editor.calls]
        assert len(set(tried)) == len(tried)


def test_images_at_one_level_are_edited_together():
    """Rows 0 and 2 part from 1 after the first call; every call keeps the order of the batch."""
    editor = Editor([1.0, 4.0, 1.0])
    _, levels, _ = editor.run(10.5)
    assert levels == [10, 2, 10]
    assert editor.calls == [
        ((0, 1, 2), 7),
        ((1,), 3),
        ((0, 2), 10),
        ((1,), 1),
        ((0, 2), 12),
        ((1,), 2),
        ((0, 2), 11),
    ]


def test_where_even_level_1_is_too_far_the_result_is_the_guide():
    editor = Editor([5.0, 0.1])
    results, levels, distances = editor.run(2.0)
    assert levels == [0, N]
    assert distances[0] == 0
    assert torch.equal(results[0], editor.guide[0])
    assert (results[1] == N).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_distance_that_is_no_number_is_too_far(value):
    editor = Editor([value, 1.0])
    _, levels, distances = editor.run(math.inf)
    assert levels == [0, N]
    assert distances == [0, N]


def test_where_the_distance_does_not_grow_the_level_found_is_near_enough():
    """13 would be too, but the level above that was tried is too far."""
    far, tried = {2, 8, 10}, []

    def distances(rows, results):
        tried.append(int(results[0, 0]))
        return torch.tensor([9.0 if tried[-1] in far else 1.0])

    _, [level], [found] = edit_within(
        lambda rows, level: torch.full((1, 1), float(level)), distances, torch.zeros(1, 1), N, 2.0
    )
    assert (level, found) == (7, 1.0)
    assert tried == [7, 10, 8]


@pytest.mark.parametrize(
    ("given", "state"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_guides_are_not_changed_and_results_at_least_float32(given, state):
    editor = Editor([1.0, 9.0], dtype=state)
    editor.guide = editor.guide.to(given)
    copy = editor.guide.clone()
    results, levels, _ = editor.run(4.0)
    assert levels == [4, 0]
    assert results.dtype == state
    assert torch.equal(editor.guide, copy)


def test_distance_by_hand():
    """Squares 0, 1, 4 and 9 in one channel, and four times those in the other."""
    result = torch.tensor([[[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 4.0, 6.0]]]).expand(2, 2, 4)
    guide = torch.zeros(2, 2, 4)
    assert distance(result, guide).tolist() == pytest.approx([math.sqrt(70 / 8)] * 2)
    mask = torch.tensor([[[1.0, 0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0, 1.0]]])  # one channel for both
    expected = [math.sqrt((8.5 + 34) / 5), math.sqrt(45 / 2)]
    assert distance(result, guide, mask).tolist() == pytest.approx(expected)
    of_each_channel = torch.stack([torch.ones(2, 4), torch.zeros(2, 4)], dim=1)
    assert distance(result, guide, of_each_channel).tolist() == pytest.approx([math.sqrt(14 / 4)] * 2)
    assert torch.equal(distance(result, guide, torch.ones(2, 1, 4)), distance(result, guide))


def test_distance_where_nothing_may_change_is_0():
    result, guide = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    mask = torch.ones(2, 1, 4, 4)
    mask[0] = 0
    assert distance(result, guide, mask).tolist() == [0, 1]
    assert distance(guide, guide).tolist() == [0, 0]
