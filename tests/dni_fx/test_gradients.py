import os
import subprocess
import sys
from pathlib import Path


def test_a_graph_of_very_many_operations_in_a_row_is_freed_after_it_was_looked_at():
    """Autograd's functions that Python has seen are freed one inside of the other, which ends the process."""
    code = (
        "import torch\n"
        "from dni_fx.gradients import gradients_of\n"
        "x = y = torch.ones(1, requires_grad=True)\n"
        "for _ in range(100_000):\n"
        "    y = torch.tanh(y)\n"
        "(found,) = gradients_of([y], [torch.ones(1)], [x])\n"
        "del y\n"
        "print(found.shape)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert (done.returncode, done.stdout) == (0, "torch.Size([1])\n"), done.stderr
