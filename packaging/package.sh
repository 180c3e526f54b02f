#!/usr/bin/env bash
# Packs Helix: a .deb and an .rpm each of helixctl, helix-agentd and helix-server, and one .tar.zst of all three. What is in
# them is what packaging/install.sh puts into a tree, by packaging/files.txt; the same programs make the same packages, to
# the byte. Nothing is done where nothing changed. Prints the directory that they are in.
#
#   packaging/package.sh [OPTION...]     (make package, which builds the programs first)
#
#   --bin-dir DIR   the built programs
#   --out DIR       where the packages go; what is there of other versions goes    (without: package beside the programs' directory)
#   --version V     without: the one of Cargo.toml; where the commit has no tag of it, one that comes before it and names the commit
#   --level N       0 to 9: how hard to compress                                    (without: 6)
#   --static        refuse programs that need a C library of the system
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022
source_dir=$(cd "$(dirname "$0")/.." && pwd)
fail() { printf 'package: %s\n' "$@" >&2; exit 1; }
wrong() { printf 'package: %s; see packaging/package.sh --help\n' "$1" >&2; exit 2; }

bin_dir="" out="" version="" level=6 static=no
while [ $# -gt 0 ]; do
  case $1 in
    --static) static=yes ;;
    --bin-dir | --out | --version | --level)
      [ $# -ge 2 ] || wrong "$1 needs a value"
      case $1 in
        --bin-dir) bin_dir=$2 ;;
        --out) out=$2 ;;
        --version) version=$2 ;;
        --level) level=$2 ;;
      esac
      shift ;;
    -h | --help) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) wrong "unknown argument $1" ;;
  esac
  shift
done
[ -n "$bin_dir" ] || wrong "--bin-dir is missing"
case $level in [0-9]) ;; *) wrong "--level $level is none of 0 to 9" ;; esac
out=${out:-$(dirname "$bin_dir")/package}
for tool in dpkg-deb rpmbuild strip objdump tar zstd gzip; do
  command -v "$tool" >/dev/null || fail "$tool is missing" "Next: packaging/setup.sh package"
done

# --- which version, and the time that everything in the packages has

git() { command git -c safe.directory="$source_dir" -C "$source_dir" "$@" 2>/dev/null; }
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct || echo 0)}
export SOURCE_DATE_EPOCH=$epoch
if [ -z "$version" ]; then
  version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$source_dir/Cargo.toml")
  if commit=$(git rev-parse --short=12 HEAD) && ! git describe --exact-match --tags --match "v$version" >/dev/null; then
    # `~` comes before the version itself, and a later commit behind an earlier one.
    version="$version~git$(date -d "@$epoch" +%Y%m%d%H%M%S).$commit"
  fi
fi
case $version in [0-9]*) ;; *) wrong "--version $version does not begin with a digit" ;; esac
case $version in *[!A-Za-z0-9.+~]*) wrong "--version $version has characters other than letters, digits, . + ~" ;; esac
machine=$(uname -m)
case $machine in
  x86_64) arch=amd64 ;;
  aarch64) arch=arm64 ;;
  *) fail "there are no packages for $machine" ;;
esac

# --- the trees

# Each: name of the package, who needs it by packaging/files.txt, its program, the directory of its crate.
packages=("helixctl machine helixctl cli" "helix-agentd runner agentd agentd" "helix-server server helix-server server")
# What desktops need. Without xrdp: its package starts a service that lets in whoever has a login, at every address.
# shellcheck disable=SC1091 # beside this script
desktops=$(. "$source_dir/packaging/packages.sh" && awk 'NF && $2 != "xrdp" { print $2 }' <<<"$runtime_packages" | paste -sd, | sed 's/,/, /g')

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

