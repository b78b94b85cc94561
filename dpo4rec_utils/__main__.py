"""`python -m dpo4rec_utils`: see cli.py."""

import sys

from dpo4rec_utils import INTERRUPTED, INTERRUPTED_SENTENCE

try:
    from dpo4rec_utils.cli import main  # here, because the packages take seconds to import

    code = main()
except KeyboardInterrupt:
    print(INTERRUPTED_SENTENCE, file=sys.stderr)
    code = INTERRUPTED
sys.exit(code)
