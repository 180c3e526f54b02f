# shellcheck shell=bash disable=SC2154 # for setup.sh, which sources this
# Mesa's Vulkan driver for the processor, which Zed draws with: where the distribution's is too old, Debian's backports' beside
# it. And Debian 12's own, for the tests: with it Zed is black, and they prove that doctor sees it.

mesa_oldest=25
# Sessions under systemd see no home directories.
mesa_target=/opt/helix/mesa
mesa_target_without_root="$data/mesa"
old_mesa_target="$data/test/mesa-22"

# The driver that sessions of `helixctl up` will use: agentd looks in the same places (`mesa/`).
vulkan_icd() {
  if [ -n "${HELIX_VULKAN_ICD:-}" ]; then echo "$HELIX_VULKAN_ICD"; return; fi
  { find "$mesa_target" "$mesa_target_without_root" /usr/share/vulkan/icd.d /etc/vulkan/icd.d \
    \( -name lvp_icd.json -o -name "lvp_icd.$(uname -m).json" \) 2>/dev/null || true; } | sed -n 1p
}
# Version of Mesa that a driver's manifest leads to; the library says it about itself.
mesa_version() {
  local library
  library=$(sed -n 's/.*"library_path": *"\([^"]*\)".*/\1/p' "$1" 2>/dev/null) || return 0
  case $library in /*) ;; *) library=$libraries/$library ;; esac
  { grep -aoE 'Mesa [0-9]+\.[0-9]+[.0-9]*' "$library" 2>/dev/null || true; } | sed -n '1s/Mesa //p'
}
mesa_is_good() {
  local icd version
  icd=$(vulkan_icd)
  [ -n "$icd" ] && version=$(mesa_version "$icd") && [ -n "$version" ] && at_least "$version" "$mesa_oldest"
}

look_for_mesa() {
  if mesa_is_good; then return; fi
  if [ -n "${HELIX_VULKAN_ICD:-}" ]; then
    fail "HELIX_VULKAN_ICD=$HELIX_VULKAN_ICD leads to no Mesa of version $mesa_oldest or newer." \
      "Name the lvp_icd*.json of another one, or unset HELIX_VULKAN_ICD to have one brought."
  fi
  if [ "$(release)" = bookworm ] && ! at_least "$(candidate mesa-vulkan-drivers)" "$mesa_oldest"; then
    note_missing "$driver_packages"
    note_part mesa "Mesa's Vulkan driver of Debian's backports to unpack beside the system's own: $mesa_target (without root: $mesa_target_without_root)"
  else
    missing+=(mesa-vulkan-drivers)
  fi
}
look_for_old_mesa() {
  if [ -n "$(mesa_version "$old_mesa_target/lvp_icd.$(uname -m).json")" ]; then return; fi
  if [ "$(release)" = bookworm ]; then note_missing "$driver_packages"; else note_missing "$old_driver_packages"; fi
  note_part old_mesa "Debian 12's own Vulkan driver for the tests to unpack: $old_mesa_target"
}

# Puts the driver that was unpacked into $1 into directory $2, beginning commands with the other words (as_root). Its
# manifest names the library with its whole path: whoever reads it needs no search path.
put_driver() {
  local from=$1 to=$2 manifest
  shift 2
  manifest=$(find "$from/usr/share/vulkan/icd.d" -name 'lvp_icd*.json')
  sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$to/libvulkan_lvp.so\"#" "$manifest" >"$work/lvp_icd.json"
  # Who has the former one open keeps it; the manifest comes last.
  "$@" install -D -m 644 "$from$libraries/libvulkan_lvp.so" "$to/libvulkan_lvp.so.new"
  "$@" mv "$to/libvulkan_lvp.so.new" "$to/libvulkan_lvp.so"
  "$@" install -m 644 "$work/lvp_icd.json" "$to/lvp_icd.$(uname -m).json"
}
# Fails when a library of the driver in directory $1 is not there.
driver_is_whole() {
  local lost
  lost=$(ldd "$1/libvulkan_lvp.so" | awk '/not found/ { print $1 }' | xargs)
  [ -z "$lost" ] || fail "the driver in $1 needs libraries that this machine does not have: $lost"
}

bring_mesa() {
  debian_suites bookworm-backports && debian_unpack "$work/mesa" mesa-vulkan-drivers/bookworm-backports ||
    fail "Mesa $mesa_oldest of Debian's backports cannot be had from this machine's mirror." \
      "Bring a Vulkan driver of Mesa $mesa_oldest or newer and set HELIX_VULKAN_ICD=/path/to/lvp_icd.json."
  if may_be_root; then put_driver "$work/mesa" "$mesa_target" as_root
  else
    mesa_target=$mesa_target_without_root
    put_driver "$work/mesa" "$mesa_target" env
  fi
  driver_is_whole "$mesa_target"
}
fail_for_mesa() {
  fail "Mesa is still older than $mesa_oldest: $(mesa_version "$(vulkan_icd)") ($(vulkan_icd))." \
    "Bring a Vulkan driver of Mesa $mesa_oldest or newer and set HELIX_VULKAN_ICD=/path/to/lvp_icd.json."
}
bring_old_mesa() {
  local old=(mesa-vulkan-drivers=22.3.\*)
  [ "$(release)" = bookworm ] || old+=(libllvm15)
  debian_suites bookworm && debian_unpack "$work/old-mesa" "${old[@]}" || fail "Debian 12's own Mesa cannot be had."
  put_driver "$work/old-mesa" "$old_mesa_target" env
  if [ "$(release)" != bookworm ]; then
    install -m 644 "$work/old-mesa$libraries/libLLVM-15.so.1" "$old_mesa_target/"
    # shellcheck disable=SC2016 # the loader's own word
    patchelf --set-rpath '$ORIGIN' "$old_mesa_target/libvulkan_lvp.so"
  fi
  driver_is_whole "$old_mesa_target"
}