stage() {
  local name=$1 who=$2 program=$3 root=$work/$1/root file
  "$source_dir/packaging/install.sh" install --destdir "$root" --only "$who" --bin-dir "$bin_dir" >"$work/said" ||
    fail "$(cat "$work/said")"
  install -D -m 644 "$source_dir/LICENSE" "$root/usr/share/doc/$name/copyright"
  for file in "$root"/usr/bin/*; do strip --strip-all "$file"; done
  if readelf -Wl "$root/usr/bin/$program" | grep -q INTERP; then
    [ "$static" = no ] || fail "$bin_dir/$program is not linked statically" "Next: make package"
    needs[$name]=$(objdump -T "$root/usr/bin/$program" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 | sed 's/GLIBC_//')
  fi
  find "$root" -exec touch --no-dereference --date "@$epoch" {} +
}

declare -A needs=()
for package in "${packages[@]}"; do
  # shellcheck disable=SC2086 # words
  stage $package
done

# --- nothing changed: nothing is done

mark=$( (cd "$work" && find . -type f ! -name said -print0 | sort -z | xargs -0 sha256sum
  sha256sum "$source_dir"/packaging/{package.sh,hooks/*} "$source_dir"/{cli,agentd,server}/Cargo.toml | sed "s#$source_dir##"
  echo "$version $epoch $level $desktops") | sha256sum | cut -c 1-64)
if [ "$(cat "$out/mark" 2>/dev/null)" = "$mark" ] && (cd "$out" && sha256sum --check --quiet SHA256SUMS) 2>/dev/null; then
  printf 'package: nothing changed\n' >&2
  echo "$out"
  exit 0
fi
if [ -e "$out" ] && [ ! -e "$out/mark" ] && [ -n "$(ls -A "$out")" ]; then
  fail "$out holds other things, and would be emptied" "Next: name another directory with --out"
fi
made=$work/made
mkdir "$made"

about() { sed -n 's/^description = "\(.*\)"/\1/p' "$source_dir/$1/Cargo.toml"; }
settings() { (cd "$work/$1/root" && find . -path './etc/*' -type f | sed 's#^\.##' | sort); }

# --- Debian's

# A script of the package manager: what the package does, and when. Given: name of the package, file, last line.
script() {
  { printf '#!/bin/sh\nset -e\n' && cat "$source_dir/packaging/hooks/$1.sh" && printf '%s\n' "$3"; } >"$2"
  chmod 755 "$2"
}

deb() {
  local name=$1 crate=$4 root=$work/$1/root meta=$work/$1/root/DEBIAN depends="" size
  size=$(du -k -s --apparent-size "$root" | cut -f 1)
  mkdir "$meta"
  if [ -n "${needs[$name]:-}" ]; then depends="libc6 (>= ${needs[$name]}), "; fi
  if [ "$name" != helixctl ]; then depends+="systemd (>= 252), passwd, "; fi
  {
    printf 'Package: %s\nVersion: %s\nArchitecture: %s\n' "$name" "$version" "$arch"
    printf 'Maintainer: Helix <helix@localhost>\nSection: admin\nPriority: optional\nInstalled-Size: %s\n' "$size"
    case $name in
      helixctl) printf 'Recommends: openssh-client\nSuggests: helix-agentd\n' ;;
      helix-agentd) printf 'Depends: %sdbus\nRecommends: %s\nSuggests: xrdp, helixctl\n' "$depends" "$desktops" ;;
      helix-server) printf 'Depends: %s\nRecommends: helixctl\nSuggests: nats-server (>= 2.11)\n' "${depends%, }" ;;
    esac
    printf 'Description: %s\n' "$(about "$crate")"
  } >"$meta/control"
  if [ "$name" = helixctl ] && [ -n "$depends" ]; then sed -i "/^Recommends/i Depends: ${depends%, }" "$meta/control"; fi
  settings "$name" >"$meta/conffiles"
  [ -s "$meta/conffiles" ] || rm "$meta/conffiles"
  (cd "$root" && find . -path ./DEBIAN -prune -o -type f -print | sed 's#^\./##' | sort | xargs md5sum) >"$meta/md5sums"
  if [ -e "$source_dir/packaging/hooks/$name.sh" ]; then
    script "$name" "$meta/postinst" 'case $1 in configure) installed ;; esac'
    script "$name" "$meta/prerm" 'case $1 in remove) removing ;; esac'
    script "$name" "$meta/postrm" 'case $1 in remove) removed ;; purge) purged ;; esac'
  fi
  find "$meta" -exec touch --date "@$epoch" {} +
  touch --date "@$epoch" "$root"
  # One thread: with more, where the file is cut depends on the machine.
  dpkg-deb --root-owner-group -Zxz "-z$level" --threads-max=1 --build "$root" "$made/${name}_${version}_$arch.deb" >/dev/null
  rm -r "$meta"
  touch --date "@$epoch" "$root"
}

# --- RPM

rpm() {
  local name=$1 crate=$4 root=$work/$1/root spec=$work/$1.spec hook=$source_dir/packaging/hooks/$1.sh config
  {
    printf 'Name: %s\nVersion: %s\nRelease: 1\nSummary: %s\nLicense: Apache-2.0\nAutoReqProv: no\n' "$name" "$version" "$(about "$crate")"
    if [ -n "${needs[$name]:-}" ]; then printf 'Requires: glibc >= %s\n' "${needs[$name]}"; fi
    case $name in
      helixctl) printf 'Recommends: openssh-clients\n' ;;
      helix-agentd) printf 'Requires: systemd >= 252, dbus, shadow-utils\n' ;;
      helix-server) printf 'Requires: systemd >= 252, shadow-utils\n' ;;
    esac
    printf '%%description\n%s\n%%install\ncp -a %s/. %%{buildroot}/\n%%files\n' "$(about "$crate")" "$root"
    (cd "$root" && find . \( -path './usr/share/helix*' -o -path './usr/share/doc/*' \) -type d | sed 's#^\.#%dir #' | sort)
    config=$(settings "$name")
    (cd "$root" && find . -type f | sed 's#^\.##' | sort) | while read -r file; do
      case $'\n'$config$'\n' in *$'\n'$file$'\n'*) printf '%%config(noreplace) %s\n' "$file" ;; *) printf '%s\n' "$file" ;; esac
    done
    # The argument says how many versions there will be. rpm knows no purge: settings, state and users stay.
    if [ -e "$hook" ]; then
      printf '%%post\n' && cat "$hook" && printf 'installed\n'
      printf '%%preun\n' && cat "$hook" && printf 'if [ "$1" = 0 ]; then removing; fi\n'
      printf '%%postun\n' && cat "$hook" && printf 'if [ "$1" = 0 ]; then removed; fi\n'
    fi
  } >"$spec"
  rpmbuild -bb --quiet --target "$machine-linux" --buildroot "$work/$name/buildroot" \
    --define "_topdir $work/rpm" --define "_rpmdir $made" --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "_buildhost helix" --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    --define "debug_package %{nil}" --define "__os_install_post %{nil}" --define "_build_id_links none" \
    --define "_binary_payload w$((level + 1)).zstdio" "$spec" >"$work/said" 2>&1 || fail "rpmbuild: $(cat "$work/said")"
}

for package in "${packages[@]}"; do
  # shellcheck disable=SC2086 # words
  deb $package
  # shellcheck disable=SC2086
  rpm $package
done

# --- for any other system: the same files from the root on, without scripts

for package in "${packages[@]}"; do cp -a "$work/${package%% *}/root/." "$work/all"; done
find "$work/all" -type d -exec touch --date "@$epoch" {} +
tar --directory "$work/all" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --format=gnu \
  --create etc usr | zstd --quiet "-$((level * 2 + 1))" --threads=1 -o "$made/helix-$version-$machine.tar.zst"

(cd "$made" && sha256sum -- * >SHA256SUMS)
echo "$mark" >"$made/mark"
rm -rf "$out.new" "$out"
mkdir -p "$(dirname "$out")"
cp -r "$made" "$out.new"
mv "$out.new" "$out"
echo "$out"
