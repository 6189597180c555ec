"""python -m emodistill.cli"""

from emodistill.cli import main

main()
