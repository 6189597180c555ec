"""python -m emodistill: the same command line as the command `emodistill`."""

from emodistill.cli import main

main()
