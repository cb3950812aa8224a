"""`python -m dni_fx` is `dni-fx`."""

from dni_fx.cli import main

if __name__ == "__main__":
    main()
