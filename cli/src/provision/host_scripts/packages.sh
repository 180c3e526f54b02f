# Installs packages; after apt_holder.sh. Given: $state, $packages, $patience (seconds to wait for apt's lock). Says on standard error who holds that.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none
waited=0
while who=$(holder); do
  if [ "$waited" -ge "$patience" ]; then
    echo "apt is held for more than $patience s by $who" >&2
    exit 75
  fi
  sleep 1
  waited=$((waited + 1))
done
# xrdp's own service lets in whoever has a login on this machine, at every address. Sessions have an xrdp of their own.
case " $packages " in
  *' xrdp '*)
    for unit in xrdp.service xrdp-sesman.service; do
      if [ ! -e "/etc/systemd/system/$unit" ]; then ln -s /dev/null "/etc/systemd/system/$unit" && echo "$unit" >>"$state/masked"; fi
    done ;;
esac
# Neither may lose its output's reader on the way, with the connection: dpkg would end in the middle of a package.
log=$state/packages.log
: >"$log" && chmod 600 "$log"
get() { apt-get -o DPkg::Lock::Timeout="$patience" -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 -qq "$@"; }
# Lists that are old are better than none.
get update >>"$log" 2>&1 || echo 'apt-get update failed; the lists of before are used' >&2
# What was cut off before, by whomever, goes on first; what lacks others for that gets them with ours. Nothing is removed.
dpkg --configure -a --force-confold </dev/null >>"$log" 2>&1
# shellcheck disable=SC2086 # a list of words
get install -y --fix-broken --no-remove --no-install-recommends $packages </dev/null >>"$log" 2>&1
code=$?
if [ "$code" != 0 ]; then tail -n 20 "$log" >&2; fi
exit "$code"
