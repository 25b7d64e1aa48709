"""python -m jaxcnn COMMAND is the same program as jaxcnn COMMAND."""

from jaxcnn.cli.main import program

if __name__ == "__main__":
    program()
