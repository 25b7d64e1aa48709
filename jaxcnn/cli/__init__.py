"""`jaxcnn COMMAND`: one module per command.

Each has a docstring, which is the text of its --help, `add_arguments(parser)`, `run(options)`, which returns
or yields `Output`s, and KEPT, which says after a stop what is saved. A command with subcommands also has
SUBCOMMANDS and `subcommand(name)`, which returns the same four. main.py does the rest. What takes long to
import is imported inside these functions, so that --help answers at once.
"""
