"""`python -m dpo4rec_utils`: see cli.py."""

import sys

from dpo4rec_utils.cli import main

sys.exit(main())
