"""Train one-vs-rest linear support vector machines by SGD, as in the systems before 2012
(Lin and others, CVPR 2011; Sanchez, Perronnin, CVPR 2011; Akata and others, PAMI 2014)."""

import torch
from torch import nn

# Our choice, for features of length 1: the learning rate falls linearly from RATE to 0.
BATCH, RATE, DECAY = 32, 16.0, 1e-5
NEGATIVES = 32  # total weight of the other classes, if they are more; the image's own weighs 1


class OneVsRest(nn.Linear):
    """Map (rows, features) float32 to (rows, classes) scores; parameters start at zero.

    The objective: DECAY / 2 |weights|^2, and the mean over the images of max(0, 1 - score of its class) and w
    times the sum over the other classes of max(0, 1 + score), where w = NEGATIVES / others, 1 at most.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.requires_grad_(False)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def update(self, x: torch.Tensor, labels: torch.Tensor, rate: float) -> torch.Tensor:
        """Step by -`rate` times the objective's gradient; return the scores before it, (rows, classes).

        x: (rows, features), rows <= BATCH, labels: (rows,) int64. The gradient of a short batch is divided by
        BATCH, too: every image counts the same.
        """
        scores: torch.Tensor = self(x)
        targets = torch.zeros_like(scores).scatter_(1, labels[:, None], 1)
        signs, others = 2 * targets - 1, max(1, scores.shape[1] - 1)
        weights = targets + (1 - targets) * min(1, NEGATIVES / others)
        gradient = -(signs * weights * (signs * scores < 1)) / BATCH
        self.weight.addmm_(gradient.T, x, beta=1 - rate * DECAY, alpha=-rate)
        self.bias.sub_(rate * gradient.sum(0))
        return scores
