"""One module a command of `gradgate`: it reads arguments, calls the library and decides the exit code."""
