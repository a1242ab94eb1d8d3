"""Evaluate trained heads on shuffled clips: python scripts/shuffle_ablation.py CHECKPOINT..."""

import sys

from videomem.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["shuffle", *sys.argv[1:]]))
