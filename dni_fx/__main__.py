"""`python -m dni_fx` is `dni-fx`."""

from dni_fx.interruption import ending_at_once


def main() -> None:
    """Run the command line: exit 0 if all went well, 1 with a message if it did not, 2 for wrong usage."""
    with ending_at_once():
        from dni_fx.cli import main as run
    run()


if __name__ == "__main__":
    main()
