"""What commands are asked, without what they do. To add one: a file here, and its line in this table."""

from dni_fx.cli.commands.base import Request, command
from dni_fx.cli.commands.decouple import Decouple
from dni_fx.cli.commands.diff import Diff
from dni_fx.cli.commands.env import Env
from dni_fx.cli.commands.export import Export
from dni_fx.cli.commands.inspect import Inspect
from dni_fx.cli.commands.list_ import List
from dni_fx.cli.commands.plan import ShowPlan
from dni_fx.cli.commands.recouple import Recouple
from dni_fx.cli.commands.simulate import Simulate
from dni_fx.cli.commands.train import Train
from dni_fx.cli.commands.verify import Verify

COMMANDS: tuple[type[Request], ...] = (
    Inspect,
    ShowPlan,
    Simulate,
    Decouple,
    Verify,
    Train,
    Export,
    Recouple,
    Diff,
    List,
    Env,
)

__all__ = ["COMMANDS", "Request", "command"]
