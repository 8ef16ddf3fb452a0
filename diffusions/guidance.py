"""Guidance: networks made to lean further towards a class."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusions.prediction import split_variance
from diffusions.process import Model


def classifier_free(conditional: Model, unconditional: Model, scale: float) -> Model:
    """Extrapolate from one network's prediction to another's (Ho & Salimans 2022, arXiv:2207.12598).

    (1 - scale) unconditional + scale conditional, the same in every form of prediction. Their w is
    scale - 1. A learned variance stays that of the conditional network.

    Args:
        conditional: The network with the class.
        unconditional: The network without it.
        scale: 1 for the conditional network alone, more for a stronger lean.

    Returns:
        A network that calls both.
    """

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        towards, variance = split_variance(conditional(x_t, t), x_t.shape[1])
        away, _ = split_variance(unconditional(x_t, t), x_t.shape[1])
        guided = torch.lerp(away, towards, scale)
        return guided if variance is None else torch.cat([guided, variance], dim=1)

    return model


def classifier_free_at_once(both: Model, scale: float) -> Model:
    """Do what `classifier_free` does in one call of twice as many images.

    Args:
        both: The network for 2 B images, told of the first B what to lean to, of the others what to lean away
            from.
        scale: As for `classifier_free`.

    Returns:
        A network for B images.
    """

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        towards, away = both(torch.cat([x_t, x_t]), torch.cat([t, t])).chunk(2)
        return classifier_free(lambda x, t: towards, lambda x, t: away, scale)(x_t, t)

    return model


def classifier_gradient(
    classifier: Callable[[Tensor, Tensor], Tensor], labels: int | Tensor, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return scale * grad log p(labels | x_t) as a function of x_t and t (Dhariwal & Nichol 2021).

    A process takes it by `Process.guided`.

    Args:
        classifier: (x_t [B, C, ...], t [B]) -> logits [B, classes], trained on noised images.
        labels: The class to lean to, or that of each image, int64 [B].
        scale: How strongly.

    Returns:
        (x_t, t) -> gradient, shape of x_t; works in inference mode too.
    """

    def gradient(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.detach().clone().requires_grad_()
            chosen = labels + torch.zeros(len(x), dtype=torch.int64, device=x.device)  # no copy of a number
            log_probability = classifier(x, t.clone()).log_softmax(dim=1).gather(1, chosen[:, None])
            return scale * torch.autograd.grad(log_probability.sum(), x)[0]

    return gradient
