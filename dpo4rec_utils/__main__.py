"""`python -m dpo4rec_utils`: see cli.py."""

import sys

from dpo4rec_utils.files import INTERRUPTED_SENTENCE

try:
    from dpo4rec_utils.cli import main

    code = main()
except KeyboardInterrupt:  # while the packages are imported, or while the interpreter takes leave
    print(INTERRUPTED_SENTENCE, file=sys.stderr)
    code = 130
sys.exit(code)
