#!/usr/bin/env bash
# Makes sure that this machine has what TallyMQ needs: Go and its modules,
# redis-server and the PostgreSQL server programs; with `test`, also the C compiler
# that the race detector needs and the linter's modules. Installs what is missing
# where it can (apt, brew) and otherwise names the command that does. Starts and
# enables no system service, and says nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

have_postgres() {
  have initdb && have postgres && return 0
  local dir
  for dir in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/opt/postgresql*/bin /opt/homebrew/opt/postgresql*/bin; do
    [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && return 0
  done
  return 1
}

# The race detector is linked by a C compiler, against the C library; not on macOS.
have_c() {
  [ "$(uname -s)" != Darwin ] || return 0
  local cc
  read -ra cc <<<"${CC:-gcc}"
  have "${cc[0]}" && printf '#include <stdlib.h>\n' | "${cc[@]}" -E -x c - >/dev/null 2>&1
}

# Without certificates Go downloads nothing, and a minimal Debian has none.
have_certificates() {
  ! have apt-get || [ -n "${SSL_CERT_FILE:-}${SSL_CERT_DIR:-}" ] || [ -e /etc/ssl/certs/ca-certificates.crt ]
}

find_missing() {
  missing=()
  have redis-server || missing+=(redis)
  have_postgres || missing+=(postgresql)
  have_certificates || missing+=(ca-certificates)
  [ "$what" != test ] || have_c || missing+=(gcc)
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Debian starts a service when its package is installed, makes a first Postgres
# cluster and has redis-server start with the machine. What we install is only for
# private servers, so while we install, two files say no; they are not there before
# and not after.
POLICY=/usr/sbin/policy-rc.d
CLUSTER=/etc/postgresql-common/createcluster.d/tallymq.conf
MARK='# for the time of a TallyMQ set-up'
LOG=$(mktemp "${TMPDIR:-/tmp}/tallymq-setup.XXXXXX")
guarded=no

guard() {
  guarded=yes
  if [ ! -e "$POLICY" ]; then
    as_root sh -c "printf '#!/bin/sh\n%s\nexit 101\n' '$MARK' >$POLICY && chmod 755 $POLICY"
  fi
  as_root sh -c "mkdir -p ${CLUSTER%/*} && printf '%s\ncreate_main_cluster = off\n' '$MARK' >$CLUSTER"
}

unguard() {
  rm -f "$LOG"
  [ "$guarded" = yes ] || return 0
  guarded=no
  if grep -qs "$MARK" "$POLICY"; then as_root rm -f "$POLICY"; fi
  as_root rm -f "$CLUSTER"
}
trap unguard EXIT
# Told to end, it waits for apt-get to end first.
trap 'exit 130' INT
trap 'exit 143' TERM

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 "$@" >>"$LOG" 2>&1
}

apt_install() {
  guard
  if ! apt_get install --no-install-recommends "$@"; then
    say "the package lists may be missing or old: apt-get update"
    apt_get update || true
    : >"$LOG"
    apt_get install --no-install-recommends "$@" || return 1
  fi
  case " $* " in
    *" redis-server "*) as_root update-rc.d redis-server disable >>"$LOG" 2>&1 || true ;;
  esac
  unguard
}

what=${1:-run}
case $what in run | test) ;; *) die "usage: scripts/setup.sh [run|test]" ;; esac

have go || die "Go is missing; install it from https://go.dev/dl/ (the version in go.mod or newer)"

find_missing
if [ ${#missing[@]} -gt 0 ] && have apt-get; then
  packages=()
  for m in "${missing[@]}"; do
    case $m in
      redis) packages+=(redis-server) ;;
      gcc) packages+=(gcc libc6-dev) ;;
      *) packages+=("$m") ;;
    esac
  done
  by_hand="sudo apt-get update && sudo apt-get install --no-install-recommends ${packages[*]}"
  [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; } ||
    die "missing: ${missing[*]}; installing needs root. Run this and start again: $by_hand"
  # Two set-ups at once wait for each other, and the second finds all done.
  exec 9>"${TMPDIR:-/tmp}/tallymq-setup.$(id -u).lock"
  if have flock; then flock 9; fi
  find_missing
  if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${packages[*]} with apt-get, this once"
    apt_install "${packages[@]}" || { tail -n 20 "$LOG" >&2; die "apt-get could not install them; run: $by_hand"; }
  fi
  exec 9>&-
elif [ ${#missing[@]} -gt 0 ] && have brew; then
  formulas=()
  for m in "${missing[@]}"; do
    case $m in postgresql) formulas+=(postgresql@15) ;; *) formulas+=("$m") ;; esac
  done
  say "installing ${formulas[*]} with brew, this once"
  brew install --quiet "${formulas[@]}" >&2 || die "brew could not install them; run: brew install ${formulas[*]}"
elif [ ${#missing[@]} -gt 0 ]; then
  die "missing: ${missing[*]}. Install them with this system's package manager, so that redis-server, initdb, postgres and (for tests) gcc can be found"
fi

find_missing
[ ${#missing[@]} -eq 0 ] || die "still not to be found: ${missing[*]}"

go mod download || die "go mod download failed; is the network there?"
[ "$what" != test ] || go mod download -modfile=tools/go.mod || die "go mod download -modfile=tools/go.mod failed; is the network there?"
