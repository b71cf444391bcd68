#!/bin/sh
# The gate without a CI service: gate.sh [BASE]. Exit code 0, also where nothing could be decided (which it says); else
# that of gradgate verify.
set -u
base=${1:-origin/main}
status=0
gradgate verify --profile pr --base-ref "$base" --report reports || status=$?
if [ -f reports/verify.json ]; then gradgate report build reports -o reports/report.html; fi
if [ "$status" -eq 3 ]; then
  echo "inconclusive: nothing failed, but not all is decided; see reports/report.html" >&2
  exit 0
fi
exit "$status"
