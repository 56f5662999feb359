#!/usr/bin/env bash
# Installs mini on this machine (Debian or Ubuntu, with systemd), or brings an installed one up to date.
#
#   install.sh --from DIR|ARCHIVE|URL [--domain NAME] [--address IP]
#   install.sh uninstall [--purge]
#
#   --from       where mini, minid and mini-static come from: a folder with them, a .tar.gz of them, or the
#                https address of one, with its SHA-256 at the same address and .sha256
#                [default: the folder of this script]
#   --domain     apps are served at APP.NAME [default: ADDRESS.nip.io; on an installed server: as it is]
#   --address    the address that others reach this machine by [default: that of its route to the world]
#   uninstall    takes programs and units away; data, apps' containers and volumes stay
#   --purge      and those too
#
# It may be run again at any time: what is right is left as it is, and what has changed is restarted.
#
# Where things lie:
#   /usr/local/lib/mini/releases/ID/   minid, mini, mini-static of one version; ID is VERSION-DIGEST
#   /usr/local/lib/mini/current        -> releases/ID: an upgrade makes it lead to another
#   /usr/local/lib/mini/previous       -> releases/ID: the one before
#   /usr/local/bin/mini, minid         -> ../lib/mini/current/…
#   /etc/mini/minid.env                settings (the flags' environment twins); kept
#   /etc/systemd/system/mini-*         what `minid units` of the current version writes
#   /var/lib/mini                      the controller's data (0700, root)
#   /var/lib/mini-proxy                routes and certificates (0700, the proxy's user)
set -euo pipefail
umask 022
export LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

readonly lib=/usr/local/lib/mini bin=/usr/local/bin units=/etc/systemd/system
readonly settings=/etc/mini/minid.env data=/var/lib/mini proxy_data=/var/lib/mini-proxy user=mini-proxy
readonly daemon=/etc/docker/daemon.json engine_socket=/run/docker.sock
readonly all_units=(mini-controller.service mini-proxy.service mini-proxy.socket mini-proxy-https.socket mini-recover.service)
readonly keep_releases=3 wait_s=60

say() { printf '%s\n' "$*"; }
die() { # MESSAGE [HINT]
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2
  exit 1
}

# --- before anything is changed

check_machine() {
  [ "$(id -u)" = 0 ] || die 'this needs root' "run it with sudo"
  [ "$(uname -s)" = Linux ] || die "this is $(uname -s); a server is a Linux machine"
  local like=''
  # shellcheck source=/dev/null
  like=$(. /etc/os-release 2>/dev/null && printf '%s %s' "${ID:-}" "${ID_LIKE:-}") || true
  case " $like " in
    *' debian '* | *' ubuntu '*) ;;
    *) die "this is ${like:-an unknown system}, neither Debian nor Ubuntu" 'install on Debian 12 or Ubuntu 22.04 or newer' ;;
  esac
  [ -d /run/systemd/system ] || die 'systemd does not run here' 'a container is no server; start `minid run` by hand there'
}

# Names who listens at a port of ours, unless it is us.
port_taken() {
  local port=$1 unit=$2 line
  if systemctl is-active --quiet "$unit" 2>/dev/null; then return 1; fi
  line=$(ss -Hltnp "sport = :$port" 2>/dev/null | head -n 1)
  [ -n "$line" ] || return 1
  case $line in
    *'users:(("'*) line=${line#*users:((\"} && printf '%s (process %s)' "${line%%\"*}" "$(printf '%s' "$line" | sed -n 's/.*pid=\([0-9]*\).*/\1/p')" ;;
    *) printf 'something' ;;
  esac
}

check_ports() {
  local port unit who
  for port in 80 443; do
    unit=mini-proxy.socket
    [ $port = 80 ] || unit=mini-proxy-https.socket
    if who=$(port_taken $port $unit); then
      die "port $port is in use by $who; nothing was changed" \
        "stop it and keep it from coming back (for a service: systemctl disable --now NAME), then run this again"
    fi
  done
}

machine_of() { # the kernel's word for what a program was built for
  case $(od -An -tx1 -j18 -N1 "$1" | tr -d ' \n') in 3e) echo x86_64 ;; b7) echo aarch64 ;; *) echo another ;; esac
}

