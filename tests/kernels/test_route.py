import naive
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import route


@every_pack
@both_precisions
def test_probabilities_agree_with_a_loop_over_units(lengths, dtype):
    cu_seqlens = bounds(lengths)
    inputs = [randn(sum(lengths), 6), randn(sum(lengths), 6)]

    def loop(q, k):
        # Documents of length 1 leave no path to the inputs: keep one of weight zero.
        return naive.route(q, k, cu_seqlens) + 0 * (q.sum() + k.sum())

    assert_same(lambda *t: route(*t, cu_seqlens)[0], loop, inputs, dtype)


def test_boundary_is_more_than_one_half_and_always_first():
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1], [1.0, 0.0]])
    prob, mask, *_ = route(q, k, bounds([3, 1]))
    # The second pair is orthogonal: p = 1/2 exactly is no boundary.
    assert prob[1] == 0.5
    assert mask.tolist() == [True, False, True, True]
    assert prob[0] == 1 and prob[3] == 1


def test_query_is_the_unit_before():
    q, k = randn(5, 4), randn(5, 4)
    prob, *_ = route(q, k, bounds([5]))
    expected = (1 - torch.cosine_similarity(q[:-1], k[1:], dim=-1)) / 2
    torch.testing.assert_close(prob[1:], expected)


def test_zero_vectors_give_one_half_and_no_gradient_but_a_finite_one():
    q, k = torch.zeros(4, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    prob, mask, *_ = route(q, k, bounds([4]))
    prob.sum().backward()
    assert prob.tolist() == [1.0, 0.5, 0.5, 0.5] and mask.sum() == 1
    assert torch.isfinite(q.grad).all() and torch.isfinite(k.grad).all()


def test_half_precision_gives_float32_probabilities():
    q = torch.randn(6, 4).bfloat16()
    assert route(q, q, bounds([6]))[0].dtype == torch.float32
