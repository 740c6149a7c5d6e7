"""What stands between a body's features and a task's outputs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class LinearHead(nn.Module):
    """Dropout, then one linear layer: (B, F) -> (B, n) logits or quantities.

    Starts with weights from a normal distribution of standard deviation ``std`` and biases 0, so the first
    outputs are near 0 whatever the body: all classes begin equally likely.
    """

    def __init__(self, features: int, outputs: int, dropout: float = 0.0, std: float = 0.01) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, outputs)
        nn.init.normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features))


class HiddenHead(nn.Module):
    """A dense layer with ReLU, then a ``LinearHead``: (B, F) -> (B, n).

    Models Genesis classifies through one of 1024.
    """

    def __init__(self, features: int, hidden: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.last = LinearHead(hidden, outputs, dropout)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.zeros_(self.hidden.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(functional.relu(self.hidden(features)))


class AuxiliaryHead(nn.Module):
    """A second linear head on a side tower of the body, for training only (Szegedy et al., arXiv:1512.00567).

    ``tower`` is heard by a hook while the body runs; ``answer`` then holds the logits (B, n) for the loss, the mean
    over frames where an image network was lifted, or None where the tower did not run (evaluation, a still body).
    """

    def __init__(self, features: int, outputs: int, tower: nn.Module) -> None:
        super().__init__()
        self.head = LinearHead(features, outputs)
        self.answer: Tensor | None = None
        self._heard: Tensor | None = None
        tower.register_forward_hook(self._hear)

    def _hear(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self._heard = output

    def forward(self, batch: int) -> Tensor | None:
        """Logits (``batch``, n) of what was heard since the last call."""
        heard, self._heard = self._heard, None
        self.answer = None if heard is None else self.head(heard.unflatten(0, (batch, -1)).mean(1))
        return self.answer


class DenseHead(nn.Module):
    """Nothing to add to a dense body, whose own last convolution already gives K maps.

    That last layer keeps its library's initialisation and is what ``Model.groups`` calls the head.
    """

    def forward(self, maps: Tensor) -> Tensor:
        return maps
