"""The original entry point: python tools/run_net.py --cfg FILE KEY VALUE …"""

import sys

from xvit.cli_original import main
from xvit.errors import XViTError, warn_in_one_line

if __name__ == "__main__":
    warn_in_one_line()
    try:
        main()
    except XViTError as err:
        print(f"run_net.py: {' '.join(str(err).split())}", file=sys.stderr)
        sys.exit(2)
