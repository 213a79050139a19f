"""``python -m fxquant`` is the ``fxquant`` command."""

from fxquant.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
