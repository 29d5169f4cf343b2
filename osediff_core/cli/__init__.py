"""The command line: main.py, one file a command, and what commands share; nothing but streams.py prints."""
