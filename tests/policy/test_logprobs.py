"""Log-probs in chunks are those of a plain log-softmax, and never need all logits at once."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from caprl_native.policy.logprobs import _product, token_logprobs

T, D, V = 50, 16, 300
BANNED = [7, 123]


@pytest.fixture
def given():
    torch.manual_seed(0)
    ids = torch.randint(0, V, (T,))
    ids[torch.isin(ids, torch.tensor(BANNED))] = 0
    return torch.randn(T, D, requires_grad=True), torch.randn(V, D, requires_grad=True), ids


def plain(hidden, weight, ids, temperature):
    logits = (hidden @ weight.T).float() / temperature
    kept = torch.ones(V, dtype=torch.bool).index_fill(0, torch.tensor(BANNED), False)
    logprobs = logits.masked_fill(~kept, float("-inf")).log_softmax(-1)
    allowed = logits[:, kept].double().log_softmax(-1)
    entropy = -(allowed.exp() * allowed).sum(-1).float()
    return logprobs.gather(1, ids[:, None])[:, 0], entropy


# 8: the first banned token ends a tile.
@pytest.mark.parametrize(
    ("chunk", "tile"), [(1, 8192), (7, 8), (7, 299), (50, 1), (50, 40), (1000, 8), (1000, 8192)]
)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_the_full_softmax(given, chunk, tile, temperature):
    hidden, weight, ids = given
    want, want_entropy = plain(hidden, weight, ids, temperature)
    got, entropy, _ = token_logprobs(
        hidden, weight, ids, banned=BANNED, temperature=temperature, chunk=chunk, tile=tile
    )
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, want_entropy, rtol=1e-5, atol=1e-5)
    assert not entropy.requires_grad
    scale = torch.randn(T)
    theirs = torch.autograd.grad((want * scale).sum(), (hidden, weight))
    ours = torch.autograd.grad((got * scale).sum(), (hidden, weight))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("chunk", "tile"), [(7, 8), (50, 299), (1000, 8192)])
def test_the_likeliest_token_is_known_from_the_same_pass(given, chunk, tile):
    hidden, weight, ids = given
    likeliest = (hidden @ weight.T).index_fill(1, torch.tensor(BANNED), -torch.inf).argmax(1)
    mixed = torch.where(torch.arange(T) % 2 == 0, likeliest, ids)
    found = token_logprobs(hidden, weight, mixed, banned=BANNED, chunk=chunk, tile=tile)
    assert torch.equal(found.is_top, mixed == likeliest)
    assert found.is_top[::2].all() and not found.is_top.all()


def test_banned_tokens_have_no_mass_and_the_others_have_all_of_it(given):
    hidden, weight, _ = given
    everything, *_ = token_logprobs(
        hidden[:1].expand(V, D), weight, torch.arange(V), banned=BANNED, chunk=64
    )
    assert everything[BANNED].exp().tolist() == [0.0, 0.0]
    assert everything.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_no_response_tokens_give_empty_tensors_with_a_graph(given):
    hidden, weight, ids = given
    logprobs, entropy, _ = token_logprobs(hidden[:0], weight, ids[:0], banned=BANNED)
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
    assert weight.grad.abs().sum() == 0


class Largest(TorchDispatchMode):
    """The most elements that any operator returned in one tensor."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize(("chunk", "tile"), [(5, 300), (25, 40)])
def test_forward_and_backward_see_one_tile_of_logits_at_a_time(given, chunk, tile):
    hidden, weight, ids = given
    with Largest() as seen:
        logprobs, *_ = token_logprobs(hidden, weight, ids, banned=BANNED, chunk=chunk, tile=tile)
        logprobs.sum().backward()
    assert seen.numel <= max(chunk * tile, V * D) < T * V


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_needs_no_gradient_gets_none(given, frozen):
    hidden, weight, ids = given
    tensors = {"hidden": hidden, "weight": weight}
    tensors[frozen].requires_grad_(False)
    want, _ = plain(hidden, weight, ids, 1.0)
    want.sum().backward()
    other = hidden if frozen == "weight" else weight
    theirs, other.grad = other.grad, None
    token_logprobs(hidden, weight, ids, banned=BANNED, chunk=7, tile=64)[0].sum().backward()
    assert tensors[frozen].grad is None
    torch.testing.assert_close(other.grad, theirs, rtol=1e-5, atol=1e-5)


def test_bfloat16_gradients_are_as_good_as_those_of_the_full_softmax(given):
    """Measured against float32; sums over many tiles lose nothing."""
    hidden, weight, ids = given
    (plain(hidden, weight, ids, 1.0)[0].sum()).backward()
    exact = [hidden.grad, weight.grad]

    def error(logprobs_of) -> float:
        half = [t.detach().bfloat16().requires_grad_() for t in (hidden, weight)]
        logprobs_of(*half).sum().backward()
        gaps = [(h.grad.float() - e).norm() / e.norm() for h, e in zip(half, exact, strict=True)]
        return float(max(gaps))

    ours = error(lambda h, w: token_logprobs(h, w, ids, banned=BANNED, chunk=3, tile=16)[0])
    theirs = error(lambda h, w: plain(h, w, ids, 1.0)[0])
    assert ours < 1.5 * theirs


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_bfloat16_logits_are_not_rounded(temperature):
    """The numbers are those of the same tensors in float32; only gradients are rounded."""
    torch.manual_seed(0)
    half = [(2 * torch.randn(n, D)).bfloat16().requires_grad_() for n in (T, V)]
    ids = torch.randint(8, 100, (T,))
    exact = [t.detach().float().requires_grad_() for t in half]
    ours, theirs = (
        token_logprobs(h, w, ids, banned=BANNED, temperature=temperature, chunk=7, tile=64)
        for h, w in (half, exact)
    )
    assert torch.equal(ours.logprobs, theirs.logprobs)
    assert torch.equal(ours.entropy, theirs.entropy)
    for scores in (ours, theirs):
        scores.logprobs.sum().backward()
    for h, e in zip(half, exact, strict=True):
        assert (h.grad.float() - e.grad).norm() < 0.004 * e.grad.norm()


def test_on_cuda_products_take_bfloat16_and_give_float32():
    """Fake tensors stand for a GPU: that the operator takes them is real, no number is computed."""
    operators = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            operators.append(str(func))
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(), Seen():
        hidden, weight = (torch.empty(n, D, dtype=torch.bfloat16, device="cuda") for n in (T, V))
        product = _product(hidden, weight.T)
    assert product.dtype == torch.float32 and product.shape == (T, V)
    assert "aten.mm.dtype" in operators and "aten._to_copy.default" not in operators
