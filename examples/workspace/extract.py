"""Pretends to read orders: takes its time, and says how many there are."""

import argparse
import time

parser = argparse.ArgumentParser()
parser.add_argument("--day", required=True)
parser.add_argument("--seconds", type=float, default=10)
options = parser.parse_args()

time.sleep(options.seconds)
print(f"1200 orders of {options.day}")
