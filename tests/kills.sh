#!/usr/bin/env bash
# Runs the suites of kills by turns, each with a seed of its own, until their account has so many kills:
#
#   tests/kills.sh KILLS
#
# A run counts once its oracle is content, so this may be broken off and called again. The first run that fails ends it: its
# seed is in what it said. The account is ~/.cache/helix-chaos/kills.jsonl (HELIX_KILLS_LOG for another).
set -euo pipefail
wanted=${1:?how many kills}
cd "$(dirname "$0")/.."
account=${HELIX_KILLS_LOG:-${XDG_CACHE_HOME:-$HOME/.cache}/helix-chaos/kills.jsonl}

survived() {
  if [ -e "$account" ]; then awk -F '"kills":' '{ split($2, rest, ","); sum += rest[1] } END { print sum + 0 }' "$account"; else echo 0; fi
}

run() { "${CARGO:-cargo}" test --locked --workspace --test "$@" --nocapture; }

export HELIX_TEST_HOSTS_MINUTES=90
suite=0
while now=$(survived) && [ "$now" -lt "$wanted" ]; do
  echo "kills: $now of $wanted"
  case $suite in
    0) HELIX_CHAOS_ROUNDS=100 run it -- nothing_is_lost_or_left ;;
    1) HELIX_FLEET_SECONDS=900 run hosts -- a_fleet_in_chaos ;;
    2) HELIX_CHAOS_TURNS=1000 run it -- conversations_survive ;;
    3) HELIX_ADOPTION_KILLS=500 HELIX_ADOPTION_SEED=$RANDOM run hosts -- kills_of_agentd_lose_nothing ;;
    4) HELIX_POWER_CUTS=20 run hosts -- power_cuts_lose_nothing ;;
  esac
  suite=$(((suite + 1) % 5))
done
echo "kills: $now, all survived: $account"
