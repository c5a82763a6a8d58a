"""`python -m convert`: the command, where the name `convert` belongs to another program."""

from convert.cli import main

if __name__ == "__main__":
    main()
