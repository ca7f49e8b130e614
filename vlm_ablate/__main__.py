"""`python -m vlm_ablate` is the command line."""

from vlm_ablate.cli import main

if __name__ == "__main__":
    main()
