"""What other runtimes make of exported files: ``python -m bench.exported``. Needs the extras `bench`, `hf` and `real`."""
