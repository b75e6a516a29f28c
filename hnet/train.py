"""`python -m hnet.train RUN.yaml key=value ...`: what torchrun, accelerate and deepspeed start."""

import sys

from hnet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
