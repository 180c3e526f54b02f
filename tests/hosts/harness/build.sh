#!/usr/bin/env bash
# Makes what test hosts boot from: OUT/tree for containers, OUT/tree.ext4 for guests (the same files), OUT/bare and
# OUT/bare.ext4, which have nothing of a desktop, OUT/debs, the packages that make a desktop of them, and OUT/id to log in.
#
#   build.sh SUITE OUT MODULES [MIRROR]
#
# root.rs runs it once per suite, as root, in mount and process namespaces of its own: killed, it leaves no mount.
# Its text is part of the cache's name, so a change here makes new roots. No loop device: mke2fs reads the tree.
set -euo pipefail
suite=$1 out=$2 modules=$3 mirror=${4:-}

packages="
  systemd systemd-sysv dbus libpam-systemd udev kmod openssh-server iproute2 iputils-ping procps sudo nftables
  python3 python3-apt"
# Of a desktop, and of its peers.
desktop="
  git ca-certificates dbus-user-session
  tigervnc-standalone-server openbox xterm xrdp dbus-daemon xauth x11-xkb-utils xkb-data fonts-dejavu-core
  supervisor xvfb x11vnc"
# A desktop's, too; no host has it but by apt.
offered="tigervnc-scraping-server"

mkdir -p "$out/debs"
# A frozen mirror's date may be over; its signature is checked all the same.
mmdebstrap --mode=root --variant=minbase --include="$(echo $packages | tr ' ' ,)" \
  --aptopt='Acquire::Retries "3"' --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
  --customize-hook='chroot "$1" apt-get clean' \
  --customize-hook="cp -a --one-file-system \"\$1\" '$out/bare'" \
  --customize-hook="chroot \"\$1\" apt-get install -y -qq --no-install-recommends -o APT::Keep-Downloaded-Packages=true $(echo $desktop)" \
  --customize-hook="chroot \"\$1\" apt-get install -y -qq --download-only --no-install-recommends $offered" \
  --customize-hook="cp \"\$1\"/var/cache/apt/archives/*.deb '$out/debs/'" \
  "$suite" "$out/tree" ${mirror:+"$mirror"}
ssh-keygen -q -t ed25519 -N '' -C test-hosts -f "$out/id"

