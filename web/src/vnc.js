// A session's desktop at a port of its runner: noVNC, and the password of a grant. Served by agentd, not by the server.

import RFB from "@novnc/novnc";

const byId = (id) => document.getElementById(id);
const [screen, door, status, password] = ["screen", "door", "status", "password"].map(byId);

/** Says how it is; the door is there while nobody is in. */
function show(state, text) {
  document.documentElement.dataset.state = state;
  status.textContent = text;
  door.hidden = state === "connected";
}

/** Connects with this password; the desktop asks for it. */
function connect(secret) {
  show("connecting", "connecting");
  const rfb = new RFB(screen, `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/websockify`, {
    shared: true,
    credentials: { password: secret },
    wsProtocols: ["binary"],
  });
  rfb.qualityLevel = 8;
  rfb.scaleViewport = true;
  rfb.resizeSession = new URLSearchParams(location.search).get("resize") === "remote";
  rfb.background = "transparent";
  let refused = "";
  rfb.addEventListener("connect", () => {
    show("connected", "connected");
    rfb.focus();
  });
  rfb.addEventListener("securityfailure", (event) => {
    refused = event.detail.reason || "the password is wrong";
  });
  rfb.addEventListener("disconnect", () => {
    show(refused ? "refused" : "disconnected", refused || "the connection has ended");
    password.value = "";
    password.focus();
  });
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  connect(password.value);
});

show("idle", "This desktop asks for a password.");
password.focus();
