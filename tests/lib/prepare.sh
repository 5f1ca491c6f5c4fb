# Sourced by tests/run, tests/bare/run and examples/quickstart/run: installs what is missing, and
# says what before it does. Expects `root` to be the checkout.

say() { printf '%s\n' "$*" >&2; }

colour() { # colour CODE TEXT...: only on a terminal, and not where NO_COLOR is set
  local code=$1
  shift
  if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then printf '\033[%sm%s\033[0m\n' "$code" "$*" >&2; else say "$*"; fi
}

cache=${TASKMINT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/taskmint}

# prepare_rust: a toolchain, or how to get one.
prepare_rust() {
  [ -d "$HOME/.cargo/bin" ] && PATH=$HOME/.cargo/bin:$PATH
  if ! command -v cargo >/dev/null; then
    say "Taskmint needs a Rust toolchain (1.95 or later), and there is none."
    say "Get one from https://rustup.rs (or your distribution), then run this again."
    exit 2
  fi
  local have want=1.95
  have=$(rustc --version | awk '{print $2}')
  if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
    say "Taskmint needs Rust $want or later; this is $have. Run: rustup update stable"
    exit 2
  fi
}

# prepare_packages PACKAGE...: Debian packages, only those that are absent.
prepare_packages() {
  local missing=() package
  command -v dpkg-query >/dev/null || {
    say "This is not a Debian system: make sure that these are installed: $*"
    return 0
  }
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "installing Debian packages: ${missing[*]}"
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      say "not root, and there is no sudo; run as root: apt-get install ${missing[*]}"
      return 1
    }
    sudo=(sudo)
    [ -t 0 ] || sudo=(sudo -n) # nobody there to type a password
  fi
  "${sudo[@]}" apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive \
    "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# prepare_build: everything that compiling needs, RocksDB's archive included.
prepare_build() {
  prepare_rust
  prepare_packages g++ libclang-dev ca-certificates
  local environment
  environment=$("$root/tests/lib/rocksdb")
  eval "$environment"
}

# prepare_venv NAME REQUIREMENTS...: a Python environment of its own in the cache; prints its python.
prepare_venv() {
  local name=$1 venv stamp
  shift
  venv=$cache/venv-$name
  stamp=$(printf '%s\n' "$@" "$(python3 --version 2>&1)" | sha256sum | cut -c1-16)
  if [ "$(cat "$venv/STAMP" 2>/dev/null)" != "$stamp" ]; then
    say "making a Python environment: $*"
    rm -rf "$venv"
    mkdir -p "$cache"
    python3 -m venv "$venv" >&2 && "$venv/bin/pip" install -q "$@" >&2 || return 1
    printf '%s' "$stamp" >"$venv/STAMP"
  fi
  printf '%s\n' "$venv/bin/python"
}
