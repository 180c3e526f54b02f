#!/usr/bin/env python3
"""Ansible's inventory of runners: what fleet.toml wants, and what the server knows.

HELIX_FLEET names the file (fleet.toml in the current directory otherwise); its [[host]] tables are those of `helixctl
provision --inventory`. `helixctl runner list --json` (HELIXCTL names another program) adds how each runner is heard
(helix_liveness), and the runners that are in no file, under the names of their machines. A machine that the file calls by
another name than its own is known again by `runner`. Where helixctl finds no server all that is left out: before the first
run there is none.

Groups: runners (those of the file; without a file all that the server knows), unlisted, pool_NAME, label_KEY_VALUE, and
online, suspect, lost.
"""

import json
import os
import re
import subprocess
import sys
import tomllib

# What fleet.toml says of the way to a machine, in Ansible's words.
WAY = {"user": "ansible_user", "port": "ansible_port", "identity": "ansible_ssh_private_key_file"}


def wanted(path):
    """Hosts of fleet.toml: name -> variables."""
    if not os.path.exists(path):
        return {}
    with open(path, "rb") as file:
        fleet = tomllib.load(file)
    defaults = fleet.get("defaults", {})
    hosts = {}
    for entry in fleet.get("host", []):
        said = defaults | entry
        labels = defaults.get("labels", {}) | entry.get("labels", {})
        name, variables = entry["host"], {}
        if "@" in name:
            said["user"], name = name.rsplit("@", 1)
        # An IPv6 address with a port is in brackets.
        way = re.fullmatch(r"\[(.+)\]:(\d+)|([^:]+):(\d+)", name)
        if way:
            name, said["port"] = way[1] or way[3], int(way[2] or way[4])
        name = name.strip("[]")
        if "pool" in said:
            labels["pool"] = said["pool"]
        variables |= {word: said[key] for key, word in WAY.items() if key in said}
        variables |= {f"helix_{key}": said[key] for key in ("runner", "slots") if key in said}
        hosts[name] = variables | {"ansible_host": name, "helix_labels": labels}
    return hosts


def known():
    """Runners that the server knows."""
    program = os.environ.get("HELIXCTL", "helixctl")
    try:
        said = subprocess.run([program, "--json", "runner", "list"], capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as why:
        print(f"fleet.py: without what the server knows: {why}", file=sys.stderr)
        return []
    return json.loads(said.stdout)["runners"]


def inventory():
    """All of it, in Ansible's form."""
    hosts = wanted(os.environ.get("HELIX_FLEET", "fleet.toml"))
    listed = sorted(hosts)
    by_runner = {variables.get("helix_runner", name.replace(".", "-")): name for name, variables in hosts.items()}
    for runner in known():
        facts = runner.get("facts") or {}
        name = by_runner.get(runner["id"]) or facts.get("hostname") or runner["id"]
        added = {"ansible_host": name, "helix_runner": runner["id"], "helix_labels": facts.get("labels", {})}
        variables = hosts.setdefault(name, added)
        variables["helix_liveness"] = runner["liveness"]
    groups = {"runners": listed or sorted(hosts)}
    groups["unlisted"] = [name for name in hosts if name not in groups["runners"]]
    for name, variables in hosts.items():
        words = [f"label_{key}_{value}" for key, value in variables["helix_labels"].items() if key != "pool"]
        words += [f"pool_{variables['helix_labels']['pool']}"] if "pool" in variables["helix_labels"] else []
        words += [variables["helix_liveness"]] if "helix_liveness" in variables else []
        for word in words:
            groups.setdefault(re.sub(r"\W", "_", word), []).append(name)
    return {"_meta": {"hostvars": hosts}} | {group: {"hosts": names} for group, names in groups.items()}


if __name__ == "__main__":
    json.dump({} if "--host" in sys.argv else inventory(), sys.stdout, indent=2)
