"""`python -m cyclegan`."""

from cyclegan.cli import main

if __name__ == "__main__":
    main()
