# shellcheck shell=bash disable=SC2034 # read by setup.sh, which sources this
# Packages of each set of packaging/setup.sh. Each line: what proves that it is there (a command, or a file) and the package that brings it.
runtime_packages="
Xtigervnc                                            tigervnc-standalone-server
Xvfb                                                 xvfb
X0tigervnc                                           tigervnc-scraping-server
openbox                                              openbox
xterm                                                xterm
dbus-daemon                                          dbus-daemon
xauth                                                xauth
xkbcomp                                              x11-xkb-utils
/usr/share/X11/xkb/rules/evdev                       xkb-data
/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf  fonts-dejavu-core
xrdp                                                 xrdp
git                                                  git
/etc/ssl/certs/ca-certificates.crt                   ca-certificates"
build_packages="
cc                                                   build-essential
make                                                 make
pkg-config                                           pkg-config
node                                                 nodejs
npm                                                  npm
/usr/include/xcb/xcb.h                               libxcb1-dev
/usr/include/X11/Xlib-xcb.h                          libx11-xcb-dev
/usr/include/xkbcommon/xkbcommon.h                   libxkbcommon-dev
/usr/include/xkbcommon/xkbcommon-x11.h               libxkbcommon-x11-dev
/usr/include/fontconfig/fontconfig.h                 libfontconfig1-dev
/usr/include/freetype2/ft2build.h                    libfreetype-dev"
test_packages="
curl                                                 curl
jq                                                   jq
xtigervncviewer                                      tigervnc-viewer
ffmpeg                                               ffmpeg
/usr/lib/python3/dist-packages/twisted               python3-twisted
/usr/lib/python3/dist-packages/PIL                   python3-pil
/usr/lib/python3/dist-packages/Cryptodome            python3-pycryptodome
xfreerdp                                             freerdp2-x11
rdesktop                                             rdesktop"
libraries=/usr/lib/$(uname -m)-linux-gnu
# What finds a Vulkan driver, and what the driver is linked with where it does not come as a package.
vulkan_packages="
$libraries/libvulkan.so.1                            libvulkan1"
driver_packages="
$libraries/libLLVM-15.so.1                           libllvm15
$libraries/libdrm.so.2                               libdrm2
$libraries/libexpat.so.1                             libexpat1
$libraries/libwayland-client.so.0                    libwayland-client0
$libraries/libX11-xcb.so.1                           libx11-xcb1
$libraries/libxcb-dri3.so.0                          libxcb-dri3-0
$libraries/libxcb-present.so.0                       libxcb-present0
$libraries/libxcb-randr.so.0                         libxcb-randr0
$libraries/libxcb-shm.so.0                           libxcb-shm0
$libraries/libxcb-sync.so.1                          libxcb-sync1
$libraries/libxcb-xfixes.so.0                        libxcb-xfixes0
$libraries/libxshmfence.so.1                         libxshmfence1"
# What Debian 12's driver needs elsewhere: its LLVM comes along, what that is linked with does not.
old_driver_packages="
patchelf                                             patchelf
$libraries/libedit.so.2                              libedit2
$libraries/libxml2.so.2                              libxml2
$libraries/libz3.so.4                                libz3-4
/usr/share/keyrings/debian-archive-keyring.gpg       debian-archive-keyring"
# What the Chromium from npm is linked with.
chromium_packages="
/usr/lib/x86_64-linux-gnu/libnss3.so                 libnss3
/usr/lib/x86_64-linux-gnu/libexpat.so.1              libexpat1"
bench_packages="
Xvfb                                                 xvfb
x11vnc                                               x11vnc
websockify                                           websockify
/usr/share/doc/python3-venv                          python3-venv
xdotool                                              xdotool
scrot                                                scrot
xdpyinfo                                             x11-utils
ffmpeg                                               ffmpeg"
package_packages="
dpkg-deb                                             dpkg
rpmbuild                                             rpm
strip                                                binutils
zstd                                                 zstd"
# What images are built with; uidmap is for users who are not root.
images_packages="
mmdebstrap                                           mmdebstrap
/usr/share/keyrings/debian-archive-keyring.gpg       debian-archive-keyring
unshare                                              util-linux
newuidmap                                            uidmap
tar                                                  tar"
# What signs the archive that the tests of images serve.
images_test_packages="
gpg                                                  gnupg
dpkg-deb                                             dpkg"
# What boots the disks of machine images; qemu-img also writes qcow2 for them.
machines_test_packages="
qemu-system-x86_64                                   qemu-system-x86
qemu-img                                             qemu-utils
/usr/share/OVMF/OVMF_CODE_4M.fd                      ovmf
mformat                                              mtools"
# What the building of images is compared with.
images_bench_packages="
debootstrap                                          debootstrap
buildah                                              buildah"
ansible_packages="
/usr/share/doc/python3-venv                          python3-venv
ssh                                                  openssh-client"
hosts_packages="
systemd-nspawn                                       systemd-container
mmdebstrap                                           mmdebstrap
/usr/share/keyrings/debian-archive-keyring.gpg       debian-archive-keyring
mke2fs                                               e2fsprogs
unshare                                              util-linux
mount                                                mount
ip                                                   iproute2
nft                                                  nftables
ssh                                                  openssh-client"
