import sys

from videomem.cli import main

sys.exit(main())
