"""The ten steps of play.yml for pyinfra."""

from pyinfra import host
from pyinfra.operations import files, server, systemd

data = host.data
server.shell(name="The packages are there", commands=[f"dpkg-query -W {data.packages} >/dev/null"])
payload = files.put(name="Programs, units and kinds", src=data.payload, dest="/var/cache/helix.tar", mode="600")
server.shell(name="Unpacked", commands=["tar -C / --no-overwrite-dir -xf /var/cache/helix.tar"], _if=payload.did_change)
settings = files.put(
    name="Settings", src=f"{data.settings}/{data.runner}.toml", dest="/etc/helix/agentd.toml", mode="600"
)
files.put(
    name="The token that it enrols with", src=f"{data.settings}/token", dest="/etc/helix/enrolment.token", mode="600"
)
server.shell(
    name="Users and directories", commands=["systemd-sysusers", "systemd-tmpfiles --create"], _if=payload.did_change
)
server.shell(
    name="agentd takes its settings", commands=["/usr/bin/agentd run --config /etc/helix/agentd.toml --check-config >/dev/null"], _if=settings.did_change
)
systemd.daemon_reload(name="systemd knows the units", _if=payload.did_change)
systemd.service(name="agentd runs, now and after a boot", service="agentd", running=True, enabled=True)
server.shell(
    name="It has enrolled",
    commands=["timeout 60 sh -c 'until [ -e /var/lib/helix/agentd/enrolled.json ]; do sleep 0.1; done'"],
)
