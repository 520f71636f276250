#!/usr/bin/env bash
# Makes .venv and installs the pinned requirements into it; does nothing when that is done already.
#   PYTHON  the interpreter to make .venv with (default: the first of python3.11, 3.12, 3.13, python3)
#   SET     cpu or cuda (default: cuda where nvidia-smi works)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "error: $*" >&2
  exit 1
}

if [ -z "${SET:-}" ]; then
  if nvidia-smi >/dev/null 2>&1; then SET=cuda; else SET=cpu; fi
fi
requirements=requirements/$SET.txt
registry_torch=requirements/torch-registry.txt
hook=requirements/torchvision_hook.py
[ -f "$requirements" ] || fail "SET=$SET: expected cpu or cuda ($requirements does not exist)"

# The folder is part of the stamp: a moved or copied .venv points at the old place.
stamp=.venv/.installed-$( (cat "$requirements" "$registry_torch" "$hook" && pwd -P) | sha256sum | cut -c1-16)
[ -f "$stamp" ] && [ -x .venv/bin/python ] && exit 0

[ "$(uname -sm)" = "Linux x86_64" ] || fail "Linux on x86-64 is needed; this is $(uname -sm)"

new_enough() { # a shim may exist without an interpreter behind it, so run it
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}
if [ -x .venv/bin/python ] && new_enough .venv/bin/python; then
  :
else
  if [ -z "${PYTHON:-}" ]; then
    for PYTHON in python3.11 python3.12 python3.13 python3 ""; do
      [ -n "$PYTHON" ] && new_enough "$PYTHON" && break
    done
    [ -n "$PYTHON" ] || fail "Python 3.11 or later is needed; none found (PYTHON=/path/to/python3.11 names one)"
  fi
  new_enough "$PYTHON" || fail "Python 3.11 or later is needed; $PYTHON is older or does not run"
  "$PYTHON" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    fail "Python's venv module is needed; $PYTHON has none (on Debian and Ubuntu: the package python3-venv)"
fi

[ -x .venv/bin/python ] && new_enough .venv/bin/python || "$PYTHON" -m venv --clear .venv
rm -f .venv/.installed-*
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install=(.venv/bin/python -m pip install --disable-pip-version-check --no-input --no-deps)

# Torch's CPU build is on an index of its own. Where pip does not know one (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS or its
# configuration file), the public registry's build does: it is for CUDA, larger, and works on a CPU.
wanted=.venv/requirements.txt
grep '==' "$requirements" >"$wanted" || true
need=6
[ "$SET" = cuda ] && need=25
cpu_torch=$(grep -o '^torch==.*+cpu' "$wanted" || true)
if [ -n "$cpu_torch" ] && ! "${install[@]}" --dry-run "$cpu_torch" >/dev/null 2>&1; then
  echo "pip knows no index with $cpu_torch; taking the public registry's torch, with the CUDA libraries it needs"
  (grep -vE '^(torch|triton)==' "$wanted"; grep '==' "$registry_torch") >"$wanted.registry"
  mv "$wanted.registry" "$wanted"
  need=12
fi
free=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1048576))
[ -d "$site/torch" ] || [ "$free" -ge "$need" ] ||
  fail "$need GiB of free disk space are needed here for the environment; there are $free"

log=.venv/install.log
count=$(grep -c '==' "$wanted" || true)
echo "Installing $count packages into .venv: once, a few minutes (log: $log)"
# Unpacking is what takes the time, and pip does it on one core: two of them share the list, which
# is complete and pinned, so neither has anything to resolve.
pips=()
trap 'kill "${pips[@]}" 2>/dev/null || true' INT TERM
for half in 0 1; do
  awk -v half=$half '/==/ && n++ % 2 == half' "$wanted" >".venv/requirements-$half.txt"
  "${install[@]}" --progress-bar off --no-compile -r ".venv/requirements-$half.txt" >"$log.$half" 2>&1 &
  pips+=($!)
done
running() { kill -0 "${pips[0]}" 2>/dev/null || kill -0 "${pips[1]}" 2>/dev/null; }
failed=0
while running; do
  sleep 1 || true
  for pip in "${pips[@]}"; do # what one of them lacks need not wait for the other
    if ! kill -0 "$pip" 2>/dev/null && ! wait "$pip"; then
      failed=1
      kill "${pips[@]}" 2>/dev/null || true
    fi
  done
  if [ -t 1 ]; then
    seen=$(cat "$log".? | grep -c -E '^(Collecting|Requirement already)' || true)
    printf '\r  %s of %s found, %s s ' "$seen" "$count" "$SECONDS"
  fi
done
if [ -t 1 ]; then echo; fi
for pip in "${pips[@]}"; do wait "$pip" || failed=1; done
cat "$log".? >"$log" && rm "$log".?
if [ "$failed" = 1 ]; then
  fail "pip could not install $requirements: $(grep -E '^ERROR' "$log" | tail -n 1) (log: $log)"
fi

# Makes `python -m caprl_native.train` work from any folder, without a build.
cp "$hook" "$site/_caprl_torchvision.py"
printf '%s\nimport _caprl_torchvision; _caprl_torchvision.install()\n' "$(pwd -P)" >"$site/caprl_native.pth"
touch "$stamp"
echo "Installed in $SECONDS s"
