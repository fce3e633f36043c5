#!/bin/sh
# A shell script of an air-gapped lab: no prompt, no network, stable exit codes, JSON where a program reads.
# Usage: lab.sh RECIPE    (the store has what the lock names; see docs/offline.md)
set -u
recipe=${1:?usage: lab.sh RECIPE}
export HYB_OFFLINE=1

hyb run "$recipe" --locked --quiet --json > run.json
code=$?
case $code in
  0) ;;
  4) echo "a check said no: gate, lock or digest" >&2; exit 4 ;;
  6) echo "something is not in the store; fetch it on the connected side" >&2; exit 6 ;;
  *) echo "hyb run ended with $code" >&2; exit $code ;;
esac

hyb verify "$recipe" --quiet >/dev/null || exit 4

# the digest of the last stage's output, for the lab's own records
python3 -c 'import json; s = json.load(open("run.json"))["steps"][-1]; print(s["name"], s["digest"])'
