"""`python -m xvit` is `xvit`."""

from xvit.cli import main

if __name__ == "__main__":
    main()
