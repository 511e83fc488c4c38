#!/usr/bin/env bash
# Makes sure that this machine has what TallyMQ needs: Go, redis-server and the
# PostgreSQL server programs. Installs what is missing where it can (apt, brew) and
# otherwise names the command that does. Starts and enables no system service.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

have_postgres() {
  have initdb && have postgres && return 0
  local dir
  for dir in /usr/lib/postgresql/*/bin /usr/local/opt/postgresql*/bin /opt/homebrew/opt/postgresql*/bin; do
    [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && return 0
  done
  return 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif have sudo && sudo -n true 2>/dev/null; then
    sudo "$@"
  else
    die "needs root; run this and start again: sudo $*"
  fi
}

# Debian starts a service when its package is installed. What we install is only
# for private servers, so a policy forbids it meanwhile (only if there is none yet).
POLICY=/usr/sbin/policy-rc.d
apt_install() {
  local ours=no
  if [ ! -e "$POLICY" ]; then
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' > $POLICY && chmod 755 $POLICY"
    ours=yes
  fi
  local status=0
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
  if [ "$status" != 0 ]; then
    say "package lists may be old or missing: apt-get update"
    as_root apt-get update -qq >/dev/null || true
    status=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
  fi
  [ "$ours" = no ] || as_root rm -f "$POLICY"
  return "$status"
}

missing=()
have redis-server || missing+=(redis)
have_postgres || missing+=(postgresql)

if [ ${#missing[@]} -gt 0 ]; then
  say "missing: ${missing[*]}"
  if have apt-get; then
    packages=()
    for m in "${missing[@]}"; do
      case $m in redis) packages+=(redis-server) ;; *) packages+=("$m") ;; esac
    done
    # Two set-ups at once wait for each other.
    exec 9>"${TMPDIR:-/tmp}/tallymq-setup.$(id -u).lock"
    if have flock; then flock 9; fi
    say "installing ${packages[*]} with apt-get"
    apt_install "${packages[@]}" || die "apt-get could not install ${packages[*]}; run: sudo apt-get update && sudo apt-get install ${packages[*]}"
  elif have brew; then
    formulas=()
    for m in "${missing[@]}"; do
      case $m in postgresql) formulas+=(postgresql@15) ;; *) formulas+=("$m") ;; esac
    done
    brew install "${formulas[@]}" || die "brew could not install them; run: brew install ${formulas[*]}"
  else
    die "install ${missing[*]} with this system's package manager, so that redis-server, initdb and postgres can be found"
  fi
  have redis-server || die "redis-server is still not on the PATH"
  have_postgres || die "initdb and postgres are still not to be found"
fi

have go || die "Go is missing; install it from https://go.dev/dl/ (the version in go.mod or newer)"
go mod download || die "go mod download failed; is the network there?"
