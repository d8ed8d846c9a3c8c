"""``python -m onestage`` is ``onestage``."""

import sys

from onestage.cli.main import main

sys.exit(main())
