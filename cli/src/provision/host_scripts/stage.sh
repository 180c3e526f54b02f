# Makes room for an upload: a directory of the login's alone, and the run's own, with the script that undoes it. Given: $state,
# $run, $login, $revert (a script).
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
mkdir -p "$state/runs/$run" && mkdir "$state/in-$run" && chown "$login" "$state/in-$run" && printf '%s' "$revert" >"$state/runs/$run/revert.sh"
