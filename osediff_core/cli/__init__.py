"""What the command line does, one file per family of commands; nothing here prints."""
