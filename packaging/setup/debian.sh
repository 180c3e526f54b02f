# shellcheck shell=bash
# Single packages of Debian, unpacked beside the system's own: for setup.sh, which sources this. Their lists and files are in
# its $work: the system's sources are not touched, nothing is installed.

# The mirror that mmdebstrap takes where it is told none: it writes its sources, and is stopped then.
mirror_of_mmdebstrap() {
  as_root mmdebstrap --quiet --mode=root --variant=custom bookworm /dev/null \
    --setup-hook="cp \"\$1\"/etc/apt/sources.list '$work/known.list'; exit 1" >/dev/null 2>&1 || true
  awk '$1 == "deb" { print $(NF - 2); exit }' "$work/known.list" 2>/dev/null
}

# Reads the lists of these suites: from the mirror that this machine uses already, on another distribution than Debian from
# the one that mmdebstrap knows (HELIX_DEBIAN_MIRROR names another).
debian_suites() {
  local mirror suite
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
  if [ -z "$mirror" ] && [ "$(distribution)" != debian ]; then
    mirror=${HELIX_DEBIAN_MIRROR:-$(mirror_of_mmdebstrap)}
  fi
  [ -n "$mirror" ] || { say "apt knows no mirror of Debian; try after: apt-get update"; return 1; }
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  for suite in "$@"; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
  done >"$work/sources.list"
  debian_apt=(apt-get -q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache"
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    # A mirror may be a frozen copy, whose date is over; its signature is still checked.
    -o Acquire::Check-Valid-Until=false)
  # As root, apt downloads as the user _apt, who must be able to write here.
  if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chmod 755 "$work" && chown -R _apt "$work"; fi
  "${debian_apt[@]}" update
}

# Unpacks packages (NAME, NAME=VERSION or NAME/SUITE) into directory $1.
debian_unpack() {
  local into=$1 file
  shift
  (cd "$work" && rm -f ./*.deb && "${debian_apt[@]}" download "$@") || return 1
  for file in "$work"/*.deb; do dpkg -x "$file" "$into" || return 1; done
}
