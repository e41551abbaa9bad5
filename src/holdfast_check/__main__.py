"""`python -m holdfast_check cert.json [--model FILE]`: 0 proved, 2 rejected, 6 not proved."""

import argparse

from holdfast_check import Rejected, check

if __name__ == "__main__":
    parser = argparse.ArgumentParser("holdfast_check")
    parser.add_argument("certificate")
    parser.add_argument("--model", help="a .safetensors file")
    try:
        print(*(report := check(**vars(parser.parse_args()))).lines, sep="\n")
    except Rejected as why:
        parser.exit(2, f"rejected: {why}\n")
    parser.exit(report.code)