# Fetches and unpacks what --from names, so that $from is a folder with the three programs.
get_programs() {
  local archive='' name
  case $from in
    https://*)
      command -v curl >/dev/null || install_packages curl ca-certificates
      archive=$work/archive.tar.gz
      curl -fsSL --retry 3 -o "$archive" "$from" || die "$from could not be fetched" 'open the address in a browser: is it right?'
      curl -fsSL --retry 3 -o "$work/sum" "$from.sha256" || die "$from.sha256 could not be fetched" 'the archive is used only with its SHA-256 beside it'
      [ "$(sha256sum <"$archive" | cut -c1-64)" = "$(cut -c1-64 "$work/sum")" ] ||
        die "$from is not what $from.sha256 says" 'fetch it again; if that does not help, do not use it'
      ;;
    http://*) die 'an archive is fetched over https only' ;;
    *) if [ -d "$from" ]; then :; elif [ -f "$from" ]; then archive=$from; else die "--from $from: there is no such folder or file"; fi ;;
  esac
  if [ -n "$archive" ]; then
    mkdir "$work/programs"
    tar -xzf "$archive" --no-same-owner -C "$work/programs" || die "$from is not a .tar.gz, or is damaged"
    name=$(find "$work/programs" -type f -name minid | head -n 1)
    [ -n "$name" ] || die "$from holds no minid"
    from=$(dirname "$name")
  fi
  for name in mini minid mini-static; do
    [ -f "$from/$name" ] || die "$from holds no $name" 'it must hold mini, minid and mini-static'
    [ "$(machine_of "$from/$name")" = "$(uname -m)" ] ||
      die "$from/$name is for $(machine_of "$from/$name"), this machine is $(uname -m)" "use the release for $(uname -m)"
  done
}

# --- steps; each leaves alone what is right

install_packages() {
  say "Installing $* (apt)"
  apt-get update -qq >"$work/apt" 2>&1 || true
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
    apt-get install -yq --no-install-recommends "$@" >>"$work/apt" 2>&1 </dev/null ||
    { tail -n 15 "$work/apt" >&2; die "apt could not install $*" 'the lines above say why; then run this again'; }
}

engine_answers() { curl -fsS -m 5 --unix-socket $engine_socket http://docker/_ping >/dev/null 2>&1; }

ensure_engine() {
  command -v curl >/dev/null || install_packages curl ca-certificates
  command -v dockerd >/dev/null || install_packages docker.io
  engine_answers || systemctl enable --quiet --now docker 2>"$work/engine" || true
  local _
  for _ in $(seq 1 $wait_s); do
    engine_answers && return
    sleep 1
  done
  cat "$work/engine" >&2 2>/dev/null || true
  die 'the Docker Engine does not answer' 'journalctl -u docker says why; then run this again'
}

# Containers that run on while the engine is restarted or upgraded.
ensure_live_restore() {
  local old=''
  [ ! -f $daemon ] || old=$(cat $daemon)
  case $(printf '%s' "$old" | tr -d ' \t\n') in
    *'"live-restore":true'*) return ;;
    *'"live-restore":false'*)
      say "note: $daemon has live-restore off; it stays so, and apps stop when the engine is restarted"
      return
      ;;
    '' | '{}') printf '{\n  "live-restore": true\n}\n' >"$work/daemon.json" ;;
    '{'*'}') printf '%s\n' "$old" | awk '!done && sub(/\{/, "{\n  \"live-restore\": true,") { done = 1 } { print }' >"$work/daemon.json" ;;
    *) die "$daemon is not a JSON object" 'repair it, then run this again' ;;
  esac
  mkdir -p /etc/docker
  [ ! -f $daemon ] || cp -p $daemon $daemon.before-mini
  install -m 644 "$work/daemon.json" $daemon
  systemctl reload docker || true
  curl -fsS -m 10 --unix-socket $engine_socket http://docker/info 2>/dev/null | grep -q '"LiveRestoreEnabled":true' ||
    say "note: the engine has not taken over live-restore yet; it does when it is restarted"
  say 'Engine: live-restore is on'
}

ensure_user() {
  getent passwd $user >/dev/null || {
    useradd --system --user-group --no-create-home --home-dir $proxy_data --shell /usr/sbin/nologin $user
    say "User $user made"
  }
}

ensure_folders() {
  install -d -m 700 -o root -g root $data
  install -d -m 700 -o $user -g $user $proxy_data
  install -d -m 755 /etc/mini
}

