"""A trial without training for `search.command`. Its best hyperparameters are known: cycle weight 4, identity weight 2.

It speaks the protocol of `cyclegan.search.worker` and logs each run to `ran.txt`. Over three reports, the metric rises
to 30 dB minus the squared distance from the best values, with a little noise by seed. With `--falls`, the second report
is the best, and the trial sends it as its result.
"""

import argparse
import json
import math
import os
import random
import signal
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--falls", action="store_true")
    for trouble in ("--crash", "--kill", "--nan", "--null", "--text"):
        parser.add_argument(trouble, metavar="SLOT")
    options = parser.parse_args()
    request = json.loads(sys.stdin.readline())
    setting, slot = request["setting"], request["slot"]
    note = {name: request[name] for name in ("slot", "final", "seed", "cheap", "setting")}
    with open("ran.txt", "a") as file:
        file.write(json.dumps(note | {"pid": os.getpid(), "threads": os.environ.get("TF_NUM_INTRAOP_THREADS")}) + "\n")
    print("not a line of the protocol", flush=True)
    print(json.dumps({"level": "info", "result": "nor is this"}), flush=True)
    if slot == options.crash:
        raise MemoryError("planted crash")
    if slot == options.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    distance = math.log(setting["cycle"] / 4) ** 2 + (setting["identity"] - 2) ** 2 / 4
    noise = random.Random(request["seed"]).gauss(0, 0.02)
    results = []
    for done in (0.5, 1.0, 0.8) if options.falls else (0.5, 0.8, 1.0):
        time.sleep(options.seconds / 3)
        metric = math.nan if slot == options.nan else 20 + done * (10 - distance) + noise
        metrics = {f"val_{way}/pair_psnr": metric for way in ("AtoB", "BtoA")}
        metrics |= {f"val_{way}/cycle_l1": 0.1 / setting["cycle"] for way in ("AtoB", "BtoA")}
        metrics |= {f"val_{way}/kid": (30 - metric) / 100 for way in ("AtoB", "BtoA")}
        metrics |= {"val_AtoB/kid": None} if slot == options.null else {}
        print(json.dumps({"metrics": metrics}), flush=True)
        answer = sys.stdin.readline()
        if not answer or not json.loads(answer)["continue"]:
            return
        results.append(metrics)
    if slot == options.text:
        print(json.dumps({"result": {"val_AtoB/pair_psnr": "n/a"}}), flush=True)
    if options.falls:
        print(json.dumps({"result": results[1]}), flush=True)


main()
