"""``python -m scenelift``: the command line, also for ``torchrun -m scenelift``."""

from scenelift.cli import main

if __name__ == "__main__":
    main()
