"""Two recurrent nets at different rates: one reads digits, the other hears of them at every third step.

The first counts odd digits of three; the second threes among the last nine, by messages of the first alone.
"""

import argparse

import torch
import torch.nn.functional as F
from nets import digits
from torch import Tensor, nn

import dni_fx

T, BATCH, WIDTH = 3, 32, 64
State = tuple[Tensor, Tensor]


class Teller(nn.Module):
    """Scores after the last of some steps, a message about them, and the state."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.core = nn.LSTM(features, WIDTH, batch_first=True)
        self.scores, self.message = nn.Linear(WIDTH, classes), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """(batch, steps, features) to (batch, classes), (batch, WIDTH) and the state."""
        h, state = self.core(x, state)
        return self.scores(h[:, -1]), self.message(h[:, -1]), state


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--link", default="local-head", help="guesses for messages; zero leaves them as they are")
options = parser.parse_args()
x, _, y, _ = digits()
torch.manual_seed(0)
fast = slow = torch.zeros(1, BATCH, WIDTH), torch.zeros(1, BATCH, WIDTH)
one = {"plan": "balanced:stages=1", "synthesizer": "linear", "carry": {"state": 2}}
reader = dni_fx.decouple(Teller(64, T + 1), (torch.zeros(BATCH, T, 64), fast), **one)
hearer = dni_fx.decouple(Teller(WIDTH, T * T + 1), (torch.zeros(BATCH, T, WIDTH), slow), **one)
link = dni_fx.Link(torch.zeros(BATCH, WIDTH), rate=T, synthesizer=options.link, classes=T + 1)
adams, seen = [torch.optim.Adam(net.parameters(), 2e-3) for net in (reader, hearer)], torch.zeros(BATCH, 0)
for step in range(1, options.steps + 1):
    at = torch.randint(len(x), (BATCH, T))
    odd, threes, seen = (y[at] % 2).sum(1), (y[at] == 3).sum(1), torch.cat([seen, y[at]], 1)[:, -T * T :]
    scores, message, fast = reader(x[at], fast)
    adams[0].zero_grad()
    (F.cross_entropy(scores, odd) + link(message, threes)).backward()
    adams[0].step()
    if link.is_full:
        told, _, slow = hearer(link.take(), slow)
        adams[1].zero_grad()
        F.cross_entropy(told, last := (seen == 3).sum(1)).backward()
        adams[1].step()
        if step % (100 * T) == 0 or step + T > options.steps:
            right = [float((a.argmax(1) == b).float().mean()) for a, b in ((scores, odd), (told, last))]
            print(f"step {step}: odd digits {right[0]:.2f} right, threes {right[1]:.2f}", flush=True)
