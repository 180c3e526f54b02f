# shellcheck shell=bash disable=SC2154 # for setup.sh, which sources this
# What boots whole hosts for the host suites: User-mode Linux, unpacked from Debian's archive where the distribution has none
# that runs here, and room in this machine's kernel.

# All hosts have the kernel's inotify instances of root together: systemd and agentd of each need some ten.
instances=/proc/sys/fs/inotify/max_user_instances instances_wanted=1024
look_for_instances() {
  if [ "$(cat $instances)" -lt $instances_wanted ]; then
    note_part instances "kernel setting for many hosts, until the next boot: fs.inotify.max_user_instances=$instances_wanted"
  fi
}
bring_instances() { echo $instances_wanted | as_root tee $instances >/dev/null; }

# Whether the kernel runs processes here: it starts one that ends at once. Debian 12's dies with it on processors whose
# registers it has no room for (AMX).
kernel_runs() {
  local words=(mem=256M root=/dev/root rootfstype=hostfs ro init=/bin/true con=null con0=null,fd:1) said
  # It aborts either way, as every kernel whose first process ends: how that ended is what counts.
  said=$(sh -c 'timeout 30 linux.uml "$@" 2>&1 | tr -d "\0"' - "${words[@]}" </dev/null 2>/dev/null) || true
  [[ $said == *"Attempted to kill init! exitcode=0x00000000"* ]]
}
look_for_kernel() {
  if ! has linux.uml; then
    # Ubuntu has no package of it.
    if [ "$(distribution)" = debian ]; then missing+=(user-mode-linux)
    else note_part kernel "Debian's user-mode-linux to unpack: /usr/local/bin/linux.uml, /usr/local/lib/uml"
    fi
  elif ! kernel_runs; then
    note_part new_kernel "a newer User-mode Linux to unpack, for this processor: /usr/local/bin/linux.uml, /usr/local/lib/uml"
  fi
}

# From the archive whose mirror and keys mmdebstrap knows; not installed.
bring_kernel() {
  local tree
  tree=$(mktemp -d)
  as_root mmdebstrap --mode=root --variant=extract --include=user-mode-linux bookworm "$tree/root" ||
    fail "Debian's user-mode-linux cannot be had here. Put its linux.uml into PATH and its modules into" \
      "/usr/local/lib/uml/modules, and run this script again."
  as_root install -D -m 755 "$tree/root/usr/bin/linux.uml" /usr/local/bin/linux.uml
  as_root mkdir -p /usr/local/lib/uml
  as_root cp -a "$tree/root/usr/lib/uml/modules" /usr/local/lib/uml/
  as_root rm -rf "$tree"
}

# With the loader and the libraries that it was built for, in a directory of its own. The loader's path is in the program,
# and no longer there than the one that it replaces.
bring_new_kernel() {
  local uml=/usr/local/lib/uml loader=/lib64/ld-linux-x86-64.so.2
  debian_suites testing && debian_unpack "$work/uml" user-mode-linux libc6 || fail "a newer User-mode Linux cannot be had."
  local libraries_of_uml
  libraries_of_uml=$(dirname "$(find "$work/uml" -name libc.so.6 | head -1)")
  as_root mkdir -p "$uml/lib"
  as_root cp -a "$libraries_of_uml"/*.so* "$uml/lib/"
  as_root ln -sf lib/ld-linux-x86-64.so.2 "$uml/ld.so.2"
  python3 - "$work/uml/usr/bin/linux.uml" "$loader" "$uml/ld.so.2" <<'PY'
import sys
path, old, new = sys.argv[1], sys.argv[2].encode() + b"\0", sys.argv[3].encode()
program = open(path, "rb").read()
assert program.count(old) == 1 and len(new) < len(old)
open(path, "wb").write(program.replace(old, new.ljust(len(old), b"\0")))
PY
  as_root install -m 755 "$work/uml/usr/bin/linux.uml" "$uml/linux.uml"
  as_root rm -rf "$uml/modules"
  as_root cp -a "$work/uml/usr/lib/uml/modules" "$uml/"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$uml/lib" "$uml/linux.uml" >"$work/linux.uml"
  as_root install -m 755 "$work/linux.uml" /usr/local/bin/linux.uml
  hash -r
  kernel_runs || fail "User-mode Linux runs no process on this processor; guests cannot be booted here."
}
