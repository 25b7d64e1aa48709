"""`jaxcnn COMMAND`: one file a command. main.py dispatches, exit_codes.py maps errors to exit codes."""
