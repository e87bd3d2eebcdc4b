"""Run two or more commands alternately (A B A B ...) and report the ratio of figures of their last stdout line, a JSON object.

  python sidebyside.py --rounds 5 --cmd "py[users_per_cpu_s]=python p3_constrained.py ..." --cmd "rust[users_per_cpu_s]=./sidereal bench beam --json"

Several figures: "name[a,b]=...", in the same order for every command. A key may be dotted (gen.median_s); a leading minus
says that less is better (seconds), and the ratio is turned over, so that above 1 always means faster than the first command.
Ratios are taken within a round (same moment, same load), and then their median."""

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--cmd", action="append", required=True)
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()

commands = []
for text in args.cmd:
    match = re.match(r"^([\w.-]+)\[([\w.,-]+)\]=(.*)$", text, re.S)
    if not match:
        sys.exit(f"--cmd must be name[key,...]=command: {text}")
    commands.append((match[1], match[2].split(","), shlex.split(match[3])))
if len({len(keys) for _, keys, _ in commands}) != 1:
    sys.exit("every --cmd must name as many keys as the others")


def figure(answer, key):
    """The figure with its direction turned to 'more is better'."""
    value = answer
    for part in key.lstrip("-").split("."):
        value = value[part]
    return float(value), (1.0 / float(value) if key.startswith("-") else float(value))


printed = {name: [[] for _ in keys] for name, keys, _ in commands}
speed = {name: [[] for _ in keys] for name, keys, _ in commands}
for turn in range(args.rounds):
    for name, keys, argv in commands if turn % 2 == 0 else commands[::-1]:
        run = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if run.returncode:
            sys.exit(f"{name} failed ({run.returncode}): {run.stderr[-2000:]}")
        answer = json.loads(run.stdout.strip().splitlines()[-1])
        for slot, key in enumerate(keys):
            value, turned = figure(answer, key)
            printed[name][slot].append(value)
            speed[name][slot].append(turned)
            print(f"round {turn} {name} {key}: {value:.6g}", file=sys.stderr, flush=True)

base, out = commands[0][0], []
for slot in range(len(commands[0][1])):
    row = {"base": base, "rounds": args.rounds, "keys": {}, "median": {}, "values": {}, "ratio_to_base": {}}
    for name, keys, _ in commands:
        ratios = sorted(x / y for x, y in zip(speed[name][slot], speed[base][slot]))
        row["keys"][name], row["values"][name] = keys[slot], printed[name][slot]
        row["median"][name] = statistics.median(printed[name][slot])
        row["ratio_to_base"][name] = {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
    out.append(row)
print(json.dumps(out))
