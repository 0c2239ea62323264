#!/usr/bin/env bash
# Makes a Docker engine answer, as root on Debian without one; prints its DOCKER_HOST. Fails, and says why, where none can.
# usage: export DOCKER_HOST=$(tests/containers/start_engine.sh FOLDER)
set -euo pipefail
folder=$1
say() { echo "$*" >&2; }

install() {
  local missing=()
  command -v dockerd >/dev/null || missing+=(docker.io)
  command -v docker >/dev/null || missing+=(docker.io)
  docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || missing+=(docker-compose)
  command -v debootstrap >/dev/null || missing+=(debootstrap)
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || {
    say "a Docker engine is needed, and ${missing[*]} cannot be installed without root on Debian; install them"
    return 1
  }
  say "==> installing ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2
}

install
if docker version >/dev/null 2>&1; then
  echo "${DOCKER_HOST:-unix:///var/run/docker.sock}"
  exit 0
fi
mkdir -p "$folder"
export DOCKER_HOST="unix://$folder/docker.sock"
# Without iptables and forwarding it needs no right but root's own: containers reach each other, not the internet.
setsid dockerd --data-root "$folder/data" --exec-root "$folder/exec" --host "$DOCKER_HOST" --pidfile "$folder/dockerd.pid" \
  --iptables=false --ip-forward=false --ip-masq=false --ip 127.0.0.1 >"$folder/dockerd.log" 2>&1 </dev/null &
for _ in $(seq 300); do
  if docker version >/dev/null 2>&1; then
    say "==> a Docker engine answers at $DOCKER_HOST"
    echo "$DOCKER_HOST"
    exit 0
  fi
  sleep 0.1
done
say "no Docker engine can run here; its log ends:"
tail -n 20 "$folder/dockerd.log" >&2
exit 1
