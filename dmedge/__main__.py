"""`python -m dmedge`, which is how torchrun starts it."""

from dmedge.cli.main import main

if __name__ == "__main__":
    main()
