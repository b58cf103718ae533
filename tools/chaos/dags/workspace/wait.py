"""Takes its time, and does nothing."""

import sys
import time

time.sleep(float(sys.argv[1]))
