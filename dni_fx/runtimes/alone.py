"""What callbacks change in one process alone, of which no other would hear."""

from __future__ import annotations

from collections.abc import Mapping

from dni_fx.errors import StageError
from dni_fx.runtimes.owned import Owned, options_of


class Alone:
    """The options of the optimizers of one process of several, before callbacks are called in it."""

    def __init__(self, owned: Mapping[str, Owned]) -> None:
        self.owned = owned
        self.options = {name: options_of(each.optimizer) for name, each in owned.items()}

    def refuse_changes(self) -> None:
        """Do nothing if they are still the same.

        Raises:
            StageError: some are not, and other processes would go on with theirs.
        """
        for name, before in self.options.items():
            now = options_of(self.owned[name].optimizer)
            if changed := [key for key, value in now.items() if before.get(key) != value]:
                raise StageError(
                    f"a callback has changed {', '.join(changed)} of the optimizer of {name}: callbacks are "
                    "called in one process, and the stages of others have optimizers of their own. Use "
                    "scheduler=, which every process makes for its own."
                )
