"""Converts amounts to one currency; `rates` must know the currency, or this fails as a real job would."""

import argparse
import time

parser = argparse.ArgumentParser()
parser.add_argument("--currency", required=True)
parser.add_argument("--seconds", type=float, default=10)
options = parser.parse_args()

rates = {"EUR": 1.0, "USD": 0.92, "JPY": 0.0061}

time.sleep(options.seconds)
print(f"1200 orders, 1 {options.currency} = {rates[options.currency]} EUR")