# What both have in common. Not indented: half of it is text of files.
furnish() {
tree=$1
# The image is for tests, not for installing from: nothing of this machine stays in it, neither mirror nor names.
rm -rf "$tree"/etc/apt/sources.list* "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/* "$tree"/etc/resolv.conf "$tree/etc/hostname"
: >"$tree/etc/fstab"
: >"$tree/etc/machine-id" # empty: every boot makes one of its own
rm -f "$tree"/etc/ssh/ssh_host_*_key* # each start gets its own, see lab-address

# --- who may log in: root, and ops, an operator without rights of his own who may use sudo

chroot "$tree" useradd --create-home --shell /bin/bash ops
echo 'ops ALL=(ALL) NOPASSWD: ALL' >"$tree/etc/sudoers.d/ops"
chmod 440 "$tree/etc/sudoers.d/ops"
install -d -m 700 "$tree/root/.ssh" "$tree/home/ops/.ssh"
install -m 600 "$out/id.pub" "$tree/root/.ssh/authorized_keys"
install -m 600 "$out/id.pub" "$tree/home/ops/.ssh/authorized_keys"
chroot "$tree" chown -R ops: /home/ops/.ssh
cat >"$tree/etc/ssh/sshd_config.d/lab.conf" <<'TEXT'
UseDNS no
HostKey /etc/ssh/ssh_host_ed25519_key
MaxStartups 100
MaxSessions 100
TEXT
# Newer servers shut out an address that connects too often, as one does who waits for a host to come up.
if chroot "$tree" sshd -G -o PerSourcePenalties=no >/dev/null 2>&1; then
  echo 'PerSourcePenalties no' >>"$tree/etc/ssh/sshd_config.d/lab.conf"
fi

# --- address and name: LAB_* in PID 1's environment. nspawn sets it; a kernel hands unknown NAME=VALUE parameters on.

cat >"$tree/usr/local/sbin/lab-address" <<'TEXT'
#!/bin/sh
# Runs before sshd, with nothing but /proc and netlink: sysfs may show another network namespace.
told() { tr '\0' '\n' </proc/1/environ | sed -n "s/^$1=//p" | tail -n 1; }
link=$(ip -o link | sed -n 's/^[0-9]*: \(host0\|vec0\)[@:].*/\1/p' | head -n 1)
hostname "$(told LAB_NAME)" # sethostname: /proc/sys is read-only in a container
ip link set lo up
ip link set "$link" up
ip address replace "$(told LAB_ADDRESS)" dev "$link"
ip route replace default via "$(told LAB_GATEWAY)"
[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
# Files from outside: a bind mount in a container, the part of the outer file system that a guest may see.
if [ "$link" = vec0 ]; then mount -t hostfs none /srv/inbox; fi
TEXT
chmod 755 "$tree/usr/local/sbin/lab-address"
cat >"$tree/etc/systemd/system/lab-address.service" <<'TEXT'
[Unit]
Description=Address and name that the harness gave this host
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup.service
Before=ssh.service network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-address

[Install]
WantedBy=sysinit.target
TEXT
chroot "$tree" systemctl enable --quiet lab-address.service ssh.service

# PID 1 of a container. nspawn hands out version 1 controllers read-only; they are ours, from a cgroup of our own.
cat >"$tree/usr/local/sbin/lab-init" <<'TEXT'
#!/bin/sh
for hierarchy in /sys/fs/cgroup/*; do
  if mountpoint -q "$hierarchy"; then mount -o remount,rw,bind "$hierarchy" 2>/dev/null; fi
done
exec /lib/systemd/systemd --show-status=0
TEXT
chmod 755 "$tree/usr/local/sbin/lab-init"

# --- nothing that only delays a boot

for unit in \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
  systemd-networkd.service systemd-networkd.socket systemd-resolved.service systemd-timesyncd.service \
  systemd-hwdb-update.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
  systemd-random-seed.service systemd-pstore.service systemd-firstboot.service systemd-machine-id-commit.service \
  systemd-binfmt.service proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount \
  systemd-journal-catalog-update.service ldconfig.service nftables.service supervisor.service remote-fs.target \
  systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service \
  sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount \
  keyboard-setup.service console-setup.service getty@.service getty-static.service serial-getty@.service \
  autovt@.service console-getty.service container-getty@.service \
  modprobe@drm.service modprobe@efi_pstore.service modprobe@configfs.service modprobe@fuse.service; do
  ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
mkdir -p "$tree/srv/inbox" "$tree/etc/systemd/system.conf.d" "$tree/etc/systemd/journald.conf.d"
printf '[Manager]\nDefaultTimeoutStartSec=60s\nDefaultTimeoutStopSec=15s\n' >"$tree/etc/systemd/system.conf.d/lab.conf"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n' >"$tree/etc/systemd/journald.conf.d/lab.conf"

# --- the guests' disk: the modules of their kernel, and a small journal, for guests are killed and booted again

mkdir -p "$tree/lib/modules"
cp -a "$modules"/* "$tree/lib/modules/"
for version in "$tree"/lib/modules/*; do chroot "$tree" depmod "$(basename "$version")"; done
truncate -s 4G "$tree.ext4"
mke2fs -q -F -t ext4 -J size=8 -O ^metadata_csum -E lazy_itable_init=0,nodiscard -m 0 -d "$tree" "$tree.ext4"
}

# Where it is there already, xrdp's own service would only delay a boot.
for unit in xrdp.service xrdp-sesman.service; do ln -sf /dev/null "$out/tree/etc/systemd/system/$unit"; done
furnish "$out/tree"
furnish "$out/bare"
