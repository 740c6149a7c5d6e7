"""``python -m medgraft`` and the ``medgraft`` command."""

from medgraft.cli import main

if __name__ == "__main__":
    main()
