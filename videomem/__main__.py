import sys

from videomem.cli.main import main

sys.exit(main())
