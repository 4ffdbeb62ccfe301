"""`python -m gcoord.envs`: the list of worlds."""

import sys

from gcoord.worlds import main

if __name__ == "__main__":
    sys.exit(main())
