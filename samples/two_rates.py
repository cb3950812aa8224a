"""Two recurrent nets at different rates: one reads digits, the other hears of them at every third step.

The first counts odd digits among the last three. The second counts threes among the last nine, which it knows
from the first one's messages alone. Neither waits for the other, nor for its own steps to come.
"""

import argparse

import torch
import torch.nn.functional as F
from nets import digits
from torch import Tensor, nn

import dni_fx

T, BATCH, WIDTH = 3, 32, 64


class Net(nn.Module):
    """Scores after the last of some steps, a message about them, and the state."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU())
        self.core = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.scores, self.message = nn.Linear(WIDTH, classes), nn.Linear(WIDTH, WIDTH)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """(batch, steps, features) to (batch, classes), (batch, WIDTH) and the state."""
        h, state = self.core(self.enter(x), state)
        return self.scores(h[:, -1]), self.message(h[:, -1]), state


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--link", default="linear", help="the synthesizer of the message, such as linear or zero")
options = parser.parse_args()

x, _, y, _ = digits()
torch.manual_seed(0)
state = torch.zeros(1, BATCH, WIDTH), torch.zeros(1, BATCH, WIDTH)
one, example = (
    {"plan": "balanced:stages=1", "synthesizer": "linear", "carry": {"state": 2}},
    torch.zeros(BATCH, T, WIDTH),
)
reader = dni_fx.decouple(Net(64, T + 1), (torch.zeros(BATCH, T, 64), state), **one)
hearer = dni_fx.decouple(Net(WIDTH, T * T + 1), (example, state), **one)
link = dni_fx.Link(example[:, 0], rate=T, synthesizer=options.link)
adams = [torch.optim.Adam(net.parameters(), 2e-3) for net in (reader, hearer)]
fast, slow, right, seen = state, state, [0.0, 0.0], torch.zeros(BATCH, 0, dtype=torch.long)
for step in range(options.steps):
    at = torch.randint(len(x), (BATCH, T))
    seen = torch.cat([seen, y[at]], 1)[:, -T * T :]
    scores, message, fast = reader(x[at], fast)
    adams[0].zero_grad()
    (F.cross_entropy(scores, (y[at] % 2).sum(1)) + link(message)).backward()
    adams[0].step()
    right[0] += 0.01 * (float((scores.argmax(1) == (y[at] % 2).sum(1)).float().mean()) - right[0])
    if link.is_full:
        scores, _, slow = hearer(link.take(), slow)
        adams[1].zero_grad()
        F.cross_entropy(scores, (seen == 3).sum(1)).backward()
        adams[1].step()
        right[1] += 0.03 * (float((scores.argmax(1) == (seen == 3).sum(1)).float().mean()) - right[1])
    if (step + 1) % max(options.steps // 5, 1) == 0:
        print(f"step {step + 1}: odd digits {right[0]:.3f} right, threes {right[1]:.3f}", flush=True)
