"""Lets `python -m posttrain` do what the `posttrain` command does."""

from posttrain.cli import main

if __name__ == "__main__":
    main()
