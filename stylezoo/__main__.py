"""python -m stylezoo"""

import os
import sys
from contextlib import suppress

if __name__ == "__main__":
    with suppress(OSError):  # a working directory that has been deleted
        if sys.path[0] in ("", os.getcwd()):
            # python -m puts it first, where a yaml.py beside someone's images would be imported in place of PyYAML; last, it
            # still has the classes that one's own recipes name
            sys.path.append(sys.path.pop(0))

from stylezoo.cli import main

if __name__ == "__main__":
    main()
