"""One-vs-rest linear support vector machines by stochastic gradient descent, as in the systems before 2012
(Lin and others, CVPR 2011; Sanchez, Perronnin, CVPR 2011; Akata and others, PAMI 2014)."""

import torch
from torch import nn

# Ours, for features of length 1: steps of RATE, falling to 0 in a line, on means over batches.
BATCH, RATE, DECAY = 32, 16.0, 1e-5
NEGATIVES = 32  # what all other classes weigh together, beside the image's own, if they are more


class OneVsRest(nn.Linear):
    """(rows, features) float32 -> (rows, classes) scores. Starts at zero.

    The objective: DECAY / 2 |weights|^2, and the mean over the images of max(0, 1 - score of its class) and w
    times the sum over the other classes of max(0, 1 + score), where w = NEGATIVES / others, 1 at most.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.requires_grad_(False)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def update(self, x: torch.Tensor, labels: torch.Tensor, rate: float) -> torch.Tensor:
        """A step of -`rate` times the objective's gradient; the scores before it, (rows, classes).

        x: (rows, features), rows <= BATCH, labels: (rows,) int64. A short batch makes a shorter step: every
        image counts the same.
        """
        scores: torch.Tensor = self(x)
        own = torch.zeros_like(scores).scatter_(1, labels[:, None], 1)
        signs, others = 2 * own - 1, max(1, scores.shape[1] - 1)
        weights = own + (1 - own) * min(1, NEGATIVES / others)
        gradient = -(signs * weights * (signs * scores < 1)) / BATCH
        self.weight.addmm_(gradient.T, x, beta=1 - rate * DECAY, alpha=-rate)
        self.bias.sub_(rate * gradient.sum(0))
        return scores