ensure_programs() {
  local id version name
  version=$("$from/minid" --version) || die "$from/minid does not run here" 'a message above says why; is the system older than Debian 12 or Ubuntu 22.04?'
  id=${version##* }-$(cat "$from/minid" "$from/mini" "$from/mini-static" | sha256sum | cut -c1-12)
  if [ ! -d "$lib/releases/$id" ]; then
    mkdir -p "$lib/releases"
    rm -rf "$lib/releases/.new"
    mkdir "$lib/releases/.new"
    for name in mini minid mini-static; do install -m 755 "$from/$name" "$lib/releases/.new/$name"; done
    mv "$lib/releases/.new" "$lib/releases/$id"
  fi
  if [ "$(readlink $lib/current 2>/dev/null)" != "releases/$id" ]; then
    # A rename, so that there is always a whole one.
    if [ -L $lib/current ]; then
      ln -sfn "$(readlink $lib/current)" $lib/previous.new
      mv -T $lib/previous.new $lib/previous
    fi
    ln -sfn "releases/$id" $lib/current.new
    mv -T $lib/current.new $lib/current
    programs_changed=yes
    say "Programs: $id"
  fi
  for name in mini minid; do
    [ "$(readlink $bin/$name 2>/dev/null)" = ../lib/mini/current/$name ] || ln -sfn ../lib/mini/current/$name $bin/$name
  done
}

# Releases that nothing leads to any more, but for the last few.
forget_old_releases() {
  local current previous release
  current=$(basename "$(readlink $lib/current)")
  previous=$(basename "$(readlink $lib/previous 2>/dev/null)")
  find $lib/releases -mindepth 1 -maxdepth 1 -type d -printf '%T@ %f\n' | sort -rn | cut -d' ' -f2 | tail -n +$((keep_releases + 1)) |
    while read -r release; do [ "$release" = "$current" ] || [ "$release" = "$previous" ] || rm -rf "${lib:?}/releases/$release"; done
}

own_address() {
  ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p' | head -n 1
}

setting() { sed -n "s/^$1=//p" $settings 2>/dev/null | tail -n 1; }

ensure_settings() {
  if [ ! -f $settings ]; then
    [ -n "$domain" ] || domain=$address.nip.io
    cat >"$work/env" <<END
# Settings of minid: the environment twins of its flags (minid controller --help).
# After a change: systemctl restart mini-controller && systemctl restart mini-proxy
MINID_DATA_DIR=$data
MINID_PROXY_DIR=$proxy_data
MINID_API_SOCKET=/run/mini/api.sock
MINID_DOMAIN=$domain
MINID_ENGINE=dedicated
END
    install -m 644 "$work/env" $settings
    settings_changed=yes
  elif [ -n "$domain" ] && [ "$(setting MINID_DOMAIN)" != "$domain" ]; then
    sed "s/^MINID_DOMAIN=.*/MINID_DOMAIN=$domain/" $settings >"$work/env"
    grep -q '^MINID_DOMAIN=' "$work/env" || printf 'MINID_DOMAIN=%s\n' "$domain" >>"$work/env"
    install -m 644 "$work/env" $settings
    settings_changed=yes
  fi
  domain=$(setting MINID_DOMAIN)
  [ -z "$settings_changed" ] || say "Domain: apps are served at APP.$domain"
}

ensure_units() {
  units_changed=$("$bin/minid" units $units) || die "the units could not be written to $units"
  [ -z "$units_changed" ] || systemctl daemon-reload
  systemctl enable --quiet "${all_units[@]}"
}

# Starts what does not run, and of what runs only what has changed.
ensure_running() {
  local fresh=''
  systemctl is-active --quiet mini-proxy.service || fresh=yes
  systemctl start mini-proxy.socket mini-proxy-https.socket ||
    die 'ports 80 and 443 could not be opened' 'systemctl status mini-proxy.socket mini-proxy-https.socket says why'
  if [ -n "$settings_changed" ] || printf '%s' "$units_changed" | grep -q mini-proxy; then
    # The sockets stay open: what arrives meanwhile waits.
    systemctl restart mini-proxy.service || failed mini-proxy
  elif [ -n "$fresh" ]; then
    systemctl start mini-proxy.service || failed mini-proxy
  elif [ -n "$programs_changed" ]; then
    systemctl reload mini-proxy.service || failed mini-proxy
  fi
  if [ -n "$settings_changed$programs_changed" ] || printf '%s' "$units_changed" | grep -q mini-controller; then
    systemctl restart mini-controller.service || failed mini-controller
  else
    systemctl start mini-controller.service || failed mini-controller
  fi
}

failed() {
  journalctl -u "$1" -n 15 --no-pager >&2 || true
  die "$1 did not start" "journalctl -u $1 says why"
}

door() { curl -fsS -k -m 5 -o /dev/null -H 'Host: localhost' "$1://127.0.0.1/v1/health" 2>"$work/door"; }

await_door() {
  local scheme deadline=$((SECONDS + wait_s))
  for scheme in http https; do
    until door $scheme; do
      [ $SECONDS -lt $deadline ] || { cat "$work/door" >&2; journalctl -u mini-controller -u mini-proxy -n 15 --no-pager >&2 || true; die "the door does not answer over $scheme" '`minid status` and the lines above say why'; }
      sleep 0.2
    done
  done
}

fingerprint() { "$bin/minid" status --json 2>/dev/null | tr ',{}' '\n\n\n' | sed -n 's/^ *"fingerprint": *"\([0-9a-f]*\)".*/\1/p' | head -n 1; }

# --- the two verbs

install_all() {
  check_machine
  check_ports
  get_programs
  [ -n "$address" ] || address=$(own_address)
  [ -n "$address" ] || [ -n "$domain" ] || [ -f $settings ] ||
    die 'this machine has no route to the world, so its address is not known' 'name it with --address IP, or a domain with --domain NAME'
  ensure_engine
  ensure_live_restore
  ensure_user
  ensure_folders
  ensure_programs
  ensure_settings
  ensure_units
  ensure_running
  await_door
  # An upgrade that was cut off before is over: what runs now is not to be taken back at the next boot.
  rm -f $data/upgrade.json
  forget_old_releases

  local token='' print=''
  print=$(fingerprint)
  if [ -z "$("$bin/minid" token list)" ]; then
    token=$("$bin/minid" token create --name first) || die 'the first token could not be made' '`minid token create --name NAME` makes one'
  fi
  say ''
  "$bin/minid" doctor || say 'note: the platform runs, and `minid doctor` above names what is not right'
  say ''
  say "mini runs: https://$address, apps at APP.$domain"
  say "fingerprint of its certificate: $print"
  if [ -n "$token" ]; then
    say 'To use it from your machine (the token is shown this once):'
    say "  mini login https://$address --fingerprint $print --token $token"
  fi
}

uninstall() {
  local server='' id
  check_machine
  if [ -n "$purge" ] && command -v docker >/dev/null; then
    server=$("$bin/minid" status --json 2>/dev/null | tr ',{}' '\n\n\n' | sed -n 's/^ *"server_id": *"\([^"]*\)".*/\1/p' | head -n 1)
  fi
  systemctl disable --quiet --now "${all_units[@]}" 2>/dev/null || true
  # Only now: a controller that runs would put it back, so that this is refused.
  "$bin/minid" firewall remove >/dev/null 2>&1 || true
  rm -f "${all_units[@]/#/$units/}"
  systemctl daemon-reload
  rm -rf $lib
  rm -f $bin/mini $bin/minid
  if [ -z "$purge" ]; then
    say "mini is gone; its data is in $data and $proxy_data, its settings in $settings, and apps' containers run on"
    say 'hint: install.sh brings it back as it was; `install.sh uninstall --purge` takes these too'
    return
  fi
  if [ -n "$server" ]; then
    for id in $(docker ps -aq --filter "label=mini.server=$server"); do docker rm -f "$id" >/dev/null || true; done
    for id in $(docker volume ls -q --filter "label=mini.server=$server"); do docker volume rm "$id" >/dev/null || true; done
    for id in $(docker network ls -q --filter "label=mini.server=$server"); do docker network rm "$id" >/dev/null || true; done
  elif [ -d $data ]; then
    say "note: the server's id could not be asked, so containers and volumes are left: docker ps -a --filter label=mini.server"
  fi
  rm -rf $data $proxy_data /etc/mini /run/mini
  userdel $user 2>/dev/null || true
  say 'mini and all its data are gone; the Docker Engine stays'
}

main() {
  from='' domain='' address='' purge='' programs_changed='' settings_changed='' units_changed=''
  local verb=install
  while [ $# -gt 0 ]; do
    case $1 in
      uninstall) verb=uninstall ;;
      --purge) purge=yes ;;
      --from | --domain | --address)
        [ $# -ge 2 ] || die "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
      -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; return ;;
      *) die "unknown: $1" 'install.sh --help' ;;
    esac
    shift
  done
  [[ ${domain:-a} =~ ^[A-Za-z0-9.-]+$ ]] || die "--domain $domain is not a name"
  [[ ${address:-1} =~ ^[0-9A-Fa-f.:]+$ ]] || die "--address $address is not an address"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  [ $verb = install ] || { uninstall; return; }
  [ -n "$from" ] || from=$(cd "$(dirname "$0")" && pwd)
  install_all
}

# The last line, so that the script is read whole before it does anything.
main "$@"; exit
