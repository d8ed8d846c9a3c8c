"""``onestage``, or ``python -m onestage``: runs the command line of this process. Ctrl-C shows no traceback from here on."""

import sys

from onestage.cli import early


def main() -> int:
    """Run the command line of this process and give the exit code."""
    early.begin()
    from onestage.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
