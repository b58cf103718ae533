"""What the Makefile calls. Everything here but `tools.demo` needs the standard library only."""
